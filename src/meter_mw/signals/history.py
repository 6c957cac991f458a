"""What each subject did day by day, and what is usual for it on such a day. Pure.

Rule 1: a day is compared with the same weekday of the weeks before, by their median: one odd day, or a
        weekend, says nothing.
Rule 2: how far such days lie apart is told by their median absolute deviation, and is never taken for less
        than a tenth of what is expected or what chance alone does to so small a number (Poisson).
Rule 3: what a subject has been doing of late in comparison (its trend) is expected to go on.
Rule 4: holidays, those of the policy and those that `holidays` finds, are not compared with.
Rule 5: a figure of a day depends on that day and the days before it alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from meter_mw.policy.signals import SignalRules

NORMAL = 1.4826
"""The standard deviation of normal figures, as a multiple of their median absolute deviation."""

_LEAST_WEEKS = 3
"""As many of the same weekday there have to be."""

_TREND_DAYS = 14
_LEAST_TREND_DAYS = 5
_MOST_TREND = 3.0
_TENTH = 0.1
_NEAREST, _FARTHEST = 1.5, 4.0
"""A record is at least, and need not be more than, so many times the last one."""


class Told(NamedTuple):
    """What became of a subject's requests on a day; `too_many` (429) are among the `client_errors`."""

    answers: int = 0
    client_errors: int = 0
    server_errors: int = 0
    too_many: int = 0
    limited: int = 0


NOTHING = Told()


class Usual(NamedTuple):
    """How many calls are expected on a day, and how far it may lie from that (one standard deviation)."""

    expected: float
    spread: float

    def times(self, factor: float) -> Usual:
        """Give what is usual when all is so many times as much."""
        expected = self.expected * factor
        return Usual(expected, max(self.spread * factor, _floor(expected)))


@dataclass(frozen=True)
class History:
    """The days of a subject by their numbers (`date.toordinal`); those that are not there have no call."""

    subject: str
    days: Mapping[int, Told]
    rules: SignalRules
    holidays: frozenset[int] = frozenset()
    _usual: dict[int, Usual | None] = field(default_factory=dict, repr=False, compare=False)
    _trends: dict[int, float] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def first(self) -> int | None:
        """The first day with any answer."""
        return min((day for day, told in self.days.items() if told.answers), default=None)

    @cached_property
    def _calls(self) -> dict[int, int]:
        return {day: told.answers for day, told in self.days.items()}

    def told(self, day: int) -> Told:
        """Give what became of requests on a day."""
        return self.days.get(day, NOTHING)

    def calls(self, day: int) -> int:
        """Give how many were answered on a day."""
        return self._calls.get(day, 0)

    def before(self, day: int) -> range:
        """Give the days that one is compared with."""
        return range(day - 7 * self.rules.weeks, day)

    def usual(self, day: int, before: int | None = None) -> Usual | None:
        """Give what is usual on a day, from the days before it or an earlier one; None where they are few."""
        before = day if before is None else before
        same = self.same_weekday(day, before)
        return None if same is None else same.times(self._trend(before))

    def same_weekday(self, day: int, before: int) -> Usual | None:
        """Give what was usual on the weekday of a day, without any trend."""
        latest = day - 7 * ((day - before) // 7 + 1)
        if latest not in self._usual:
            self._usual[latest] = self.of_weekday(latest, self.holidays)
        return self._usual[latest]

    def of_weekday(self, latest: int, holidays: AbstractSet[int]) -> Usual | None:
        """Give what was usual on a weekday up to, and with, a day; holidays are left out."""
        first, calls = self.first, self._calls
        counted = [
            calls.get(each, 0)
            for each in range(latest, latest - 7 * self.rules.weeks, -7)
            if first is not None and each >= first and each not in holidays
        ]
        if len(counted) < _LEAST_WEEKS:
            return None
        middle = median(counted)
        apart = median([abs(each - middle) for each in counted])
        return Usual(middle, max(NORMAL * apart, _floor(middle)))

    def record(self, before: int) -> float:
        """Give what the next record may be: as far above the last one as that is above a busy day.

        Where days are wildly different, records are; a busy day is the tenth of a hundred.
        """
        active = sorted(calls for each in self.before(before) if (calls := self.calls(each)))
        if not active:
            return 0.0
        most, busy = active[-1], active[9 * (len(active) - 1) // 10]
        return most * min(_FARTHEST, max(_NEAREST, most / busy))

    def _trend(self, before: int) -> float:
        """Give how the last days before one compare with what was usual on their weekdays."""
        if before not in self._trends:
            ratios = [
                self.calls(day) / same.expected
                for day in range(before - _TREND_DAYS, before)
                if day not in self.holidays
                and (same := self.same_weekday(day, day)) is not None
                and same.expected >= 1
            ]
            trend = median(ratios) if len(ratios) >= _LEAST_TREND_DAYS else 1.0
            self._trends[before] = min(_MOST_TREND, max(1 / _MOST_TREND, trend))
        return self._trends[before]


def _floor(expected: float) -> float:
    return max(1.0, sqrt(expected), _TENTH * expected)
