"""A closing that is kept until the store has it: packed for the journal; what may be sent, and when; pure.

Rule 1: what is kept is what caps and slots need. A rate forgets by itself, and is not brought back.
Rule 2: nothing is counted twice. What may have reached the store before is sent again only while that
surely remembers the rid; what an admission charged for good is booked only while it does, or where it surely
lost it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from meter_mw.model import RequestId
from meter_mw.periods import Period
from meter_mw.quota import Cap, Rate, Slots, closing_of
from meter_mw.stores.port import NO_WINDOWS, REMEMBERED_US, Booking, Cancel, Charge, Settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.stores.port import Closing

_Packed: TypeAlias = tuple[object, ...]

_VERSION = 1
_SETTLE, _CANCEL = 0, 1
_NOTHING_INCLUDED = -1
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, int, bytes, str, int, int, list[list[object]]])


@dataclass(frozen=True, slots=True)
class Kept:
    """A closing, and when it was made (µs of the store's time).

    `admitted_us` is when the store charged the request for good, or may have; 0 where it surely did not.
    """

    closing: Closing
    made_us: int
    admitted_us: int


def is_kept(closing: Closing) -> bool:
    """Whether a closing is about more than rates."""
    return any(not isinstance(each.charge.quota, Rate) for each in closing.bookings)


def pack(closing: Closing, made_us: int, admitted_us: int) -> bytes:
    """Give a closing as it is kept; nothing where it is about rates alone."""
    if isinstance(closing, Cancel):
        return pack_cancel(closing.rid, closing.tag, closing.charges, made_us, admitted_us)
    bookings = [_packed(each.charge, each.actual, each.window_us) for each in closing.bookings]
    return _joined(_SETTLE, closing.rid, closing.tag, bookings, (made_us, admitted_us))


def pack_cancel(rid: RequestId, tag: str, charges: Sequence[Charge], made_us: int, admitted_us: int) -> bytes:
    """Give the cancellation of these charges as it is kept; nothing where they are of rates alone."""
    bookings = [_packed(each, 0, 0) for each in charges]
    return _joined(_CANCEL, rid, tag, bookings, (made_us, admitted_us))


def _joined(
    verb: int, rid: RequestId, tag: str, bookings: list[_Packed | None], times_us: tuple[int, int]
) -> bytes:
    kept = [each for each in bookings if each is not None]
    if not kept:
        return b""
    return _encoder.encode((_VERSION, verb, bytes.fromhex(rid.replace("-", "")), tag, *times_us, kept))


def _packed(charge: Charge, actual: int, window_us: int) -> _Packed | None:
    quota = charge.quota
    if isinstance(quota, Cap):
        until = closing_of(charge.windows or NO_WINDOWS, window_us) if window_us else 0
        included = quota.included if quota.bills else _NOTHING_INCLUDED
        return (charge.id, charge.holder, charge.held, actual, window_us, until, included, quota.warn)
    return (charge.id, charge.holder) if isinstance(quota, Slots) else None


def unpack(packed: bytes) -> Kept:
    """Read a closing that was kept; raises ValueError for anything else."""
    try:
        version, verb, rid, tag, made_us, admitted_us, found = _decoder.decode(packed)
    except msgspec.MsgspecError as error:
        raise ValueError(f"expected a packed closing, got {packed!r:.80}: {error}") from None
    if version != _VERSION or verb not in (_SETTLE, _CANCEL) or len(rid) != 16:
        raise ValueError(f"expected a closing of version {_VERSION}, got {packed!r:.80}")
    bookings = tuple(_booking(each) for each in found)
    digits = rid.hex()
    name = RequestId("-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])))
    if verb == _CANCEL:
        return Kept(Cancel(name, tag, tuple(each.charge for each in bookings)), made_us, admitted_us)
    return Kept(Settle(name, tag, bookings), made_us, admitted_us)


def _booking(found: Sequence[object]) -> Booking:
    match found:
        case [str(id_), str(holder)]:
            return Booking(Charge(id_, Slots(1), 0, 0, held=True, holder=holder), 0)
        case [
            str(id_),
            str(holder),
            bool(held),
            int(actual),
            int(window),
            int(until),
            int(included),
            list(warn),
        ]:
            bills = included != _NOTHING_INCLUDED
            counts = tuple(each for each in warn if isinstance(each, int))
            cap = Cap(included if bills else 0, Period.DAY, bills=bills, warn=counts)
            charge = Charge(id_, cap, 0, 0, (window, until, until, until), held=held, holder=holder)
            return Booking(charge, actual, window)
    raise ValueError(f"expected a booking of a cap or of slots, got {found!r:.80}")


def born_us(rid: RequestId) -> int:
    """Give when a rid was made, to the millisecond, in µs (RFC 9562, section 5.7)."""
    return int(rid[:8] + rid[9:13], 16) * 1_000


def due(kept: Kept, now_us: int, *, tried_us: int | None, lost_after_us: int | None = None) -> Closing | None:
    """Give what may be sent of a closing now, so that nothing is counted twice (Rule 2); None for nothing.

    `tried_us` is since when the store may have it, None where it surely has not. What the store was told
    after `lost_after_us` it has surely lost; None where it has lost nothing.
    """
    if tried_us is not None and now_us - tried_us >= REMEMBERED_US:
        return None
    closing, admitted_us = kept.closing, kept.admitted_us
    lost = lost_after_us is not None and admitted_us > lost_after_us
    if (
        not admitted_us
        or lost
        or now_us - born_us(closing.rid) < REMEMBERED_US
        or isinstance(closing, Cancel)
    ):
        return closing
    return Settle(closing.rid, closing.tag, tuple(each for each in closing.bookings if each.charge.held))
