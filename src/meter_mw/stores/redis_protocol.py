"""What goes to `meter.lua` and what comes back: commands as arguments, replies as values; pure.

Rule 1: a command is one call of one script, whatever it charges and whosever; the keys of one holder share
a hash tag, the subject's and its keys' the same.
Rule 2: numbers travel as decimal integers, never as floats.
Rule 3: a call may be sent again as it is: the rid makes it idempotent.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING, TypeAlias

from hiredis import pack_command

from meter_mw.quota import Rate, Slots, Span, closing_of
from meter_mw.stores.port import (
    NO_WINDOWS,
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
    from meter_mw.stores.port import Admit, Booking, Charge, Closing

Argument: TypeAlias = bytes | str | int
Call: TypeAlias = tuple[Argument, ...]
"""A Redis command: its name, and its arguments."""

SCRIPT = files("meter_mw.stores").joinpath("meter.lua").read_text("utf-8")
DIGEST = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What Redis knows the script by (EVALSHA)."""

_HOLDER = re.compile(r"[A-Za-z0-9_-]{1,64}(:[a-z][A-Za-z0-9_-]{1,64})?")
_MINUTE_MS = 60_000
_VERDICTS = {each.value.encode(): each for each in Verdict}
_OUTCOMES = {each.value.encode(): each for each in Outcome}


class GarbledReply(StoreUnavailable):
    """A reply that `meter.lua` does not give."""


def admit_call(command: Admit | TopUp, clock: str) -> Call:
    """Give the call that decides `command`; `clock` is empty for the server's own time."""
    keys = _Keys(command.tag, command.rid)
    arguments: list[Argument] = []
    for charge in command.charges:
        arguments += keys.charge(charge)
    if isinstance(command, TopUp):
        terms: tuple[Argument, ...] = (command.not_after_us, command.lease_us, "none", b"")
        return keys.call("topup", clock, *terms, *arguments)
    after = b"" if command.after is None else _bytes_of(command.after)
    terms = (command.not_after_us, command.lease_us, command.on_deny.value, after)
    return keys.call("admit", clock, *terms, *arguments)


def closing_call(closing: Closing, clock: str) -> Call:
    """Give the call that settles or cancels."""
    keys = _Keys(closing.tag, closing.rid)
    arguments: list[Argument] = []
    for booking in closing.bookings:
        arguments += keys.booking(booking)
    return keys.call("cancel" if isinstance(closing, Cancel) else "settle", clock, *arguments)


def peek_call(tag: str, charges: tuple[Charge, ...], clock: str) -> Call:
    """Give the call that reads."""
    keys = _Keys(tag, None)
    arguments: list[Argument] = []
    for charge in charges:
        arguments += keys.charge(charge)
    return keys.call("peek", clock, *arguments)


def pack(calls: Sequence[Call]) -> bytes:
    """Give the bytes of all calls, one behind the other."""
    return b"".join([pack_command(each) for each in calls])  # type: ignore[arg-type]  # it means tuple[..., ...]


def with_script(call: Call) -> Call:
    """Give the same call for a server that has lost the script: it is sent along."""
    return ("EVAL", SCRIPT, *call[2:])


def tally(reply: object) -> Tally:
    """Read the answer to an admission or a look."""
    match reply:
        case [bytes(verdict), bytes(now_us), *readings] if verdict in _VERDICTS:
            return Tally(_VERDICTS[verdict], int(now_us), tuple(map(_reading, readings)))
    raise GarbledReply(f"expected a verdict, a time and readings, got {reply!r:.200}")


def closed(reply: object) -> tuple[Closed, int]:
    """Read the answer to a closing, and the store's time."""
    match reply:
        case [bytes(word), bytes(now_us), bytes(notes)] if word in _OUTCOMES:
            return Closed(_OUTCOMES[word], _notes(notes) if notes else ()), int(now_us)
    raise GarbledReply(f"expected an outcome, a time and notes, got {reply!r:.200}")


def _notes(text: bytes) -> tuple[Note, ...]:
    found = []
    for each in text.split(b";"):
        match [int(number) for number in each.split()]:
            case [index, overage, before, after]:
                found.append(Note(index, overage, (before, after)))
            case _:
                raise GarbledReply(f"expected a note, got {each!r:.200}")
    return tuple(found)


def _reading(text: object) -> Reading:
    match text.split() if isinstance(text, bytes) else ():
        case [whole, part, fits]:
            return Reading(Span(int(whole), int(part)), fits == b"1")
        case [start, used, fits, until, granted, overage, before, after]:
            return Reading(
                Span(int(start), int(used)),
                fits == b"1",
                int(until),
                int(granted),
                int(overage),
                (int(before), int(after)),
            )
    raise GarbledReply(f"expected a reading, got {text!r:.200}")


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

    def call(self, verb: str, clock: str, *arguments: Argument) -> Call:
        """Put the call together."""
        count = len(self._keys) + len(self._rids)
        return ("EVALSHA", DIGEST, count, *self._keys, *self._rids, verb, clock, self._rid, *arguments)

    def _holder(self, name: str) -> int:
        number = self._holders.get(name)
        if number is None:
            number = self._holders[name] = len(self._keys) // 2 + 1
            self._keys += _names(name)
        return number

    def charge(self, charge: Charge) -> Sequence[Argument]:
        """Give the twelve arguments of a charge."""
        quota = charge.quota
        flags = ("h" if charge.held else "") + ("s" if charge.shadow else "")
        head = (self._holder(charge.holder), charge.id, flags)
        if isinstance(quota, Rate):
            need = quota.span(charge.need)
            take = need if charge.take == charge.need else quota.span(charge.take)
            return (*head, *need, *take, *quota.tolerance, quota.denominator, 0, 0)
        if isinstance(quota, Slots):
            return (*head, charge.need, charge.take, quota.units, 0, 0, 0, 0, "", "")
        windows = charge.windows or NO_WINDOWS
        return (*head, charge.need, charge.take, quota.most, *windows, *_marks(quota))

    def booking(self, booking: Booking) -> Sequence[Argument]:
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


def _marks(cap: Cap) -> tuple[Argument, Argument]:
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
