"""What is kept of a closing is what it says, whether its bookings were packed before or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.model import LARGEST_COST, RequestId
from meter_mw.periods import Period
from meter_mw.quota import LETTERS, Cap, Rate, Slots
from meter_mw.stores import kept
from meter_mw.stores.kept import Kept, pack, pack_cancel, unpack
from meter_mw.stores.port import Booking, Cancel, Charge, Settle

NOW_US = 1_767_225_600_000_000
WINDOWS = (NOW_US - 5, NOW_US, NOW_US + 5, NOW_US + 10)

UNITS = st.integers(0, LARGEST_COST)
RIDS = st.uuids().map(lambda each: RequestId(str(each)))
TIMES = st.integers(0, 2**53)
QUOTAS = st.one_of(
    st.builds(Cap, st.integers(1, 10**9), st.sampled_from(Period), bills=st.booleans()),
    st.builds(Slots, st.integers(1, 100)),
    st.just(Rate(10, 1_000_000, 20)),
)


@st.composite
def several_charges(draw: st.DrawFn) -> tuple[Charge, ...]:
    quotas = draw(st.lists(QUOTAS, max_size=20))  # more than 15, so that the length takes a byte of its own
    return tuple(
        Charge(
            f"{LETTERS[type(quota)]}:{number}",
            quota,
            1,
            1,
            WINDOWS if isinstance(quota, Cap) else None,
            held=isinstance(quota, Slots) or draw(st.booleans()),
            holder=draw(st.sampled_from(["", "é", "other:tag"])),
        )
        for number, quota in enumerate(quotas)
    )


@st.composite
def closings(draw: st.DrawFn) -> Settle | Cancel:
    charges, rid, tag = draw(several_charges()), draw(RIDS), draw(st.text("abé", max_size=40))
    if draw(st.booleans()):
        return Cancel(rid, tag, charges)
    return Settle(
        rid,
        tag,
        tuple(Booking(each, draw(UNITS), NOW_US if each.windows else 0) for each in charges),
    )


def told(closing: Settle | Cancel) -> list[object]:
    """Give what has to be known of a closing."""
    settles = isinstance(closing, Settle)
    return [
        type(closing),
        closing.rid,
        closing.tag,
        [
            (each.charge.id, each.charge.holder, each.actual, each.window_us)
            if isinstance(each.charge.quota, Cap) and settles
            else (each.charge.id, each.charge.holder)
            for each in closing.bookings
            if not isinstance(each.charge.quota, Rate)
        ],
    ]


@given(closings(), TIMES, TIMES, RIDS)
def test_what_is_kept_is_read_back(
    closing: Settle | Cancel, made_us: int, admitted_us: int, other: RequestId
) -> None:
    """And once more when its bookings are known: byte for byte the same, and another rid in its place."""
    kept._known.clear()
    packed = pack(closing, made_us, admitted_us)
    assert pack(closing, made_us, admitted_us) == packed
    if not packed:
        assert told(closing)[-1] == []
        return
    read = unpack(packed)
    assert (read.made_us, read.admitted_us, told(read.closing)) == (made_us, admitted_us, told(closing))
    again = closing._replace(rid=other)
    kept_again = pack(again, made_us, admitted_us)
    kept._known.clear()
    assert kept_again == pack(again, made_us, admitted_us)


def test_charges_are_told_apart_from_equal_and_from_former_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has gone may leave its identity to another: whatever is packed is what is given."""
    monkeypatch.setattr(kept, "_MOST_KNOWN", 4)
    rid = RequestId("01900000-0000-7000-8000-000000000001")
    for number in range(100):
        charge = Charge(f"c:{number}", Cap(10, Period.DAY), 1, 1, WINDOWS)
        packed = pack_cancel(rid, "t", (charge,), 1, 1)
        assert [each.charge.id for each in unpack(packed).closing.bookings] == [charge.id]
        assert len(kept._known) <= 4


def test_what_is_about_rates_alone_is_not_kept() -> None:
    """A rate forgets by itself; known or not, there is nothing to keep."""
    charges = (Charge("r:1", Rate(10, 1_000_000, 20), 1, 1),)
    rid = RequestId("01900000-0000-7000-8000-000000000001")
    for _ in range(2):
        assert pack_cancel(rid, "t", charges, 1, 1) == b""


def test_it_is_kept_as_it_was_before() -> None:
    """What older processes have written is read, and theirs is what is written: version 1."""
    charge = Charge("c:1", Cap(10, Period.DAY, warn=(5,)), 1, 1, WINDOWS, holder="h")
    rid = RequestId("01900000-0000-7000-8000-000000000001")
    packed = pack(Settle(rid, "t", (Booking(charge, 3, NOW_US),)), NOW_US, 7)
    assert packed.hex() == (
        "970100c41001900000000070008000000000000001a174cf000647484620400007"
        "9198a3633a31a168c203cf0006474846204000cf0006474846204005ff9105"
    )
    assert isinstance(unpack(packed), Kept)
