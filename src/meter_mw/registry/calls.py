"""What is asked of Redis about keys, and what it answers; pure.

Rule 1: all records of a service are fields of one hash: a key's under its pseudonym, the terms of a subject
under its name, which begins like no pseudonym.
Rule 2: a change says what it has read, and changes nothing where that is no longer so; repeated, it is
answered as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from meter_mw.registry.records import GarbledRecord
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meter_mw.stores.redis_protocol import Call

_FIND = """
local key = redis.call('HGET', KEYS[1], ARGV[1])
if not key then return false end
local sound, terms = pcall(function()
  return redis.call('HGET', KEYS[1], cjson.decode(key).subject)
end)
return {key, sound and terms or ''}
"""

_CHANGE = """
for i = 1, #ARGV, 3 do
  local held = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  if held ~= ARGV[i + 1] and held ~= ARGV[i + 2] then return 0 end
end
for i = 1, #ARGV, 3 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2]) end
return 1
"""

_PAGE = 1000
"""Records that one step of a listing looks at."""


@runtime_checkable
class Asker(Protocol):
    """A store that also answers plain commands, for callers that may block."""

    def ask(self, calls: Sequence[Call], *, patience_us: int) -> Sequence[object]:
        """Have all of `calls` answered in one round trip, or raise StoreUnavailable."""
        ...

    def now_us(self) -> int:
        """Give the best guess at the store's time, without asking it."""
        ...


@runtime_checkable
class AsyncAsker(Protocol):
    """A store that also answers plain commands, for callers on an event loop."""

    async def ask(self, calls: Sequence[Call], *, patience_us: int) -> Sequence[object]:
        """Have all of `calls` answered in one round trip, or raise StoreUnavailable."""
        ...

    def now_us(self) -> int:
        """Give the best guess at the store's time, without asking it."""
        ...


class Change(NamedTuple):
    """What a field is to hold in place of what it held, "" for nothing."""

    field: str
    held: str
    holds: str


def find_call(service: str, key: str) -> Call:
    """Give the call that finds a key by its pseudonym, with the terms of its subject."""
    return ("EVAL", _FIND, 1, _records(service), key)


def found(reply: object) -> tuple[bytes, bytes] | None:
    """Read the records of a key and of its terms, None where it is not known."""
    match reply:
        case None:
            return None
        case [bytes(key), bytes(terms)]:
            return key, terms
    raise GarbledRecord(f"expected the records of a key and of its terms, got {reply!r:.200}")


def read_call(service: str, field: str) -> Call:
    """Give the call that reads one record."""
    return ("HGET", _records(service), field)


def page_call(service: str, cursor: int, prefix: str = "") -> Call:
    """Give the call that reads some of the records whose fields begin so; a * in the prefix is anything."""
    matching = ("MATCH", f"{prefix}*") if prefix else ()
    return ("HSCAN", _records(service), cursor, *matching, "COUNT", _PAGE)


def page(reply: object) -> tuple[int, dict[str, bytes]]:
    """Read where the next page begins, 0 for nowhere, and the records of this one."""
    match reply:
        case [bytes(cursor), [*flat]]:
            texts = [each for each in flat if isinstance(each, bytes)]
            return int(cursor), dict(zip((each.decode() for each in texts[::2]), texts[1::2], strict=True))
    raise GarbledRecord(f"expected a page of records, got {reply!r:.200}")


def change_call(service: str, changes: Iterable[Change]) -> Call:
    """Give the call that makes all of `changes`, or none."""
    return ("EVAL", _CHANGE, 1, _records(service), *(part for each in changes for part in each))


def forget_call(service: str, fields: Iterable[str]) -> Call:
    """Give the call that deletes records, as if they had never been."""
    return ("HDEL", _records(service), *fields)


def now_us(reply: object) -> int:
    """Read the answer to `TIME`."""
    match reply:
        case [bytes(seconds), bytes(microseconds)]:
            return int(seconds) * 1_000_000 + int(microseconds)
    raise StoreUnavailable(f"expected a time, got {reply!r:.200}")


def _records(service: str) -> str:
    return f"mw:keys:{service}"
