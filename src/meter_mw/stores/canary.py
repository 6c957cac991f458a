"""Canaries: keys by which the store tells that it has lost what it was told.

Rule 1: each estate has its own in each part of the store (a node of a cluster), written about once a second
by whoever holds the estate, and by nobody else: what is found is what was written last, or data is lost.
Rule 2: a canary carries how far the estate's closings were settled when it was written. So what a store that
went back to an older copy still has is told by that copy itself, to the closing.
Rule 3: one that was found older, or missing, is left as it is until the loss is on record: who is killed
meanwhile leaves it to be found again. Until everything is brought back all processes are told so.
Rule 4: a server that was started anew, or took another's place, may have lost what came after the canary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from meter_mw.stores.echoes import new_echo
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meter_mw.stores.redis_protocol import Call

LEARN_US = 5_000_000
"""How long others are given to find that data is lost, and to bring back what they have (µs)."""

_KEPT_MS = 40 * 86_400_000
_PATIENCE_US = 1_000_000

# KEYS     the canary, its twin (either may be evicted), and until when counts are being brought back
# ARGV[1]  the time that was written last, or nothing where any will do; [2] what else the canary says;
#      [3]  the us from now on that counts are being brought back by the caller; [4] ms that keys live;
#      [5]  which run of the server it was, or nothing where that is not known; [6] the us from now on that
#           counts are being brought back where data is found to be lost; [7] what the reply ends with
# Replies  {'lost', 'restarted' or '', what is found, now, until when counts are being brought back, the run,
#           the echo}
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found, at = '', -1
for k = 1, 2 do
  local value = redis.call('GET', KEYS[k])
  local written = value and tonumber(string.match(value, '^(%d+)'))
  if written and written > at then
    found, at = value, written
  end
end
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local lost = ARGV[1] ~= '' and at < tonumber(ARGV[1])
local restarted = ARGV[5] ~= '' and run ~= '' and run ~= ARGV[5]
local learns = math.max(tonumber(ARGV[3]), lost and tonumber(ARGV[6]) or 0)
local stored = redis.call('GET', KEYS[3])
local till = stored and tonumber(stored) or 0
if learns > 0 and now + learns > till then
  till = now + learns
  redis.call('SET', KEYS[3], string.format('%.0f', till), 'PX', math.ceil(learns / 1000) + 1000)
end
if not lost and not restarted then
  found = string.format('%.0f', now) .. '|' .. ARGV[2]
  redis.call('SET', KEYS[1], found, 'PX', ARGV[4])
  redis.call('SET', KEYS[2], found, 'PX', ARGV[4])
end
local status = lost and 'lost' or restarted and 'restarted' or ''
return {status, found, string.format('%.0f', now), string.format('%.0f', till), run, ARGV[7]}
"""


class Written(NamedTuple):
    """When a canary was written last (µs of the store's time, 0 for never), and in which run of it."""

    at_us: int
    run: str


@dataclass(frozen=True, slots=True)
class Beat:
    """What one part of the store answered: the time of the canary there, and until when others bring back.

    `lost` says that data is lost; then `at_us` is the moment that the part went back to, 0 for its beginning,
    and `said` is what the canary said at that moment. `restarted` says that what came after that may be lost.
    Times are the store's, in µs.
    """

    part: str
    lost: bool
    restarted: bool
    at_us: int
    said: str
    now_us: int
    learn_until_us: int
    run: str

    @property
    def is_fine(self) -> bool:
        """Whether the canary was written."""
        return not (self.lost or self.restarted)


@runtime_checkable
class Asked(Protocol):
    """A store that answers any command."""

    def parts(self) -> Sequence[str]:
        """Give a hash tag for each part that may lose data by itself."""

    def part_of(self, tag: str) -> str:
        """Give which of the parts a tag is in; "" where that is not known."""

    def ask(self, calls: Sequence[Call], *, patience_us: int) -> list[object]:
        """Have commands answered, or raise StoreUnavailable."""


def beat(store: Asked, estate: str, last: dict[str, Written], said: str, *, learn_us: int = 0) -> list[Beat]:
    """Write the canaries of an estate, each where it is what was written `last`; or raise StoreUnavailable.

    `last` gives the writing by part; one that it does not name is written for the first time.
    """
    parts = store.parts()
    calls: list[Call] = []
    for part in parts:
        name = _name(part, estate)
        keys = (name, f"{name}:twin", f"mw:{{{part}}}:learning")
        known = last.get(part)
        expected = str(known.at_us) if known and known.at_us else ""
        run = known.run if known else ""
        calls.append(
            ("EVAL", _SCRIPT, 3, *keys, expected, said, learn_us, _KEPT_MS, run, LEARN_US, new_echo())
        )
    replies = store.ask(calls, patience_us=_PATIENCE_US)
    return [_read(part, reply) for part, reply in zip(parts, replies, strict=True)]


def clear(store: Asked, estate: str, parts: Iterable[str]) -> None:
    """Delete the canaries of an estate that is no more; raises StoreUnavailable."""
    calls: list[Call] = [("DEL", name, f"{name}:twin") for name in (_name(part, estate) for part in parts)]
    if calls:
        store.ask(calls, patience_us=_PATIENCE_US)


def _name(part: str, estate: str) -> str:
    return f"mw:{{{part}}}:canary:{estate}"


def _read(part: str, reply: object) -> Beat:
    match reply:
        case [bytes(status), bytes(found), bytes(now), bytes(until), bytes(run), bytes(_)]:
            at, _, said = found.decode("ascii", "replace").partition("|")
            at_us = int(at) if at.isdigit() else 0
            lost, restarted = status == b"lost", status == b"restarted"
            return Beat(part, lost, restarted, at_us, said, int(now), int(until), run.decode())
    raise StoreUnavailable(f"a canary's answer was expected, got {reply!r:.100}")
