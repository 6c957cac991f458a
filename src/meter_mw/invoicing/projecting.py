"""What the rest of a period may bring, from the days before: a projection with its range. Pure.

Each remaining day is expected to use the mean of the complete days of its weekday, out of the last 28; while
a weekday has fewer than two of them, the mean of all complete days. The lowest and the highest of the same
days give the range. The present day brings at least what it has brought already.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING

from meter_mw.rating.amounts import rounded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

MOST_DAYS = 28
"""Complete days that are looked at."""

_LEAST_OF_WEEKDAY = 2


class Method(Enum):
    """How the remaining days are projected."""

    WEEKDAY = "the mean of the complete days of the same weekday"
    LINEAR = "the mean of all complete days"
    NOTHING = "no complete day yet: nothing is added to what was used so far"


class Bound(Enum):
    """Which of the days before a remaining day is taken to be like."""

    LOW = "low"
    EXPECTED = "expected"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Projection:
    """How days to come are projected from the units of complete days, of one field."""

    history: Mapping[date, int]

    @property
    def method(self) -> Method:
        """How it is done, with the days that there are."""
        if not self.history:
            return Method.NOTHING
        weekdays = [day.weekday() for day in self.history]
        has_enough = min(map(weekdays.count, range(7))) >= _LEAST_OF_WEEKDAY
        return Method.WEEKDAY if has_enough else Method.LINEAR

    def of(self, day: date, bound: Bound) -> int:
        """Give the units that a day may bring."""
        found = self._alike(day)
        if not found:
            return 0
        match bound:
            case Bound.LOW:
                return min(found)
            case Bound.HIGH:
                return max(found)
            case Bound.EXPECTED:
                return int(rounded(Fraction(sum(found), len(found)), 0))

    def _alike(self, day: date) -> Sequence[int]:
        if self.method is Method.WEEKDAY:
            return [units for each, units in self.history.items() if each.weekday() == day.weekday()]
        return list(self.history.values())
