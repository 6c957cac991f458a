"""The arithmetic of rates, caps and slots, held to exact rational numbers."""

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
    Slots,
    Span,
    Used,
    arrival,
    beyond,
    booked,
    charged,
    closing_of,
    conforms,
    minus,
    normal,
    penalised,
    plus,
    recounted,
    returned,
    standing,
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
        if fits(state, rate, now_us, units):
            state = charge(state, rate, now_us, units)
        elif units > rate.burst:
            state = book(state, rate, now_us, taken=0, actual=units)
    assume(state.whole < now_us + HORIZON_US)
    return rate, state, now_us


def exact(span: Span, rate: Rate) -> Fraction:
    """Give a span, or a moment, as the number that it stands for."""
    return span.whole + Fraction(span.part, rate.denominator)


def fits(state: Span, rate: Rate, now_us: int, units: int) -> bool:
    """Say whether units fit now."""
    return conforms(state, rate, now_us, rate.span(units))


def charge(state: Span, rate: Rate, now_us: int, units: int) -> Span:
    """Give the state after units."""
    return charged(state, rate, now_us, rate.span(units))


def book(state: Span, rate: Rate, now_us: int, *, taken: int, actual: int) -> Span:
    """Give the state when units that were the last to be charged turn out to be others."""
    due_us = state.whole
    return booked(state, rate, now_us, taken=rate.span(taken), due_us=due_us, actual=rate.span(actual))


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
    assert (wait_us == 0) is fits(state, rate, now_us, need)
    assert fits(state, rate, now_us + wait_us, need)
    assert wait_us == 0 or not fits(state, rate, now_us + wait_us - 1, need)


def test_the_wait_of_thirds_rounds_up_once() -> None:
    """Of 3 a second, burst 1, the next one fits after 333,334 µs: a third is not to be had earlier."""
    rate = Rate(3, SECOND_US, 1)
    state = charge(AT_REST, rate, NOW_US, 1)
    assert Span(NOW_US + 333_333, 1) == state
    assert wait_of(state, rate, NOW_US, 1) == 333_334
    assert not fits(state, rate, NOW_US + 333_333, 1)
    assert fits(state, rate, NOW_US + 333_334, 1)


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
        if fits(state, rate, now_us, units):
            state = charge(state, rate, now_us, units)
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
    assert fits(AT_REST, rate, NOW_US, rate.burst)
    full = charge(AT_REST, rate, NOW_US, rate.burst)
    assert not fits(full, rate, NOW_US, 1)
    assert not fits(AT_REST, rate, NOW_US, rate.burst + 1)
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
        state = charge(state, rate, now_us, 1)
    assert now_us - NOW_US == 333_332_666_667
    assert state == Span(NOW_US + 333_333_333_333, 1)


@given(states())
def test_remaining_is_what_would_conform(case: tuple[Rate, Span, int]) -> None:
    """As many units as remain fit at once, and not one more."""
    rate, state, now_us = case
    left = rate.remaining(arrival(state, rate, now_us), now_us)
    assert 0 <= left <= rate.burst
    assert not fits(state, rate, now_us, left + 1)
    assert left == 0 or fits(state, rate, now_us, left)


def test_remaining_has_the_worked_number() -> None:
    """A rate of 10 a second with burst 5, two units after rest, has 3 remaining."""
    rate = Rate(10, SECOND_US, 5)
    state = charge(AT_REST, rate, NOW_US, 2)
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
    assert fits(state, rate, now_us + reset_us, rate.burst)
    assert reset_us == 0 or not fits(state, rate, now_us + reset_us - 1, rate.burst)


@given(states(), st.integers(1, LARGEST_COST))
def test_never_is_told_from_not_yet(case: tuple[Rate, Span, int], more: int) -> None:
    """More than the burst never fits, and is given no wait, however long one waits."""
    rate, state, now_us = case
    need = rate.burst + more
    assert wait_of(state, rate, now_us, need) is None
    assert not fits(state, rate, now_us + 2 * HORIZON_US, need)
    assert wait_of(state, rate, now_us, rate.burst) is not None


def test_debt_is_worked_off() -> None:
    """30 units booked on 10/second, burst 5: nothing remains, and one fits after 2.6 s."""
    rate = Rate(10, SECOND_US, 5)
    state = book(AT_REST, rate, NOW_US, taken=0, actual=30)
    assert rate.remaining(state, NOW_US) == 0
    assert rate.reset_us(state, NOW_US) == 3 * SECOND_US
    assert wait_of(state, rate, NOW_US, 1) == 2_600_000
    assert not fits(state, rate, NOW_US + 2_599_999, 1)
    assert fits(state, rate, NOW_US + 2_600_000, 1)


@given(states(), st.data())
def test_a_refund_is_the_inverse_of_a_charge(case: tuple[Rate, Span, int], data: st.DataObject) -> None:
    """Units found to be fewer leave the state of the fewer; the last part of a µs is not given back."""
    rate, state, now_us = case
    taken = data.draw(st.integers(0, rate.burst))
    actual = data.draw(st.integers(0, taken))
    after = charge(state, rate, now_us, taken)
    settled, wanted = (
        book(after, rate, now_us, taken=taken, actual=actual),
        charge(state, rate, now_us, actual),
    )
    assert settled == (after if after.whole == now_us else wanted)
    assert 0 <= exact(settled, rate) - exact(wanted, rate) < 1


@given(states(), st.data())
def test_a_booking_of_more_is_a_second_charge(case: tuple[Rate, Span, int], data: st.DataObject) -> None:
    """Units found to be more than taken leave the state that all of them would have left at once."""
    rate, state, now_us = case
    taken = data.draw(st.integers(0, rate.burst))
    actual = data.draw(st.integers(taken, rate.burst))
    after = charge(state, rate, now_us, taken)
    assume(after.whole < now_us + HORIZON_US)
    assert book(after, rate, now_us, taken=taken, actual=actual) == charge(state, rate, now_us, actual)


def test_nothing_always_fits() -> None:
    """What needs nothing is not kept waiting by a debt."""
    rate = Rate(10, SECOND_US, 5)
    debt = book(AT_REST, rate, NOW_US, taken=0, actual=30)
    assert fits(debt, rate, NOW_US, 0)
    assert wait_of(debt, rate, NOW_US, 0) == 0
    assert not fits(debt, rate, NOW_US, 1)


@given(states(), st.data())
def test_a_penalty_makes_no_debt(case: tuple[Rate, Span, int], data: st.DataObject) -> None:
    """A refused request costs what it asked for, or what is left of the burst; a debt stays as it is."""
    rate, state, now_us = case
    units = data.draw(st.integers(0, 2 * rate.burst))
    before, after = arrival(state, rate, now_us), penalised(state, rate, now_us, rate.span(units))
    full = plus(Span(now_us, 0), rate.tolerance, rate.denominator)
    assert after >= before
    if fits(state, rate, now_us, units):
        assert after == charge(state, rate, now_us, units)
    else:
        assert after == max(before, full)


@given(rates(), st.integers(0, LARGEST_COST), st.integers(0, LARGEST_COST))
def test_beyond_what_is_held(rate: Rate, units: int, held: int) -> None:
    """What is beyond a span and the span together are the longer of both."""
    span, had = rate.span(units), rate.span(held)
    more = beyond(span, had, rate)
    assert plus(had, more, rate.denominator) == max(span, had)
    assert (more == AT_REST) is (span <= had)


@st.composite
def spendings(draw: st.DrawFn) -> tuple[Rate, list[tuple[int, int]]]:
    """Draw a rate, and when how many units are asked of it, in tenths of the time that one takes."""
    rate = draw(rates(most_burst=12).filter(lambda rate: rate.numerator >= 10 * rate.denominator))
    tenth_us = rate.numerator // rate.denominator // 10
    steps = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 6)), min_size=1, max_size=12))
    now_us, asked = NOW_US, []
    for gap, units in steps:
        now_us += gap * tenth_us
        asked.append((now_us, units))
    return rate, asked


@given(spendings(), st.data())
def test_a_refund_leaves_no_more_than_if_it_had_never_been(
    case: tuple[Rate, list[tuple[int, int]]], data: st.DataObject
) -> None:
    """What has drained is gone: whoever is given something back is no better off than without the charge."""
    rate, asked = case
    which = data.draw(st.integers(0, len(asked) - 1))
    state = without = AT_REST
    due_us = 0
    for number, (now_us, units) in enumerate(asked):
        state = charge(state, rate, now_us, units)
        if number == which:
            due_us = state.whole
        else:
            without = charge(without, rate, now_us, units)
    back_us = asked[-1][0] + data.draw(st.integers(0, 20 * rate.tolerance.whole // 10))
    after = returned(state, rate, rate.span(asked[which][1]), due_us, back_us)
    assert arrival(after, rate, back_us) >= arrival(without, rate, back_us)
    if back_us == asked[which][0]:
        assert arrival(after, rate, back_us) == arrival(without, rate, back_us)


@given(spendings(), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 11)), max_size=12))
def test_refunds_never_leave_more_than_a_burst(
    case: tuple[Rate, list[tuple[int, int]]], closings: list[tuple[int, int]]
) -> None:
    """In whatever order charges are given back, a burst fits at most, beside what one was held for."""
    rate, asked = case
    state, open_ = AT_REST, {}
    for number, (now_us, units) in enumerate(asked):
        if fits(state, rate, now_us, units):
            state = charge(state, rate, now_us, units)
            open_[number] = (now_us, units, state.whole)
        for _, which in (each for each in closings if each[0] == number):
            if which in open_:
                _, given, due_us = open_.pop(which)
                state = returned(state, rate, rate.span(given), due_us, now_us)
        now = arrival(state, rate, now_us)
        assert rate.remaining(now, now_us) <= rate.burst
        at_once = sum(units for since_us, units, _ in open_.values() if since_us == now_us)
        assert at_once + rate.remaining(now, now_us) <= 2 * rate.burst


def test_a_refund_of_what_has_drained_gives_nothing() -> None:
    """5 units of 10/second, burst 5: half a second later they are back by themselves, and only once."""
    rate = Rate(10, SECOND_US, 5)
    held = charge(AT_REST, rate, NOW_US, 5)
    later_us = NOW_US + 500_000
    full = charge(held, rate, later_us, 5)
    assert returned(full, rate, rate.span(5), held.whole, later_us) == full
    assert rate.remaining(returned(full, rate, rate.span(5), held.whole, later_us - 200_000), later_us) == 2


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
        state = book(state, rate, now_us, taken=0, actual=units)
        assert max(state.whole, state.part + rate.denominator) < LUA_EXACT
        assert arrival(state, rate, now_us) <= (now_us + HORIZON_US, 0)


def test_the_horizon_bounds_a_debt() -> None:
    """2^52 units of 1/second are 142 million years; the debt on record is ten."""
    rate = Rate(1, SECOND_US, 1)
    state = book(AT_REST, rate, NOW_US, taken=0, actual=LARGEST_COST)
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


def test_a_cap_that_cannot_be_is_refused() -> None:
    """Units, grace, ceiling and thresholds are numbers that hold, and do not contradict each other."""
    for bad in (
        {"units": -1},
        {"units": LARGEST_COST + 1},
        {"grace": -1},
        {"grace": LARGEST_COST - 9},
        {"ceiling": 12},
        {"ceiling": 9, "bills": True},
        {"ceiling": 12, "grace": 3, "bills": True},
        {"ceiling": LARGEST_COST + 1, "bills": True},
        {"warn": (0,)},
        {"warn": (5, 5)},
        {"warn": (8, 5)},
    ):
        with pytest.raises(ValueError, match=r"a cap|a ceiling|thresholds"):
            Cap(**{"units": 10, "period": Period.DAY, **bad})


def test_slots_that_cannot_be_are_refused() -> None:
    """No slots at all are no limit on concurrency."""
    for units in (0, LARGEST_COST + 1):
        with pytest.raises(ValueError, match="slots are 1 to 2\\^52"):
            Slots(units)
    assert [Slots(3).remaining(used) for used in (0, 2, 3, 9)] == [3, 1, 0, 0]


@given(st.integers(0, LARGEST_COST), st.integers(0, LARGEST_COST))
def test_a_cap_has_left_what_is_not_used(units: int, used: int) -> None:
    """What remains of a cap is never below 0, whatever was booked."""
    assert Cap(units, Period.DAY).remaining(used) == max(0, units - used)


@pytest.mark.parametrize(
    ("cap", "included", "most"),
    [
        (Cap(10, Period.DAY), 10, 10),
        (Cap(10, Period.DAY, grace=2), 12, 12),
        (Cap(10, Period.DAY, bills=True), 10, LARGEST_COST),
        (Cap(10, Period.DAY, grace=2, bills=True, ceiling=15), 12, 15),
        (Cap(10, Period.DAY, bills=True, ceiling=10), 10, 10),
    ],
)
def test_what_a_cap_serves(cap: Cap, included: int, most: int) -> None:
    """Grace belongs to it; what it bills goes on to the ceiling, or without an end."""
    assert (cap.included, cap.most) == (included, most)


def test_a_resized_cap_keeps_its_proportions() -> None:
    """Grace, ceiling and thresholds are shares of the units."""
    cap = Cap(100, Period.DAY, grace=10, bills=True, ceiling=200, warn=(50, 80, 100))
    assert cap.resized(1_000) == Cap(1_000, Period.DAY, 100, True, 2_000, (500, 800, 1_000))
    assert cap.resized(3) == Cap(3, Period.DAY, 0, True, 6, (2, 3))
    assert cap.resized(0) == Cap(0, Period.DAY, 0, True, 0, (1,))
    assert Cap(0, Period.DAY, bills=True, ceiling=0).resized(7) == Cap(7, Period.DAY, bills=True, ceiling=7)


caps = st.builds(
    lambda units, grace, bills, above, warn: Cap(
        units,
        Period.DAY,
        grace,
        bills,
        units + grace + above if bills and above is not None else None,
        tuple(sorted(warn)),
    ),
    st.integers(0, 40),
    st.integers(0, 5),
    st.booleans(),
    st.none() | st.integers(0, 9),
    st.sets(st.integers(1, 60), max_size=4),
)


@given(caps, st.integers(0, 2_000) | st.integers(0, LARGEST_COST // 8))
def test_any_cap_can_be_resized(cap: Cap, units: int) -> None:
    """Whatever the new units, the result is a cap of them; of the same units, the same cap."""
    assert cap.resized(units).units == units
    assert cap.units == 0 or cap.resized(cap.units) == cap


WINDOWS = (100, 200, 300, 400)


@pytest.mark.parametrize(
    ("used", "now_us", "expected"),
    [
        (Used(), 200, Used(200, 300)),
        (Used(), 299, Used(200, 300)),
        (Used(), 300, Used(300, 400)),
        (Used(), 100, Used(100, 200)),
        (Used(200, 300, 7, 2, 1, 5), 250, Used(200, 300, 7, 2, 1, 5)),
        (Used(100, 200, 7, 2, 1, 5), 250, Used(200, 300)),
        (Used(300, 400, 7), 250, Used(300, 400, 7)),
        (Used(200, 300, 7), 150, Used(200, 300, 7)),
        (Used(300, 400, 7), 100, Used(300, 400, 7)),
        (Used(400, 500, 7), 250, Used(400, 500, 7)),
        (Used(700, 800, 7), 250, Used(700, 800, 7)),
        # The window was another one when the count began: it goes on to the close of today's.
        (Used(150, 350, 7, 2, 1, 5), 250, Used(150, 300, 7, 2, 1, 5)),
        (Used(150, 260, 7, 2, 1, 5), 250, Used(150, 300, 7, 2, 1, 5)),
        (Used(250, 350, 7), 210, Used(250, 300, 7)),
        (Used(150, 260, 7), 260, Used(200, 300)),
    ],
)
def test_the_count_that_goes_on(used: Used, now_us: int, expected: Used) -> None:
    """It is the one whose window is open, or was opened before the clock went back; else a new one."""
    assert standing(used, WINDOWS, now_us) == expected


@given(st.lists(st.integers(100, 399), max_size=10))
def test_a_window_is_never_reopened(moments: list[int]) -> None:
    """However the clock jumps, counts only move on, and none begins before another has closed."""
    used = Used()
    for now_us in moments:
        after = standing(used, WINDOWS, now_us)
        assert now_us < after.until_us
        assert after == used or (after.start_us >= used.until_us and after.used == 0)
        used = after._replace(used=1)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 99), st.integers(1, 9)), max_size=12))
def test_moved_windows_keep_the_count(steps: list[tuple[int, int, int]]) -> None:
    """Whatever becomes of zone and anchor in mid-period, a count only ends at a close that was told."""
    cap, used, now_us = Cap(10**6, Period.DAY), Used(), 10_000
    for gap_us, anchor, units in steps:
        now_us += gap_us
        opening = now_us - (now_us - anchor) % 100
        windows = (opening - 100, opening, opening + 100, opening + 200)
        after = standing(used, windows, now_us)
        assert after.until_us == opening + 100
        if now_us < used.until_us:
            assert (after.start_us, after.used) == (used.start_us, used.used)
        else:
            assert (after.start_us, after.used) == (opening, 0)
        used = recounted(after, cap, units)
        assert used.until_us == after.until_us


@pytest.mark.parametrize(
    ("opening", "closing"), [(100, 200), (200, 300), (300, 400), (250, 300), (99, 99), (400, 400), (0, 0)]
)
def test_the_close_of_a_window(opening: int, closing: int) -> None:
    """It is the end of the window that opens then, or around then; where none does, nothing is open."""
    assert closing_of(WINDOWS, opening) == closing


@pytest.mark.parametrize(
    ("used", "change", "held", "expected"),
    [
        (10, 2, 0, (12, 0)),
        (10, -3, 0, (7, 0)),
        (2, -3, 0, (0, 0)),
        (10, 4, 4, (14, 4)),
        (LARGEST_COST - 1, 5, 0, (LARGEST_COST, 0)),
        (LARGEST_COST - 1, 5, 5, (LARGEST_COST, 5)),
        (0, 0, -1, (0, 0)),
    ],
)
def test_recounting_a_cap(used: int, change: int, held: int, expected: tuple[int, int]) -> None:
    """A count gives back no more than is there, and stays within 2^52."""
    after = recounted(Used(200, 300, used), Cap(LARGEST_COST, Period.DAY), change, held=held)
    assert (after.used, after.held) == expected
    assert (after.start_us, after.until_us) == (200, 300)


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6))
def test_recounting_gives_what_the_truth_would_have(used: int, taken: int, actual: int) -> None:
    """A cap that held some and was told the truth counts as if it had known."""
    cap = Cap(used // 2, Period.DAY, bills=True, warn=(1, 1_000, 2 * 10**9))
    before = Used(200, 300, used, 0, used - used // 2)
    held = recounted(before, cap, taken, held=taken)
    assert held.known == before.known
    assert recounted(held, cap, actual - taken, held=-taken) == recounted(before, cap, actual)


uses = st.lists(
    st.tuples(st.just("use"), st.integers(0, 30))
    | st.tuples(st.just("hold"), st.integers(0, 30))
    | st.tuples(st.just("settle"), st.integers(0, 60)),
    max_size=30,
)


@given(caps, uses)
def test_overage_adds_up(cap: Cap, steps: list[tuple[str, int]]) -> None:
    """Each use is marked by its own units beyond what is included, and all marks add up to the whole."""
    used, held, marks = Used(200, 300), [], []
    for verb, units in steps:
        before = used
        if verb == "hold":
            held.append(units)
            used = recounted(used, cap, units, held=units)
        else:
            had = held.pop() if verb == "settle" and held else 0
            used = recounted(used, cap, units - had, held=-had)
            assert used.known == before.known + units
        marks.append(used.overage - before.overage)
        beyond_before = max(0, before.known - cap.included)
        assert marks[-1] == (max(0, used.known - cap.included) - beyond_before if cap.bills else 0)
        assert used.held == sum(held)
    assert sum(marks) == used.overage == (max(0, used.known - cap.included) if cap.bills else 0)


def test_the_use_that_straddles_is_split_exactly() -> None:
    """Of 5 units at 8 of 10, 3 are overage; of those after it, all are."""
    cap = Cap(10, Period.DAY, bills=True)
    used = recounted(Used(200, 300, 8), cap, 5)
    assert (used.used, used.overage) == (13, 3)
    assert recounted(used, cap, 4).overage == 7


def test_what_was_included_stays_included() -> None:
    """A cap that is lowered marks what comes after; one that is raised takes no mark back."""
    used = recounted(Used(200, 300), Cap(10, Period.DAY, bills=True), 12)
    lowered = recounted(used, Cap(5, Period.DAY, bills=True), 1)
    assert (used.overage, lowered.overage) == (2, 3)
    assert recounted(lowered, Cap(100, Period.DAY, bills=True), 7).overage == 3


def test_a_mark_is_taken_back_with_its_units() -> None:
    """A use of 4 that was marked by 3 turns out to be 2: one of them is overage."""
    cap = Cap(10, Period.DAY, bills=True)
    used = recounted(Used(200, 300, 9), cap, 4)
    assert used.overage == 3
    assert recounted(used, cap, -2, unmarked=2) == Used(200, 300, 11, 0, 1)


@given(caps, st.lists(st.integers(-30, 30), max_size=30))
def test_thresholds_are_announced_once(cap: Cap, changes: list[int]) -> None:
    """Of a count that rises and falls, each threshold is told the first time it is reached, and no more."""
    used, told, reached = Used(200, 300), [], set()
    for change in changes:
        before, used = used, recounted(used, cap, change)
        told += [each for each in cap.warn if before.warned < each <= used.warned]
        reached |= {each for each in cap.warn if each <= used.known}
    assert len(told) == len(set(told))
    assert set(told) == reached


def test_held_units_reach_no_threshold() -> None:
    """What may still come back is not announced; once it is known, it is."""
    cap = Cap(10, Period.DAY, warn=(5, 8))
    held = recounted(Used(200, 300), cap, 9, held=9)
    assert held.warned == 0
    assert recounted(held, cap, -3, held=-9).warned == 5
