"""How large a slice may be: far from every boundary, over long before one is reached, and small."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasing.charges import MONTH, cap, rate
from leasing.simulation import START_US
from meter_mw.leasing.sizes import (
    BURST_SHARE,
    FREE_SHARE,
    LONGEST_US,
    SHORTEST_US,
    SKEW_US,
    Pace,
    Slice,
    boundary_of,
    is_lendable,
    lent,
    slice_of,
    told,
)
from meter_mw.policy.terms import Speed
from meter_mw.quota import AT_REST, Cap, Rate, Slots, Span
from meter_mw.stores.port import Charge, Reading

FAR_US = MONTH[2]


def counted(used: int, until_us: int = FAR_US) -> Reading:
    return Reading(Span(MONTH[1], used), until_us=until_us)


def slice_at(
    charge: Charge,
    reading: Reading,
    demand: float,
    *,
    climb: float = 0.0,
    speed: Speed = Speed.AUTO,
    age_us: int = 0,
) -> Slice | None:
    return slice_of(
        (charge,), (reading,), (climb,), demand, seen_us=START_US - age_us, now_us=START_US, speed=speed
    )


def test_far_from_a_cap_a_slice_is_three_quarters_of_a_second_of_demand() -> None:
    assert slice_at(cap(100_000_000), counted(0), 400.0) == Slice(300, LONGEST_US)


def test_a_slice_is_over_long_before_the_boundary_is_reached() -> None:
    """32,000 are left, 2,000 a second go: sixteen seconds, so a quarter of one."""
    found = slice_at(cap(40_001), counted(8_000), 500.0, climb=2_000.0)
    assert found == Slice(93, 250_000)


def test_what_went_since_the_reading_is_not_left() -> None:
    found = slice_at(cap(34_001), counted(0), 500.0, climb=2_000.0, age_us=1_000_000)
    assert found == Slice(93, 250_000)


@pytest.mark.parametrize(
    ("used", "speed"),
    [(9_600, Speed.AUTO), (9_600, Speed.LEASED), (10_000, Speed.AUTO), (12_000, Speed.LEASED)],
)
def test_near_the_limit_each_request_is_asked_for(used: int, speed: Speed) -> None:
    assert slice_at(cap(10_000), counted(used), 1_000.0, speed=speed) is None


def test_near_the_end_of_a_window_each_request_is_asked_for() -> None:
    late = counted(0, START_US + SKEW_US + SHORTEST_US - 1)
    assert slice_at(cap(10_000_000), late, 1_000.0) is None
    found = slice_at(cap(10_000_000), counted(0, START_US + SKEW_US + 100_000), 1_000.0)
    assert found == Slice(75, 100_000)


@pytest.mark.parametrize(("demand", "speed", "is_lent"), [
    (3.9, Speed.AUTO, False),
    (4.0, Speed.AUTO, True),
    (1.9, Speed.LEASED, False),
    (2.0, Speed.LEASED, True),
    (1_000.0, Speed.STRICT, False),
    (0.0, Speed.LEASED, False),
])  # fmt: skip
def test_a_lease_has_to_be_worth_it(demand: float, speed: Speed, *, is_lent: bool) -> None:
    assert (slice_at(cap(10_000_000), counted(0), demand, speed=speed) is not None) is is_lent


@given(used=st.integers(0, 3_000), warn=st.lists(st.integers(1, 1_500), max_size=3, unique=True))
def test_the_boundary_is_whatever_happens_next(used: int, warn: list[int]) -> None:
    quota = Cap(1_000, MONTH_OF, grace=50, bills=True, ceiling=1_500, warn=tuple(sorted(warn)))
    boundary = boundary_of(quota, used)
    happens = {*warn, 1_050, 1_500}
    assert boundary == min((each for each in happens if each > used), default=used)


MONTH_OF = cap(1).quota.period  # type: ignore[union-attr]  # it is a cap


@given(
    used=st.integers(0, 20_000),
    demand=st.floats(0.1, 50_000),
    climb=st.floats(0, 100_000),
    take=st.integers(1, 20),
    speed=st.sampled_from((Speed.AUTO, Speed.LEASED)),
    age_us=st.integers(0, 2_000_000),
)
def test_a_slice_keeps_away_from_the_boundary(
    used: int, demand: float, climb: float, take: int, speed: Speed, age_us: int
) -> None:
    charge = cap(10_000, take, warn=(8_000,), ceiling=15_000)
    found = slice_at(charge, counted(used), demand, climb=climb, speed=speed, age_us=age_us)
    if found is None:
        return
    left = boundary_of(charge.quota, used) - 1 - used  # type: ignore[arg-type]  # it is a cap
    assert 2 <= found.requests
    assert found.requests * take <= left / 16
    assert SHORTEST_US <= found.lasts_us <= LONGEST_US
    assert max(climb, demand * take) * found.lasts_us / 1_000_000 <= left / 64 + 1
    assert found.requests <= max(2, demand * found.lasts_us / 1_000_000 * 0.75)
    quota = lent(charge, found.requests, used).quota
    assert isinstance(quota, Cap)
    assert used + found.requests * take <= quota.most < boundary_of(charge.quota, used)  # type: ignore[arg-type]


@given(backlog=st.integers(0, 4_000), demand=st.floats(0.1, 50_000), take=st.integers(1, 9))
def test_a_rate_lends_little_of_its_burst(backlog: int, demand: float, take: int) -> None:
    charge = rate(1_000, 4_000, take)
    quota = charge.quota
    assert isinstance(quota, Rate)
    reading = Reading(Span(START_US + backlog * 1_000, 0))
    found = slice_at(charge, reading, demand)
    if found is not None:
        units = found.requests * take
        assert units <= 4_000 / BURST_SHARE
        assert units <= quota.remaining(reading.state, START_US) / FREE_SHARE


def test_what_can_be_lent() -> None:
    assert is_lendable(cap(10_000))
    assert is_lendable(rate(100, 64))
    assert not is_lendable(rate(100, 63))  # less than two requests at a time
    assert not is_lendable(rate(100, 127, take=2))
    assert not is_lendable(cap(31))
    assert not is_lendable(replace(cap(10_000), held=True))
    assert not is_lendable(replace(cap(10_000), shadow=True))
    assert not is_lendable(replace(cap(10_000), take=0))
    assert not is_lendable(Charge("s:1", Slots(10_000), 1, 1, held=True))


def test_a_slice_announces_nothing_when_it_is_settled() -> None:
    charge = cap(10_000, warn=(100,), ceiling=20_000)
    quota = told(charge).quota
    assert isinstance(quota, Cap)
    assert (quota.warn, quota.bills, quota.ceiling) == ((), True, 20_000)
    assert told(rate(1, 64)) == rate(1, 64)


def test_a_pace_follows_what_comes() -> None:
    pace = Pace()
    assert pace.is_due(0)
    pace.tell(1, 0)
    assert not pace.is_due(49_999)
    for at in range(1, 41):
        assert pace.is_due(at * 50_000)
        pace.tell(5, at * 50_000)
    assert pace.per_second() == pytest.approx(100, rel=0.01)
    assert pace.per_second(20, 2_050_000) == pytest.approx(400)
    assert pace.per_second(20, 2_000_001) == pytest.approx(100, rel=0.01)  # too short a glimpse
    pace.tell(0, 100_000_000)
    assert pace.per_second() < 1
    assert pace.is_due(99_000_000)  # a clock that went back


def test_at_rest_nothing_is_known_of_a_window() -> None:
    """The reading of a cap that nothing was charged to has no window: none is lent from it."""
    assert slice_at(cap(10_000_000), Reading(AT_REST), 1_000.0) is None
