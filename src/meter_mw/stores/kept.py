"""A closing that is kept until the store has it: packed for the journal; what may be sent, and when; pure.

Rule 1: what is kept is what caps and slots need. A rate forgets by itself, and is not brought back.
Rule 2: nothing is counted twice. What may have reached the store before is sent again only while that
surely remembers the rid; what an admission charged for good is booked only while it does, or where it surely
lost it.
"""

from __future__ import annotations

from binascii import unhexlify
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from meter_mw.model import RequestId
from meter_mw.periods import Period
from meter_mw.quota import Cap, Rate, Slots, closing_of
from meter_mw.stores.port import NO_WINDOWS, REMEMBERED_US, Booking, Cancel, Charge, Settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.port import Closing

_T = TypeVar("_T")
_Packed: TypeAlias = tuple[object, ...]

_VERSION = 1
_SETTLE, _CANCEL = 0, 1
_NOTHING_INCLUDED = -1
_encoder = msgspec.msgpack.Encoder()
_MOST_KNOWN = 1024
_known: dict[int, tuple[object, msgspec.Raw]] = {}
"""Bookings and charges by their identity, and how they are kept."""

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
    bookings = _packed(closing.bookings, _packed_booking)
    return _joined(_SETTLE, closing.rid, closing.tag, bookings, (made_us, admitted_us))


def pack_cancel(
    rid: RequestId, tag: str, charges: tuple[Charge, ...], made_us: int, admitted_us: int
) -> bytes:
    """Give the cancellation of these charges as it is kept; nothing where they are of rates alone."""
    return _joined(_CANCEL, rid, tag, _packed(charges, _packed_charge), (made_us, admitted_us))


def _joined(verb: int, rid: RequestId, tag: str, bookings: msgspec.Raw, times_us: tuple[int, int]) -> bytes:
    if not bookings:
        return b""
    return _encoder.encode((_VERSION, verb, unhexlify(rid.replace("-", "")), tag, *times_us, bookings))


def _packed(several: tuple[_T, ...], pack_one: Callable[[_T], _Packed | None]) -> msgspec.Raw:
    """Give bookings, or charges, as they are kept: the same ones come again and again."""
    # What is known is held, so that nothing else has its identity meanwhile.
    known = _known.get(id(several))
    if known is not None and known[0] is several:
        return known[1]
    kept = [each for each in map(pack_one, several) if each is not None]
    packed = msgspec.Raw(_encoder.encode(kept) if kept else b"")
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[id(several)] = (several, packed)
    return packed


def _packed_charge(charge: Charge) -> _Packed | None:
    return _packed_booking(Booking(charge, 0))


def _packed_booking(booking: Booking) -> _Packed | None:
    charge, window_us = booking.charge, booking.window_us
    quota = charge.quota
    if isinstance(quota, Cap):
        until = closing_of(charge.windows or NO_WINDOWS, window_us) if window_us else 0
        included = quota.included if quota.bills else _NOTHING_INCLUDED
        return (charge.id, charge.holder, charge.held, booking.actual, window_us, until, included, quota.warn)
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
