"""Histories that a test makes up, from a Monday on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from itertools import cycle, islice
from typing import TYPE_CHECKING

from meter_mw.policy.signals import SignalRules
from meter_mw.signals.finding import Evidence, signals
from meter_mw.signals.history import History, Told

if TYPE_CHECKING:
    from meter_mw.signals.signal import Signal

MONDAY = date(2026, 6, 1).toordinal()
RULES = SignalRules()
WEEK = (1000, 1100, 1000, 900, 1000, 100, 50)


def usual(weeks: float, week: Sequence[int] = WEEK) -> list[int]:
    """Give the calls of some weeks that are all alike."""
    return list(islice(cycle(week), round(weeks * 7)))


def history(
    calls: Sequence[int], *, rules: SignalRules = RULES, subject: str = "acme", errors: float = 0.0
) -> History:
    """Give a history of so many calls a day."""
    told = (Told(units, client_errors=round(errors * units)) for units in calls)
    return History(subject, {MONDAY + number: each for number, each in enumerate(told)}, rules)


def found(
    *histories: History, rules: SignalRules = RULES, first: int = 28, last: int | None = None
) -> list[Signal]:
    """Give the signals from a day on, counted from the first Monday."""
    end = max(max(each.days) for each in histories) if last is None else MONDAY + last
    evidence = Evidence(histories, MONDAY, MONDAY)
    return signals(evidence, date.fromordinal(MONDAY + first), date.fromordinal(end), rules)


def told(found: Sequence[Signal]) -> list[tuple[str, int]]:
    """Give kinds and days, counted from the first Monday."""
    return [(each.kind.value, each.day.toordinal() - MONDAY) for each in found]


def crowd(many: int, calls: Callable[[int], Sequence[int]]) -> list[History]:
    """Give the histories of several subjects."""
    return [history(calls(number), subject=f"s{number}") for number in range(many)]
