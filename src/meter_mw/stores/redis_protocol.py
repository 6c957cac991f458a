"""What goes to `meter.lua` and what comes back: commands as arguments, replies as values; pure.

Rule 1: a command is one call of one script, whatever it charges and whosever; the keys of one holder share
a hash tag, the subject's and its keys' the same.
Rule 2: what is asked and answered travels packed (MessagePack), its numbers as integers, never as floats.
Rule 3: a call may be sent again as it is: the rid makes it idempotent.
Rule 4: a reply ends with the echo of its call, so that one which strayed is never taken for another's.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec
from hiredis import pack_command

from meter_mw.quota import Rate, Slots, Span, closing_of
from meter_mw.stores.echoes import SIZE, new_echo
from meter_mw.stores.port import (
    NO_WINDOWS,
    Admit,
    Cancel,
    Closed,
    Note,
    Outcome,
    Reading,
    StoreUnavailable,
    Tally,
    TopUp,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.model import RequestId
    from meter_mw.quota import Cap
    from meter_mw.stores.port import Booking, Charge, Closing

Argument: TypeAlias = bytes | str | int
Call: TypeAlias = tuple[Argument, ...]
"""A Redis command: its name, and its arguments."""

SCRIPT = files("meter_mw.stores").joinpath("meter.lua").read_text("utf-8")
DIGEST = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What Redis knows the script by (EVALSHA)."""

SERVER_CLOCK = -1
"""Says that the server's own clock is to decide."""

_HOLDER = re.compile(r"[A-Za-z0-9_-]{1,64}(:[a-z][A-Za-z0-9_-]{1,64})?")
_MINUTE_MS = 60_000
_HELD, _SHADOW = 1, 2
_encoder = msgspec.msgpack.Encoder()
_tallies = msgspec.msgpack.Decoder(list[str | int | list[int]])
_closings = msgspec.msgpack.Decoder(tuple[str, int, list[tuple[int, int, int, int]] | dict[str, int]])
"""Lua packs an empty table as a mapping."""
_T = TypeVar("_T")
_VERDICTS = {each.value: each for each in Verdict}
_OUTCOMES = {each.value: each for each in Outcome}


class GarbledReply(StoreUnavailable):
    """A reply that `meter.lua` does not give."""


def admit_call(command: Admit | TopUp, clock: int) -> Call:
    """Give the call that decides `command`; `clock` is the time in µs, or SERVER_CLOCK."""
    keys = _Keys(command.tag, command.rid)
    asked: list[object] = ["topup", clock, command.not_after_us, command.lease_us, "none"]
    after = b""
    if isinstance(command, Admit):
        asked[0], asked[4] = "admit", command.on_deny.value
        after = b"" if command.after is None else _bytes_of(command.after)
    for charge in command.charges:
        asked += keys.charge(charge)
    return keys.call(asked, after)


def closing_call(closing: Closing, clock: int) -> Call:
    """Give the call that settles or cancels."""
    keys = _Keys(closing.tag, closing.rid)
    asked: list[object] = ["cancel" if isinstance(closing, Cancel) else "settle", clock]
    for booking in closing.bookings:
        asked += keys.booking(booking)
    return keys.call(asked)


def peek_call(tag: str, charges: tuple[Charge, ...], clock: int) -> Call:
    """Give the call that reads."""
    keys = _Keys(tag, None)
    asked: list[object] = ["peek", clock]
    for charge in charges:
        asked += keys.charge(charge)
    return keys.call(asked)


def pack(calls: Sequence[Call]) -> bytes:
    """Give the bytes of all calls, one behind the other."""
    return b"".join([pack_command(each) for each in calls])  # type: ignore[arg-type]  # it means tuple[..., ...]


def with_script(call: Call) -> Call:
    """Give the same call for a server that has lost the script: it is sent along."""
    return ("EVAL", SCRIPT, *call[2:])


def tally(reply: object) -> Tally:
    """Read the answer to an admission, a top-up or a look."""
    match _unpacked(reply, _tallies):
        case [str(verdict), int(now_us), *readings] if verdict in _VERDICTS:
            return Tally(_VERDICTS[verdict], now_us, tuple(map(_reading, readings)))
    raise GarbledReply(f"expected a verdict, a time and readings, got {reply!r:.200}")


def closed(reply: object) -> tuple[Closed, int]:
    """Read the answer to a closing, and the store's time."""
    match _unpacked(reply, _closings):
        case [str(word), int(now_us), notes] if word in _OUTCOMES:
            return Closed(
                _OUTCOMES[word], tuple(map(_note, notes if isinstance(notes, list) else ()))
            ), now_us
    raise GarbledReply(f"expected an outcome, a time and notes, got {reply!r:.200}")


def _unpacked(reply: object, decoder: msgspec.msgpack.Decoder[_T]) -> _T | None:
    try:
        return decoder.decode(reply[:-SIZE]) if isinstance(reply, bytes) else None
    except msgspec.DecodeError:
        return None


def _note(found: tuple[int, int, int, int]) -> Note:
    booking, overage, before, after = found
    return Note(booking, overage, (before, after))


def _reading(found: object) -> Reading:
    """Read a rate's three numbers, or the eight of another quota; that they are numbers is known."""
    if isinstance(found, list) and len(found) == 3:
        return Reading(Span(found[0], found[1]), found[2] == 1)
    if isinstance(found, list) and len(found) == 8:
        start, used, fits, until, granted, overage, before, after = found
        return Reading(Span(start, used), fits == 1, until, granted, overage, (before, after))
    raise GarbledReply(f"expected a reading, got {found!r:.200}")


class _Keys:
    """The keys of one call: of each holder two, and of the request's minute one.

    The minute is the one that the rid itself tells (RFC 9562, section 5.7), so that every command about
    a request finds the same key, whenever it comes.
    """

    __slots__ = ("_holders", "_keys", "_rid", "_rids", "_tag")

    def __init__(self, tag: str, rid: RequestId | None) -> None:
        self._tag = tag
        self._rid = b"" if rid is None else _bytes_of(rid)
        self._keys = [*_names(tag)]
        self._holders = {"": 1, tag: 1}
        minute = int.from_bytes(self._rid[:6], "big") // _MINUTE_MS
        self._rids = () if rid is None else (f"{self._keys[0]}:{minute}",)

    def call(self, asked: list[object], after: bytes = b"") -> Call:
        """Put the call together."""
        keys = len(self._keys) + len(self._rids)
        packed = _encoder.encode(asked)
        return ("EVALSHA", DIGEST, keys, *self._keys, *self._rids, packed, self._rid, after, new_echo())

    def _holder(self, name: str) -> int:
        number = self._holders.get(name)
        if number is None:
            number = self._holders[name] = len(self._keys) // 2 + 1
            self._keys += _names(name)
        return number

    def charge(self, charge: Charge) -> Sequence[object]:
        """Give the twelve arguments of a charge."""
        quota = charge.quota
        flags = (_HELD if charge.held else 0) + (_SHADOW if charge.shadow else 0)
        head = (self._holder(charge.holder), charge.id, flags)
        if isinstance(quota, Rate):
            need = quota.span(charge.need)
            take = need if charge.take == charge.need else quota.span(charge.take)
            return (*head, *need, *take, *quota.tolerance, quota.denominator, 0, 0)
        if isinstance(quota, Slots):
            return (*head, charge.need, charge.take, quota.units, 0, 0, 0, 0, "", "")
        windows = charge.windows or NO_WINDOWS
        return (*head, charge.need, charge.take, quota.most, *windows, *_marks(quota))

    def booking(self, booking: Booking) -> Sequence[object]:
        """Give the seven arguments of a booking."""
        charge, quota = booking.charge, booking.charge.quota
        head = (self._holder(charge.holder), charge.id)
        if isinstance(quota, Rate):
            return (*head, quota.denominator, *quota.span(booking.actual), 0, 0)
        if isinstance(quota, Slots):
            return (*head, 0, 0, 0, "", "")
        window = booking.window_us
        closing = closing_of(charge.windows or NO_WINDOWS, window)
        return (*head, booking.actual, window, closing, *_marks(quota))


def _marks(cap: Cap) -> tuple[object, str]:
    """Give what a count is marked by: what is included, and the thresholds."""
    return (cap.included if cap.bills else "", " ".join(map(str, cap.warn)))


def _names(holder: str) -> tuple[str, str]:
    """Give the keys of a holder; its tag is the hash tag of all of them."""
    tag, _, suffix = holder.partition(":")
    if not _HOLDER.fullmatch(holder):
        raise ValueError(
            "a tag is 1 to 64 letters, digits, '_' and '-', and the name of a holder may have a suffix, "
            f"got {holder!r:.80}"
        )
    name = f"mw:{{{tag}}}:{suffix}" if suffix else f"mw:{{{tag}}}"
    return name, f"{name}:h"


def _bytes_of(rid: str) -> bytes:
    try:
        raw = bytes.fromhex(rid.replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) != 16 or raw[6] >> 4 != 7:
        raise ValueError(f"a rid is a UUIDv7, got {rid!r:.80}")
    return raw
