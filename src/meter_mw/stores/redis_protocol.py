"""What goes to `meter.lua` and what comes back: commands as arguments, replies as values; pure.

Rule 1: a command is one call of one script, whatever it charges and whosever; the keys of one holder share
a hash tag, the subject's and its keys' the same.
Rule 2: what is asked and answered travels packed (MessagePack), its numbers as integers, never as floats.
Rule 3: a call may be sent again as it is: the rid makes it idempotent.
Rule 4: what is the same in each call is packed once: a caller that asks the same tuple of charges again
only adds the times, the rid and the echo.
Rule 5: a reply ends with the echo of its call, so that one which strayed is never taken for another's.
"""

from __future__ import annotations

import hashlib
import re
import struct
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec
from hiredis import pack_command

from meter_mw.quota import Rate, Slots, closing_of
from meter_mw.stores.echoes import SIZE, Echo, new_echo
from meter_mw.stores.port import (
    NO_WINDOWS,
    Cancel,
    Closed,
    Note,
    Outcome,
    StoreUnavailable,
    Tally,
    TopUp,
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

SERVER_CLOCK = -1
"""Says that the server's own clock is to decide."""

_HOLDER = re.compile(r"[A-Za-z0-9_-]{1,64}(:[a-z][A-Za-z0-9_-]{1,64})?")
_HELD, _SHADOW = 1, 2
_MOST_KNOWN = 1024
_MINUTE_MS = 60_000
_MINUTES = [b"%02d" % each for each in range(60)]
_TIMES = struct.Struct(">BqBQ")
_INT64, _UINT64 = 0xD3, 0xCF
_EVALSHA = b"\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n" % DIGEST.encode()
_EVAL = b"\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n" % (len(SCRIPT.encode()), SCRIPT.encode())
_RID, _NO_AFTER, _AFTER = b"\r\n$16\r\n", b"\r\n$0\r\n\r\n$%d\r\n" % SIZE, b"\r\n$%d\r\n" % SIZE
_encoder = msgspec.msgpack.Encoder()


class _Ended(NamedTuple):
    """What a closing is answered."""

    outcome: Outcome
    now_us: int
    notes: tuple[Note, ...]


_tallies = msgspec.msgpack.Decoder(Tally)
_closings = msgspec.msgpack.Decoder(_Ended)


class GarbledReply(StoreUnavailable):
    """A reply that `meter.lua` does not give."""


class ScriptCall(NamedTuple):
    """A call of the script, as a command is one, with its `packed` bytes in place of all but a key."""

    name: str
    packed: bytes
    keys: int
    key: str
    echo: Echo


def admit_call(command: Admit | TopUp, clock: int) -> ScriptCall:
    """Give the call that decides `command`; `clock` is the time in µs, or SERVER_CLOCK."""
    if isinstance(command, TopUp):
        form = _form(command.tag, command.charges, ("topup", command.lease_us, "none"))
        after = None
    else:
        form = _known_form(command)
        after = command.after
    return form.call(command.rid, clock, command.not_after_us, after)


def closing_call(closing: Closing, clock: int) -> ScriptCall:
    """Give the call that settles or cancels."""
    holders = _Holders(closing.tag)
    asked: list[object] = ["cancel" if isinstance(closing, Cancel) else "settle", 0, "", 0]
    for booking in closing.bookings:
        asked += holders.booking(booking)
    return holders.form(asked).call(closing.rid, clock, 0, None)


def peek_call(tag: str, charges: tuple[Charge, ...], clock: int) -> ScriptCall:
    """Give the call that reads."""
    return _form(tag, charges, ("peek", 0, "")).call(None, clock, 0, None)


def pack(calls: Sequence[Call]) -> bytes:
    """Give the bytes of all calls, one behind the other."""
    return b"".join([each.packed if isinstance(each, ScriptCall) else _packed(each) for each in calls])


def _packed(call: Call) -> bytes:
    return bytes(pack_command(call))  # type: ignore[arg-type]  # it means tuple[..., ...]


def with_script(call: Call) -> Call:
    """Give the same call for a server that has lost the script: it is sent along."""
    if isinstance(call, ScriptCall):
        return call._replace(name="EVAL", packed=call.packed.replace(_EVALSHA, _EVAL, 1))
    return ("EVAL", SCRIPT, *call[2:])


def tally(reply: object) -> Tally:
    """Read the answer to an admission, a top-up or a look."""
    try:
        return _tallies.decode(reply[:-SIZE])  # type: ignore[index]  # what has no bytes fails
    except (msgspec.DecodeError, TypeError):
        raise GarbledReply(f"expected a verdict, a time and readings, got {reply!r:.200}") from None


def closed(reply: object) -> tuple[Closed, int]:
    """Read the answer to a closing, and the store's time."""
    try:
        outcome, now_us, notes = _closings.decode(reply[:-SIZE])  # type: ignore[index]
    except (msgspec.DecodeError, TypeError):
        raise GarbledReply(f"expected an outcome, a time and notes, got {reply!r:.200}") from None
    return Closed(outcome, notes), now_us


class _Form(NamedTuple):
    """A call without what a request adds: its parts up to the minute, the times, and the rid."""

    charges: object
    told: object
    key: str
    keys: int
    to_minute: bytes
    to_times: bytes
    to_rid: bytes

    def call(self, rid: RequestId | None, clock: int, fence_us: int, after: RequestId | None) -> ScriptCall:
        """Put the call together.

        The minute is the one that the rid itself tells (RFC 9562, section 5.7), so that every command about
        a request finds the same key, whenever it comes. A key lives for minutes, so the minute of the hour is
        enough.
        """
        raw, minute = b"", b""
        if rid is not None:
            raw = _bytes_of(rid)
            minute = _MINUTES[int.from_bytes(raw[:6], "big") // _MINUTE_MS % 60]
        echo = new_echo()
        packed = b"".join(
            (
                self.to_minute,
                minute,
                self.to_times,
                _TIMES.pack(_INT64, clock, _UINT64, fence_us),
                self.to_rid,
                raw,
                _NO_AFTER if after is None else b"".join((_RID, _bytes_of(after), _AFTER)),
                echo,
                b"\r\n",
            )
        )
        return ScriptCall("EVALSHA", packed, self.keys, self.key, echo)


_known: dict[object, _Form] = {}
"""Forms that were asked for before, by subject and the identity of the tuple of charges, which they hold."""


def _known_form(command: Admit) -> _Form:
    """Give the form of an admission; what is asked with the same tuple of charges is packed once."""
    charges, told = command.charges, (command.lease_us, command.on_deny)
    key = (command.tag, id(charges))
    form = _known.get(key)
    if form is None or form.charges is not charges or form.told != told:
        form = _form(command.tag, charges, ("admit", command.lease_us, command.on_deny.value), told)
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = form
    return form


def _form(tag: str, charges: tuple[Charge, ...], head: Sequence[object], told: object = None) -> _Form:
    holders = _Holders(tag)
    asked = [*head, int(head[0] == "admit" and all(map(_is_plain, charges)))]
    for charge in charges:
        asked += holders.charge(charge)
    return holders.form(asked, charges, told, marks=head[0] != "peek")


def _is_plain(charge: Charge) -> bool:
    """Whether the short way of the script knows what to do with a charge."""
    return not (charge.held or charge.shadow or charge.holder)


class _Holders:
    """The holders that a call is about, each with two keys; the subject's own is the first."""

    __slots__ = ("_holders", "_keys", "_tag")

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._keys = [*_names(tag)]
        self._holders = {"": 1, tag: 1}

    def form(
        self, asked: list[object], charges: object = None, told: object = None, *, marks: bool = True
    ) -> _Form:
        """Give the form of a call; one that `marks` has a last key, that of its request's minute."""
        key, keys = self._keys[0], len(self._keys) + marks
        head = b"*%d%s$%d\r\n%d\r\n" % (keys + 7, _EVALSHA, len(str(keys)), keys)
        head += b"".join([_bulk(each.encode()) for each in self._keys])
        minute = f"{key}:".encode()
        packed = _values(asked)
        to_minute = head + b"$%d\r\n%s" % (len(minute) + 2, minute) if marks else head
        to_times = b"%s$%d\r\n" % (b"\r\n" if marks else b"", _TIMES.size + len(packed))
        to_rid = packed + (_RID if marks else b"\r\n$0\r\n")
        return _Form(charges, told, key, keys, to_minute, to_times, to_rid)

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


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


def _values(asked: list[object]) -> bytes:
    """Pack values one behind the other: an array without its head (MessagePack, "array format family")."""
    return _encoder.encode(asked)[1 if len(asked) < 16 else 3 :]


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
