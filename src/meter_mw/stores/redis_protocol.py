"""What goes to `meter.lua` and what comes back: commands as arguments, replies as values; pure.

Rule 1: a command is one call of one script, whatever it charges, and all its keys share a hash tag.
Rule 2: numbers travel as decimal integers, never as floats.
Rule 3: a call may be sent again as it is: the rid makes it idempotent.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING, TypeAlias

from hiredis import pack_command

from meter_mw.quota import Rate, Span, standing_window
from meter_mw.stores.port import NO_WINDOWS, Admit, Cancel, Outcome, Reading, StoreUnavailable, Tally, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.stores.port import Booking, Charge, Closing

Argument: TypeAlias = bytes | str | int
Call: TypeAlias = tuple[Argument, ...]
"""A Redis command: its name, and its arguments."""

SCRIPT = files("meter_mw.stores").joinpath("meter.lua").read_text("utf-8")
DIGEST = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What Redis knows the script by (EVALSHA)."""

_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MINUTE_MS = 60_000
_VERDICTS = {each.value.encode(): each for each in Verdict}
_OUTCOMES = {each.value.encode(): each for each in Outcome}


class GarbledReply(StoreUnavailable):
    """A reply that `meter.lua` does not give."""


def admit_call(command: Admit, clock: str) -> Call:
    """Give the call that decides `command`; `clock` is empty for the server's own time."""
    subject, rids, rid = _addresses(command.tag, command.rid)
    call: list[Argument] = ["EVALSHA", DIGEST, 2, subject, rids, "admit", clock, rid, command.not_after_us]
    for charge in command.charges:
        call += _charge(charge)
    return tuple(call)


def closing_call(closing: Closing, clock: str) -> Call:
    """Give the call that settles or cancels."""
    subject, rids, rid = _addresses(closing.tag, closing.rid)
    if isinstance(closing, Cancel):
        return ("EVALSHA", DIGEST, 2, subject, rids, "cancel", clock, rid, 0)
    call: list[Argument] = ["EVALSHA", DIGEST, 2, subject, rids, "settle", clock, rid, 0]
    for booking in closing.bookings:
        call += _booking(booking)
    return tuple(call)


def peek_call(tag: str, charges: tuple[Charge, ...], clock: str) -> Call:
    """Give the call that reads."""
    call: list[Argument] = ["EVALSHA", DIGEST, 1, _subject(tag), "peek", clock, b"", 0]
    for charge in charges:
        call += _charge(charge)
    return tuple(call)


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


def outcome(reply: object) -> tuple[Outcome, int]:
    """Read the answer to a closing, and the store's time."""
    match reply:
        case [bytes(word), bytes(now_us)] if word in _OUTCOMES:
            return _OUTCOMES[word], int(now_us)
    raise GarbledReply(f"expected an outcome and a time, got {reply!r:.200}")


def _reading(text: object) -> Reading:
    match text.split() if isinstance(text, bytes) else ():
        case [whole, part, fits]:
            return Reading(Span(int(whole), int(part)), fits == b"1")
    raise GarbledReply(f"expected a reading, got {text!r:.200}")


def _subject(tag: str) -> str:
    if not _TAG.fullmatch(tag):
        raise ValueError(f"a tag is 1 to 64 letters, digits, '_' and '-', got {tag!r:.80}")
    return f"mw:{{{tag}}}"


def _addresses(tag: str, rid: str) -> tuple[str, str, bytes]:
    """Give the key of the subject, the key of the rid's minute, and the rid's bytes.

    The minute is the one that the rid itself tells (RFC 9562, section 5.7), so that every command about
    a request finds the same key, whenever it comes.
    """
    subject = _subject(tag)
    try:
        raw = bytes.fromhex(rid.replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) != 16 or raw[6] >> 4 != 7:
        raise ValueError(f"a rid is a UUIDv7, got {rid!r:.80}")
    minute = int.from_bytes(raw[:6], "big") // _MINUTE_MS
    return subject, f"{subject}:{minute}", raw


def _charge(charge: Charge) -> Sequence[Argument]:
    quota = charge.quota
    if isinstance(quota, Rate):
        need = quota.span(charge.need)
        take = need if charge.take == charge.need else quota.span(charge.take)
        return (charge.id, *need, *take, *quota.tolerance, quota.denominator)
    return (charge.id, charge.need, charge.take, quota.units, *(charge.windows or NO_WINDOWS))


def _booking(booking: Booking) -> Sequence[Argument]:
    charge, actual = booking.charge, booking.actual
    quota = charge.quota
    if isinstance(quota, Rate):
        change = actual - charge.take
        sign = (change > 0) - (change < 0)
        return (charge.id, quota.denominator, sign, *quota.span(abs(change)), *quota.span(actual))
    window = booking.window_us
    _, closing = standing_window(window, charge.windows or NO_WINDOWS, window)
    return (charge.id, window, closing, charge.take, actual, 0, 0)
