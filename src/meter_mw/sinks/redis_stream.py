"""The `redis_stream` sink: usage events in a Redis stream, each of them once.

`XADD` is not idempotent before Redis 8.6, so one script a batch looks ids up, appends, and remembers.
The event is the value of the entry's field `ce`. Nothing is trimmed here: `meter-mw forward --from
redis_stream` deletes what every sink has.
"""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import TYPE_CHECKING

from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.envelope import Envelope
from meter_mw.sinks.kinds import TIMEOUT, Form, Option, SinkKind
from meter_mw.sinks.redis_line import (
    SCHEMES,
    NotAsked,
    RedisLine,
    Refused,
    Script,
    Unanswered,
    companion,
    fault_of_key,
    fault_of_url,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger("meter_mw.sinks")

FIELD = b"ce"
"""The field of an entry that holds the event."""

STREAM = "meter-mw:events"
"""The key of the stream, unless the policy names another."""

_DAY = 86_400.0
_MINUTE = 60
_MARK = 16
_PASSING = frozenset({"TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "READONLY", "NOREPLICAS", "BUSY"})

# A script is no transaction: what it wrote before an error stays. So everything that can be wrong is
# looked at first, the entry is written before its mark, and is taken back where the mark is refused:
# at the worst an event comes twice, and none is held for known that is not there.
# Under `maxmemory` the first write is refused and nothing has happened.
_APPEND = Script("""
local function wrong(key, kind)
  local found = redis.call('TYPE', key).ok
  return found ~= 'none' and found ~= kind
end
if wrong(KEYS[1], 'stream') then
  return redis.error_reply('WRONGTYPE the key of the stream holds something else')
end
for index = 2, #KEYS do
  if wrong(KEYS[index], 'set') then
    return redis.error_reply('WRONGTYPE the key of a set of marks holds something else')
  end
end
local found = {}
for at = 2, #ARGV, 3 do
  local marks, mark, event = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local known = redis.call('SISMEMBER', marks, mark)
  if known == 0 then
    local entry = redis.call('XADD', KEYS[1], '*', 'ce', event)
    local added = redis.pcall('SADD', marks, mark)
    if type(added) == 'table' and added.err then
      redis.call('XDEL', KEYS[1], entry)
      return added
    end
  end
  found[#found + 1] = known
end
for index = 2, #KEYS do
  redis.call('EXPIRE', KEYS[index], ARGV[1])
end
return found
""")


class RedisStreamSink:
    """Appends batches to one stream, whose server knows each id again for `remember` seconds.

    What is remembered are marks, 16 bytes of a digest of source and id, in a set for each minute of the
    events' own times: with the id, the time is the same on each attempt. A set expires `remember`
    seconds after the last mark in it. Raises `ValueError` for a URL or a stream that cannot be used.
    """

    max_batch = 100

    def __init__(
        self,
        url: str,
        stream: str = STREAM,
        *,
        remember: float = _DAY,
        timeout: float = 10.0,
        name: str | None = None,
    ) -> None:
        fault = fault_of_key(stream)
        if fault:
            raise ValueError(fault)
        self._line = RedisLine(url, timeout)
        self._stream = stream
        self._remember = max(1, int(remember))
        self.horizon: float | None = float(self._remember)
        self._seen = 0
        self.name = name or f"redis_stream:{self._line.place}/{stream}"

    def __repr__(self) -> str:
        return f"RedisStreamSink({self._line.place!r}, {self._stream!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Append those of the batch that are not known, by one call."""
        read = [Envelope.of(payload) for payload in batch]
        outcomes: list[Outcome | None] = [None if each else Permanent("is no CloudEvent") for each in read]
        sent = [(payload, each) for payload, each in zip(batch, read, strict=True) if each]
        answers = iter(self._append(sent) if sent else [])
        return [outcome or next(answers) for outcome in outcomes]

    def close(self) -> None:
        """Close the connection."""
        self._line.close()

    def _append(self, events: Sequence[tuple[bytes, Envelope]]) -> Sequence[Outcome]:
        keys: dict[str, int] = {self._stream: 1}
        arguments: list[object] = [self._remember]
        for payload, envelope in events:
            key = companion(self._stream, f"known:{_minute(envelope)}")
            arguments += (keys.setdefault(key, len(keys) + 1), _mark(envelope), payload)
        try:
            self._look()
            known = self._line.run(_APPEND, list(keys), arguments)
        except NotAsked as failure:
            return [Retry(reason=str(failure))] * len(events)
        except Unanswered as failure:
            return [Unknown(str(failure))] * len(events)
        except Refused as refusal:
            return [self._refused(refusal)] * len(events)
        if not isinstance(known, list) or len(known) != len(events):
            return [Unknown("an answer that cannot be read")] * len(events)
        return [Duplicate() if each else Delivered() for each in known]

    def _look(self) -> None:
        """See at each connection whether the server keeps what it is given."""
        self._line.connect()
        if self._line.openings == self._seen:
            return
        self._seen = self._line.openings
        try:
            found = self._line.call("INFO")
        except Refused:  # by an ACL
            return
        told = dict(line.split(b":", 1) for line in bytes(found).split(b"\r\n") if b":" in line)  # type: ignore[call-overload]  # INFO is a text
        policy = told.get(b"maxmemory_policy", b"noeviction").decode()
        if policy != "noeviction":
            _log.error(
                "%r: maxmemory-policy is %s: the server may delete events; set noeviction", self, policy
            )
        if told.get(b"aof_enabled") == b"0":
            _log.warning("%r: appendonly is off: a restart of the server loses what waits there", self)

    def _refused(self, refusal: Refused) -> Retry:
        if refusal.word not in _PASSING:
            _log.error("%r: %.300s: check the server; events wait", self, refusal)
        return Retry(reason=f"redis at {self._line.place} refused: {refusal!s:.200}")


def _mark(envelope: Envelope) -> bytes:
    return sha256(f"{envelope.source}\0{envelope.id}".encode()).digest()[:_MARK]


def _minute(envelope: Envelope) -> int:
    moment = envelope.moment
    return int(moment if moment is not None else 0.0) // _MINUTE


KIND = SinkKind(
    "redis_stream",
    Option(
        Form.ADDRESS,
        "a URL such as redis://events.internal:6379/0",
        needed=True,
        words=SCHEMES,
        fault=fault_of_url,
    ),
    {
        "stream": Option(Form.TEXT, "the key of a stream", default=STREAM, fault=fault_of_key),
        "remember": Option(
            Form.LENGTH, "a time such as 1 day, 1 min to 90 days", default=_DAY, least=60, most=90 * 86_400
        ),
        "timeout": TIMEOUT,
    },
    lambda settings, _: RedisStreamSink(
        settings.text("redis_stream"),
        settings.text("stream"),
        remember=settings.seconds("remember"),
        timeout=settings.seconds("timeout"),
    ),
)
