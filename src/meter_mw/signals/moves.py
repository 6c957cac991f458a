"""How much a subject calls, compared with what is usual for it: drops, silence and spikes. Pure.

Each function says how a day, of all that is known of the days up to it, stands to a threshold: the figures,
or None where it is within. `common` is how the days were for most subjects.
"""

from __future__ import annotations

from itertools import islice
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.signals.signal import score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meter_mw.signals.history import History, Usual
    from meter_mw.signals.signal import Figure

_LEVEL = 0.1
"""How far the days of a week may be off together, as a part of what is expected of them."""

_GAPS = 2
"""Silence is so many times the longest gap of the weeks before."""

_LEAST_ACTIVE = 5
"""Active days in the weeks before, without which no silence is told."""

_WEEK = 7
_MOST_DAYS = 28
"""Holidays that are left out before a drop is no longer looked for."""


class Found(NamedTuple):
    """A threshold that was reached: by how much, and the figures."""

    score: float
    evidence: Mapping[str, Figure]


def drop(history: History, day: int, common: Mapping[int, float]) -> Found | None:
    """Say how much is missing from the calls of the last days, together."""
    rules = history.rules
    days = _working(history, day, rules.drop_days)
    if day not in days or _is_usual(history, day, days[0]):
        return None
    usual = [_usual(history, each, days[0], min(1.0, common.get(each, 1.0))) for each in days]
    if any(each is None for each in usual):
        return None
    sure = [each for each in usual if each is not None]
    expected = sum(each.expected for each in sure)
    spread = sqrt(sum(each.spread**2 for each in sure) + (_LEVEL * expected) ** 2)
    calls = sum(map(history.calls, days))
    missing = expected - calls
    whole = len(days) / _WEEK * sum(each.expected for each in _week(history, day, days[0]))
    reached = (
        missing / rules.least,
        missing / (rules.drop_share * max(expected, whole)) if expected else 0.0,
        missing / spread / rules.deviations,
    )
    if min(reached) < 1:
        return None
    return Found(
        score(*reached),
        {"calls": calls, "expected": round(expected), "days": len(days), "missing": _part(missing, expected)},
    )


def silence(history: History, day: int, common: Mapping[int, float]) -> Found | None:
    """Say for how long there was no call, where there should have been some."""
    rules = history.rules
    gap = _gap(history, day)
    begun = day - gap + 1
    before = history.before(begun)
    if gap < rules.silence_days or sum(history.calls(each) > 0 for each in before) < _LEAST_ACTIVE:
        return None
    longest = _longest_gap(history, before)
    missed = [_usual(history, each, begun, min(1.0, common.get(each, 1.0))) for each in range(begun, day + 1)]
    busiest = max((each.expected for each in missed if each is not None), default=0.0)
    missing = sum(
        each.expected
        for number, each in zip(range(begun, day + 1), missed, strict=True)
        if each is not None and number not in history.holidays
    )
    reached = (gap / rules.silence_days, gap / (_GAPS * longest) if longest else float(gap))
    if min(reached) < 1 or missing < max(rules.least, busiest):
        return None
    return Found(
        score(*reached, missing / rules.least),
        {"days": gap, "longest_gap_before": longest, "expected": round(missing)},
    )


def spike(history: History, day: int, common: Mapping[int, float]) -> Found | None:
    """Say how many times what is usual was called."""
    rules = history.rules
    usual = _usual(history, day, day, max(1.0, common.get(day, 1.0)))
    if usual is None or day in history.holidays:
        return None
    calls = history.calls(day)
    more = calls - usual.expected
    reached: tuple[float, ...] = (
        calls / (rules.spike_times * max(1.0, usual.expected)),
        more / usual.spread / rules.deviations,
        more / rules.least,
    )
    if min(reached) < 1:
        return None
    record = history.record(day)
    if calls < record:
        return None
    most = max(map(history.calls, history.before(day)))
    figures = {"calls": calls, "expected": round(usual.expected), "most_before": most}
    times = round(calls / max(1.0, usual.expected), 1)
    return Found(score(*reached, calls / max(1.0, record)), {**figures, "times": times})


def _usual(history: History, day: int, before: int, factor: float) -> Usual | None:
    usual = history.usual(day, before)
    return None if usual is None else usual.times(factor)


def _working(history: History, day: int, many: int) -> list[int]:
    """Give the last so many days up to one, holidays left out, in their order."""
    days = (each for each in range(day, day - many - _MOST_DAYS, -1) if each not in history.holidays)
    return list(islice(days, many))[::-1]


def _week(history: History, day: int, before: int) -> Iterator[Usual]:
    """Give what is usual on each weekday: few days may be all weekends, or none."""
    for each in range(day - _WEEK + 1, day + 1):
        usual = history.usual(each, min(each, before))
        if usual is not None:
            yield usual


def _is_usual(history: History, day: int, before: int) -> bool:
    """Say whether as much was called as expected, so that whatever was missing is back."""
    usual = history.usual(day, before)
    return usual is None or history.calls(day) > usual.expected


def _gap(history: History, day: int) -> int:
    """Give for how many days up to one there was nothing; 0 where there never was anything."""
    if history.first is None or day < history.first:
        return 0
    begun = day
    while not history.calls(begun):
        begun -= 1
    return day - begun


def _longest_gap(history: History, days: range) -> int:
    longest = current = 0
    for day in days:
        if history.first is None or day < history.first or day in history.holidays:
            continue
        current = 0 if history.calls(day) else current + 1
        longest = max(longest, current)
    return longest


def _part(part: float, whole: float) -> float:
    return round(part / whole, 3) if whole else 0.0
