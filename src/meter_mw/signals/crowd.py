"""What happens to most subjects on the same day: holidays, outages, a busy day. Pure.

Rule 1: what happens to most is expected of each: it is no signal of any of them.
Rule 2: a day on which most called less than half of what is usual, or more than twice, is a holiday: later
        days are not compared with it.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from meter_mw.signals.history import History

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meter_mw.signals.history import Usual

LEAST = 8
"""As many subjects it takes to tell what happened to most."""

_SURE = 20
"""A subject of whom so many calls are expected has a say in that."""
_LEAST_COMMON = 0.02
_ODD = 2.0


def with_holidays(histories: Sequence[History], days: range) -> list[History]:
    """Give the histories with the holidays among some days, which are to begin where the histories do."""
    found = {day.toordinal() for each in histories[:1] for day in each.rules.holidays}
    for day in days:
        middle = _middle(histories, day, (each.of_weekday(day - 7, found) for each in histories))
        if middle is not None and not 1 / _ODD <= middle <= _ODD:
            found.add(day)
    holidays = frozenset(found)
    return [History(each.subject, each.days, each.rules, holidays) for each in histories]


def common(histories: Sequence[History], days: range) -> dict[int, float]:
    """Give how each day was for most subjects, as a multiple of what was usual; 1 where too few can tell."""
    found = {}
    for day in days:
        middle = _middle(histories, day, (each.usual(day) for each in histories))
        found[day] = 1.0 if middle is None else max(_LEAST_COMMON, middle)
    return found


def _middle(histories: Sequence[History], day: int, usual: Iterable[Usual | None]) -> float | None:
    ratios = [
        history.calls(day) / each.expected
        for history, each in zip(histories, usual, strict=True)
        if each is not None and each.expected >= _SURE
    ]
    return median(ratios) if len(ratios) >= LEAST else None
