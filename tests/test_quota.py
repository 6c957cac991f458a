"""The arithmetic of rates and caps, held to exact rational numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meter_mw.model import LARGEST_COST
from meter_mw.periods import Period
from meter_mw.quota import (
    AT_REST,
    HORIZON_US,
    Cap,
    Rate,
    Span,
    arrival,
    booked,
    charged,
    conforms,
    minus,
    normal,
    plus,
    recounted,
    standing_window,
    used_in,
)

SECOND_US = 1_000_000
NOW_US = 1_767_225_600 * SECOND_US
YEAR_2100_US = 4_102_444_800 * SECOND_US
LUA_EXACT = 2**53


@st.composite
def rates(draw: st.DrawFn, most_burst: int = LARGEST_COST) -> Rate:
    """Draw any rate that can be: from one in ten years to 2^52 in a microsecond."""
    units = draw(st.integers(1, 100) | st.sampled_from([3, 7, 1_000, 999_983]) | st.integers(1, LARGEST_COST))
    lengths = st.sampled_from([1, 1_000, SECOND_US, 60 * SECOND_US, 86_400 * SECOND_US]) | st.integers(
        1, 10**12
    )
    period_us = draw(lengths.filter(lambda length: length < HORIZON_US * units))
    most = min(LARGEST_COST, most_burst, (HORIZON_US * units - 1) // period_us)
    return Rate(units, period_us, draw(st.integers(1, min(most, 50)) | st.integers(1, most)))


@st.composite
def states(draw: st.DrawFn) -> tuple[Rate, Span, int]:
    """Draw a rate, the state that some history left it in, and the now at its end."""
    rate = draw(rates())
    state, now_us = AT_REST, NOW_US
    steps = st.tuples(st.integers(0, 3 * rate.tolerance.whole + 5), st.integers(0, 2 * rate.burst))
    for gap_us, units in draw(st.lists(steps, max_size=6)):
        now_us += gap_us
        if conforms(state, rate, now_us, units):
            state = charged(state, rate, now_us, units)
        elif units > rate.burst:
            state = booked(state, rate, now_us, taken=0, actual=units)
    assume(state.whole < now_us + HORIZON_US)
    return rate, state, now_us


def exact(span: Span, rate: Rate) -> Fraction:
    """Give a span, or a moment, as the number that it stands for."""
    return span.whole + Fraction(span.part, rate.denominator)


def wait_of(state: Span, rate: Rate, now_us: int, need: int) -> int | None:
    """Give the wait that is reported for a state as it was stored."""
    return rate.wait_us(arrival(state, rate, now_us), now_us, need)


@given(states(), st.data())
def test_the_wait_is_exact(case: tuple[Rate, Span, int], data: st.DataObject) -> None:
    """One microsecond before the wait is over the units are denied, and when it is over they fit."""
    rate, state, now_us = case
    need = data.draw(st.integers(0, rate.burst))
    wait_us = wait_of(state, rate, now_us, need)
    assert wait_us is not None
    assert (wait_us == 0) is conforms(state, rate, now_us, need)
    assert conforms(state, rate, now_us + wait_us, need)
    assert wait_us == 0 or not conforms(state, rate, now_us + wait_us - 1, need)


def test_the_wait_of_thirds_rounds_up_once() -> None:
    """Of 3 a second, burst 1, the next one fits after 333,334 µs: a third is not to be had earlier."""
    rate = Rate(3, SECOND_US, 1)
    state = charged(AT_REST, rate, NOW_US, 1)
    assert Span(NOW_US + 333_333, 1) == state
    assert wait_of(state, rate, NOW_US, 1) == 333_334
    assert not conforms(state, rate, NOW_US + 333_333, 1)
    assert conforms(state, rate, NOW_US + 333_334, 1)


@given(
    rates(most_burst=60),
    st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 60)), min_size=1, max_size=25),
)
def test_never_over_admits(rate: Rate, tries: list[tuple[int, int]]) -> None:
    """In any span of time, the units admitted are at most the burst and what the rate gives in it."""
    state, now_us = AT_REST, NOW_US
    admitted: list[tuple[int, int]] = []
    unit_us = max(1, rate.numerator // rate.denominator // 100)
    for gap, units in tries:
        now_us += gap * unit_us
        if conforms(state, rate, now_us, units):
            state = charged(state, rate, now_us, units)
            admitted.append((now_us, units))
    per_us = Fraction(rate.units, rate.period_us)
    for first, (since_us, _) in enumerate(admitted):
        total = 0
        for until_us, units in admitted[first:]:
            total += units
            assert total <= rate.burst + per_us * (until_us - since_us)


@given(rates())
def test_the_burst_fits_at_rest_exactly(rate: Rate) -> None:
    """At rest the whole burst fits at once, and not one more."""
    assert conforms(AT_REST, rate, NOW_US, rate.burst)
    full = charged(AT_REST, rate, NOW_US, rate.burst)
    assert not conforms(full, rate, NOW_US, 1)
    assert not conforms(AT_REST, rate, NOW_US, rate.burst + 1)
    assert rate.remaining(arrival(AT_REST, rate, NOW_US), NOW_US) == rate.burst
    assert rate.remaining(full, NOW_US) == 0


def test_a_million_requests_do_not_drift() -> None:
    """A million requests of 3/second, each as early as it may be, take 999,998 thirds of a second."""
    rate = Rate(3, SECOND_US, 2)
    state, now_us = AT_REST, NOW_US
    for _ in range(1_000_000):
        wait_us = rate.wait_us(state, now_us, 1)
        assert wait_us is not None
        now_us += wait_us
        state = charged(state, rate, now_us, 1)
    assert now_us - NOW_US == 333_332_666_667
    assert state == Span(NOW_US + 333_333_333_333, 1)


@given(states())
def test_remaining_is_what_would_conform(case: tuple[Rate, Span, int]) -> None:
    """As many units as remain fit at once, and not one more."""
    rate, state, now_us = case
    left = rate.remaining(arrival(state, rate, now_us), now_us)
    assert 0 <= left <= rate.burst
    assert not conforms(state, rate, now_us, left + 1)
    assert left == 0 or conforms(state, rate, now_us, left)


def test_remaining_has_the_worked_number() -> None:
    """A rate of 10 a second with burst 5, two units after rest, has 3 remaining."""
    rate = Rate(10, SECOND_US, 5)
    state = charged(AT_REST, rate, NOW_US, 2)
    assert rate.remaining(state, NOW_US) == 3
    assert rate.reset_us(state, NOW_US) == 200_000
    assert rate.wait_us(state, NOW_US, 5) == 200_000
    assert rate.wait_us(state, NOW_US, 4) == 100_000
    assert rate.wait_us(state, NOW_US, 3) == 0


@given(states())
def test_reset_is_when_the_burst_is_back(case: tuple[Rate, Span, int]) -> None:
    """After the reset the whole burst is there; one microsecond before it is not."""
    rate, state, now_us = case
    reset_us = rate.reset_us(arrival(state, rate, now_us), now_us)
    assert conforms(state, rate, now_us + reset_us, rate.burst)
    assert reset_us == 0 or not conforms(state, rate, now_us + reset_us - 1, rate.burst)


@given(states(), st.integers(1, LARGEST_COST))
def test_never_is_told_from_not_yet(case: tuple[Rate, Span, int], more: int) -> None:
    """More than the burst never fits, and is given no wait, however long one waits."""
    rate, state, now_us = case
    need = rate.burst + more
    assert wait_of(state, rate, now_us, need) is None
    assert not conforms(state, rate, now_us + 2 * HORIZON_US, need)
    assert wait_of(state, rate, now_us, rate.burst) is not None


def test_debt_is_worked_off() -> None:
    """30 units booked on 10/second, burst 5: nothing remains, and one fits after 2.6 s."""
    rate = Rate(10, SECOND_US, 5)
    state = booked(AT_REST, rate, NOW_US, taken=0, actual=30)
    assert rate.remaining(state, NOW_US) == 0
    assert rate.reset_us(state, NOW_US) == 3 * SECOND_US
    assert wait_of(state, rate, NOW_US, 1) == 2_600_000
    assert not conforms(state, rate, NOW_US + 2_599_999, 1)
    assert conforms(state, rate, NOW_US + 2_600_000, 1)


@given(states(), st.data())
def test_a_refund_is_the_inverse_of_a_charge(case: tuple[Rate, Span, int], data: st.DataObject) -> None:
    """Units taken and then found to be fewer leave the state that the fewer ones would have left."""
    rate, state, now_us = case
    taken = data.draw(st.integers(0, rate.burst))
    actual = data.draw(st.integers(0, taken))
    after = charged(state, rate, now_us, taken)
    assert booked(after, rate, now_us, taken=taken, actual=actual) == charged(state, rate, now_us, actual)
    assert booked(after, rate, now_us, taken=taken, actual=0) == arrival(state, rate, now_us)


@given(states(), st.data())
def test_a_booking_of_more_is_a_second_charge(case: tuple[Rate, Span, int], data: st.DataObject) -> None:
    """Units found to be more than taken leave the state that all of them would have left at once."""
    rate, state, now_us = case
    taken = data.draw(st.integers(0, rate.burst))
    actual = data.draw(st.integers(taken, rate.burst))
    after = charged(state, rate, now_us, taken)
    assume(after.whole < now_us + HORIZON_US)
    assert booked(after, rate, now_us, taken=taken, actual=actual) == charged(state, rate, now_us, actual)


@given(states(), rates())
def test_another_denominator_costs_less_than_a_microsecond(case: tuple[Rate, Span, int], other: Rate) -> None:
    """A state that another rate wrote is read to within one microsecond, and never as a wrong number."""
    rate, state, _ = case
    read = normal(state, other)
    assert read.part < other.denominator
    assert abs(exact(read, other) - exact(state, rate)) <= 1
    if state.part >= other.denominator:
        assert exact(read, other) > exact(state, rate)


@given(rates(), st.integers(0, LARGEST_COST))
def test_a_span_is_exact_up_to_the_horizon(rate: Rate, units: int) -> None:
    """A span is units over rate, to the last fraction, until ten years are reached."""
    span = rate.span(units)
    due = Fraction(units * rate.period_us, rate.units)
    if due < HORIZON_US:
        assert exact(span, rate) == due
        assert 0 <= span.part < rate.denominator
    else:
        assert span == (HORIZON_US, 0)


@given(rates(), st.lists(st.integers(0, LARGEST_COST), max_size=8), st.integers(0, YEAR_2100_US))
def test_no_sum_leaves_what_lua_holds(rate: Rate, bookings: list[int], now_us: int) -> None:
    """Whatever is booked, no number of a state reaches 2^53, and a debt of decades is ten years long."""
    state = AT_REST
    for units in bookings:
        state = booked(state, rate, now_us, taken=0, actual=units)
        assert max(state.whole, state.part + rate.denominator) < LUA_EXACT
        assert arrival(state, rate, now_us) <= (now_us + HORIZON_US, 0)


def test_the_horizon_bounds_a_debt() -> None:
    """2^52 units of 1/second are 142 million years; the debt on record is ten."""
    rate = Rate(1, SECOND_US, 1)
    state = booked(AT_REST, rate, NOW_US, taken=0, actual=LARGEST_COST)
    assert arrival(state, rate, NOW_US) == (NOW_US + HORIZON_US, 0)
    assert rate.reset_us(arrival(state, rate, NOW_US), NOW_US) == HORIZON_US


@given(rates(), st.integers(0, 10**15), st.integers(0, 10**15), st.data())
def test_minus_undoes_plus(rate: Rate, moment: int, more: int, data: st.DataObject) -> None:
    """Adding a span carries, taking it away borrows, and both together change nothing."""
    parts = st.integers(0, rate.denominator - 1)
    first, second = Span(moment, data.draw(parts)), Span(more, data.draw(parts))
    total = plus(first, second, rate.denominator)
    assert 0 <= total.part < rate.denominator
    assert exact(total, rate) == exact(first, rate) + exact(second, rate)
    assert minus(total, second, rate.denominator) == first


def test_an_arrival_in_the_past_is_now() -> None:
    """Idle time beyond the burst is not saved up."""
    rate = Rate(10, SECOND_US, 5)
    assert arrival(Span(NOW_US - 1, 0), rate, NOW_US) == (NOW_US, 0)
    assert arrival(Span(NOW_US + 1, 0), rate, NOW_US) == (NOW_US + 1, 0)
    assert rate.backlog(Span(NOW_US - 1, 0), NOW_US) == 0


@pytest.mark.parametrize(
    ("units", "period_us", "burst", "complaint"),
    [
        (0, SECOND_US, 1, "positive"),
        (1, 0, 1, "positive"),
        (1, SECOND_US, 0, "positive"),
        (LARGEST_COST + 1, SECOND_US, 1, "2\\^52"),
        (LARGEST_COST, SECOND_US, LARGEST_COST + 1, "2\\^52"),
        (1, HORIZON_US, 1, "ten years"),
        (1, SECOND_US, HORIZON_US // SECOND_US, "ten years"),
    ],
)
def test_a_rate_that_cannot_be_is_refused(units: int, period_us: int, burst: int, complaint: str) -> None:
    """Zero, beyond 2^52, and a burst that takes ten years to come back are no rates."""
    with pytest.raises(ValueError, match=complaint):
        Rate(units, period_us, burst)


def test_the_slowest_rate_can_be() -> None:
    """One unit in a microsecond less than ten years is a rate."""
    assert Rate(1, HORIZON_US - 1, 1).tolerance == (HORIZON_US - 1, 0)


@pytest.mark.parametrize("units", [-1, LARGEST_COST + 1])
def test_a_cap_that_cannot_be_is_refused(units: int) -> None:
    """A cap is 0 to 2^52."""
    with pytest.raises(ValueError, match="a cap is 0 to 2\\^52"):
        Cap(units, Period.DAY)


@given(st.integers(0, LARGEST_COST), st.integers(0, LARGEST_COST))
def test_a_cap_has_left_what_is_not_used(units: int, used: int) -> None:
    """What remains of a cap is never below 0, whatever was booked."""
    assert Cap(units, Period.DAY).remaining(used) == max(0, units - used)


WINDOWS = (100, 200, 300, 400)


@pytest.mark.parametrize(
    ("start", "now_us", "expected"),
    [
        (0, 200, (200, 300)),
        (0, 299, (200, 300)),
        (0, 300, (300, 400)),
        (0, 100, (100, 200)),
        (0, 199, (100, 200)),
        (200, 250, (200, 300)),
        (100, 250, (200, 300)),
        (300, 250, (300, 400)),
        (200, 150, (200, 300)),
        (300, 100, (300, 400)),
        (400, 250, (400, 400)),
        (700, 250, (700, 700)),
    ],
)
def test_the_window_that_counts(start: int, now_us: int, expected: tuple[int, int]) -> None:
    """It is the one around now, or a later one that was opened before the clock went back."""
    assert standing_window(start, WINDOWS, now_us) == expected


@given(st.integers(0, 399), st.lists(st.integers(100, 399), max_size=10))
def test_a_window_is_never_reopened(start: int, readings: list[int]) -> None:
    """However the clock jumps, the window that counts only moves on, and none is entered twice."""
    for now_us in readings:
        opening, closing = standing_window(start, WINDOWS, now_us)
        assert opening >= start or start not in WINDOWS
        assert now_us < closing
        start = opening


def test_units_count_in_their_own_window() -> None:
    """What was used in another window does not count in this one."""
    assert used_in(Span(200, 7), 200) == 7
    assert used_in(Span(200, 7), 300) == 0
    assert used_in(AT_REST, 200) == 0


@pytest.mark.parametrize(
    ("state", "window", "taken", "actual", "expected"),
    [
        (Span(200, 10), 200, 3, 5, Span(200, 12)),
        (Span(200, 10), 200, 3, 0, Span(200, 7)),
        (Span(200, 2), 200, 3, 0, Span(200, 0)),
        (Span(200, 10), 200, 0, 4, Span(200, 14)),
        (Span(300, 10), 200, 3, 0, Span(300, 10)),
        (Span(300, 10), 200, 0, 9, Span(300, 10)),
        (Span(100, 10), 200, 0, 9, Span(200, 9)),
        (Span(100, 10), 200, 5, 2, Span(100, 10)),
        (AT_REST, 200, 0, 9, Span(200, 9)),
        (Span(200, LARGEST_COST - 1), 200, 0, 5, Span(200, LARGEST_COST)),
    ],
)
def test_recounting_a_cap(state: Span, window: int, taken: int, actual: int, expected: Span) -> None:
    """A booking counts in its own window alone, gives back no more than is there, and stays within 2^52."""
    assert recounted(state, window, taken=taken, actual=actual) == expected


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6))
def test_recounting_gives_what_the_truth_would_have(used: int, taken: int, actual: int) -> None:
    """A cap that took some and was told the truth counts as if it had known."""
    assert recounted(Span(200, used + taken), 200, taken=taken, actual=actual) == Span(200, used + actual)
