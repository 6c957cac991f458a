"""What a spike looks like: the customer's own growth, or somebody else with its key. Pure.

No address of a client is recorded, so it is told from what is: which keys called, in which hours of the day,
on which routes, and how many answers were errors. Each is a hint, and says nothing where too little is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meter_mw.signals.signal import Figure

_MOST = 0.9
"""The part of the rise that one key makes alone, where others called before too."""
_ONE_OF_SEVERAL = 0.6
_HALF = 0.5
_RARE = 0.02
"""The part of the past that an hour had in which a subject hardly calls."""
_LEAST_RARE = 6
"""Hours; whoever calls around the clock has none."""
_LIKE = 0.25
"""How far two mixtures are apart, at most, to be alike (total variation)."""
_ERRORS = 3.0
_LEAST_ERRORS = 0.05


class Looks(Enum):
    """What a spike looks like."""

    GROWTH = "growth"
    """More of the same."""
    LEAK = "leak"
    """Unlike the subject in two ways at least."""
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Traces:
    """How the answers of a span are spread; None where the ledger keeps that no longer."""

    keys: Mapping[str, int] | None
    hours: Mapping[int, int] | None
    routes: Mapping[str, int]
    errors: float
    """The part that was 4xx."""


def looks(then: Traces, before: Traces) -> dict[str, Figure]:
    """Give what a spike looks like beside the weeks before, and the hints that say so."""
    hints = dict(_hints(then, before))
    leaks = sorted(name for name, is_like in hints.items() if not is_like)
    found = Looks.LEAK if len(leaks) >= 2 else Looks.GROWTH if hints and not leaks else Looks.UNCLEAR
    said: dict[str, Figure] = {"looks_like": found.value}
    if leaks:
        said["unlike_before"] = ", ".join(leaks)
    if len(hints) > len(leaks):
        said["like_before"] = ", ".join(sorted({*hints} - {*leaks}))
    return said


def _hints(then: Traces, before: Traces) -> Iterator[tuple[str, bool]]:
    """Give each hint, and whether it is like before."""
    if then.keys and before.keys and len(before.keys) > 1:
        yield "keys", not _is_of_one_key(then.keys, before.keys)
    rare = _rare_hours(before.hours or {})
    if then.hours and len(rare) >= _LEAST_RARE:
        yield "hours", sum(then.hours.get(each, 0) for each in rare) < _HALF * sum(then.hours.values())
    if then.routes and before.routes:
        new = sum(units for route, units in then.routes.items() if route not in before.routes)
        if new >= _HALF * sum(then.routes.values()):
            yield "routes", False
        elif _apart(then.routes, before.routes) <= _LIKE:
            yield "routes", True
    yield "errors", then.errors < max(_LEAST_ERRORS, _ERRORS * before.errors)


def _is_of_one_key(then: Mapping[str, int], before: Mapping[str, int]) -> bool:
    """Say whether one key, which was one of several, makes nearly all of the calls."""
    key, calls = max(then.items(), key=lambda item: item[1])
    share = before.get(key, 0) / sum(before.values())
    return calls >= _MOST * sum(then.values()) and 0 < share <= _ONE_OF_SEVERAL


def _rare_hours(hours: Mapping[int, int]) -> list[int]:
    total = sum(hours.values())
    return [hour for hour in range(24) if hours.get(hour, 0) < _RARE * total]


def _apart(then: Mapping[str, int], before: Mapping[str, int]) -> float:
    a, b = sum(then.values()), sum(before.values())
    return sum(abs(then.get(each, 0) / a - before.get(each, 0) / b) for each in {*then, *before}) / 2
