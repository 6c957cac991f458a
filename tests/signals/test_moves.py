"""Drops, silence and spikes: told on the day they can be, once, and not for weekends, holidays or chance."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter_mw.policy.signals import Kind
from meter_mw.signals.crowd import with_holidays
from signals.histories import MONDAY, RULES, WEEK, crowd, found, history, told, usual

if TYPE_CHECKING:
    from meter_mw.signals.history import History


def test_a_drop_is_told_once_with_its_figures() -> None:
    """From 70 on only a fifth is called: on the fourth day half of a week is missing."""
    (signal,) = found(history(usual(10) + [each // 5 for each in usual(4)]))
    assert told([signal]) == [("drop", 73)]
    assert signal.evidence == {"calls": 1950, "expected": 5150, "days": 7, "missing": 0.621}


def test_nothing_is_told_of_what_is_usual() -> None:
    """Weekends are usual, and so is growth."""
    assert found(history(usual(20))) == []
    assert found(history([round(units * 1.02**day) for day, units in enumerate(usual(20))])) == []


def test_silence_is_told_in_place_of_a_drop() -> None:
    """Three days without a call where there never was one."""
    week = (1000,) * 7
    assert told(found(history(usual(10, week) + [0] * 20))) == [("silence", 72)]


def test_a_weekend_is_no_silence() -> None:
    """Where two days a week are empty, four have to be."""
    week = (1000, 1000, 1000, 1000, 1000, 0, 0)
    assert found(history(usual(12, week))) == []
    assert told(found(history(usual(10, week) + [0] * 9))) == [("silence", 71)]  # Saturday to Tuesday


def test_a_spike_is_told_on_its_day() -> None:
    """Six times what is usual on a Wednesday."""
    calls = usual(12)
    calls[72] = 6000
    (signal,) = found(history(calls))
    assert told([signal]) == [("spike", 72)]
    assert signal.evidence == {"calls": 6000, "expected": 1000, "most_before": 1100, "times": 6.0}
    assert signal.score == 2.0


def test_small_numbers_say_nothing() -> None:
    """Four calls in place of one are no spike, and none in place of four no drop."""
    calls = usual(12, (1, 2, 1, 0, 1, 0, 0))
    calls[70:75] = [9, 0, 0, 0, 0]
    assert found(history(calls)) == []


def test_who_always_does_so_much_does_no_spike() -> None:
    """A record is as far above the last one as that is above a busy day."""
    calls = [2_000 if day % 10 == 3 else 10 for day in range(84)]
    calls[60] = 8_000
    calls[77] = 20_000
    assert told(found(history(calls))) == [("spike", 60)]


def test_a_drop_that_is_over_may_come_again() -> None:
    """After fourteen days without one it is told again."""
    low = [each // 5 for each in usual(1)]
    calls = [*usual(10), *low, *usual(4), *low]
    assert told(found(history(calls))) == [("drop", 73), ("drop", 108)]


def test_what_happens_to_most_is_no_signal() -> None:
    """A week off for everybody is a holiday; the one who stays away after it is told of."""
    away = usual(10) + [0] * 5 + [100, 50]
    everyone = crowd(9, lambda number: away + (usual(3) if number else [0] * 21))
    signals = found(*everyone)
    assert {each.subject for each in signals} == {"s0"}
    assert told(signals) == [("silence", 79)]
    assert told(found(everyone[1])) == [("silence", 72)]


def test_what_most_lose_is_expected_of_each() -> None:
    """A week of 60 % for everybody is no holiday; 45 % is no drop in it, and would be one alone."""
    week = [round(0.6 * each) for each in usual(1)]
    low = [round(0.45 * each) for each in usual(1)]
    everyone = crowd(9, lambda number: usual(10) + (week if number else low))
    assert found(*everyone) == []
    assert told(found(everyone[0])) == [("drop", 74)]


def test_a_growing_customer_is_not_compared_with_what_it_was() -> None:
    """38 % of what it would have been by now is more than half of what is usual on its weekdays."""
    growing = [round(units * 1.01**day) for day, units in enumerate(usual(15))]
    calls = [units if day < 98 else round(0.38 * units) for day, units in enumerate(growing)]
    assert [each.kind.value for each in found(history(calls))] == ["drop"]


def test_a_listed_holiday_is_neither_judged_nor_compared_with() -> None:
    """It needs no crowd."""
    calls = usual(20)
    days = [70, 71, 72, 73, 74]
    for day in days:
        calls[day] = 0
    rules = replace(RULES, holidays=frozenset(date.fromordinal(MONDAY + day) for day in days))
    (listed,) = with_holidays([history(calls, rules=rules)], range(MONDAY, MONDAY + 140))
    assert told(found(history(calls))) != []
    assert found(history(calls, rules=rules), rules=rules) == []
    usual_then = listed.same_weekday(MONDAY + 77, MONDAY + 77)
    assert usual_then is not None
    assert usual_then.expected == 1000


def test_a_kind_that_is_off_is_not_told() -> None:
    """Others still are."""
    rules = replace(RULES, off=frozenset([Kind.SPIKE]))
    calls = usual(12)
    calls[72] = 6000
    assert found(history(calls, rules=rules), rules=rules) == []


@pytest.mark.parametrize(
    ("change", "kept"),
    [({"drop_share": 0.9}, False), ({"least": 5_000}, False), ({"deviations": 50.0}, False), ({}, True)],
)
def test_thresholds_hold(change: dict[str, float], kept: bool) -> None:
    """Each of them alone can keep a drop from being told."""
    rules = replace(RULES, **change)
    calls = usual(10) + [each // 5 for each in usual(2)]
    assert bool(found(history(calls, rules=rules), rules=rules)) is kept


_calls = st.lists(st.integers(0, 3_000), min_size=60, max_size=90)


def _mixed(calls: list[int]) -> History:
    """Give usual days with some of others in between."""
    days = usual(len(calls) / 7 + 1)[: len(calls)]
    return history(
        [each if each > 2_500 or each < 300 else known for each, known in zip(calls, days, strict=True)]
    )


@settings(max_examples=40, deadline=None)
@given(_calls, st.integers(30, 55))
def test_a_signal_depends_on_no_later_day(calls: list[int], last: int) -> None:
    """What is told up to a day is the same whatever comes after it."""
    whole = _mixed(calls)
    cut = history([whole.calls(MONDAY + day) for day in range(last + 1)])
    assert found(whole, last=last) == found(cut, last=last)


@settings(max_examples=40, deadline=None)
@given(_calls, st.integers(31, 58))
def test_days_are_told_alike_together_and_apart(calls: list[int], cut: int) -> None:
    """Two runs over adjoining days tell what one over both does: nothing twice, nothing left out."""
    whole = _mixed(calls)
    assert found(whole, last=cut - 1) + found(whole, first=cut) == found(whole)


@settings(max_examples=30, deadline=None)
@given(_calls, st.integers(2, 5))
def test_nothing_is_told_more_often_when_all_is_more(calls: list[int], times: int) -> None:
    """Scores keep within their bounds, and evidence is of plain figures."""
    for signal in found(_mixed([each * times for each in calls])):
        assert 1 <= signal.score <= 100
        assert all(isinstance(each, int | float | str) for each in signal.evidence.values())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2_000), min_size=7, max_size=7))
def test_weeks_that_are_alike_tell_nothing(week: list[int]) -> None:
    """Whatever the weekdays are like, and whoever else there is."""
    assert found(history(usual(14, week)), history(usual(14), subject="other")) == []


def test_shares_of_the_week() -> None:
    """The week that these histories are made of begins on a Monday."""
    assert date.fromordinal(MONDAY).weekday() == 0
    assert sum(WEEK) == 5150
