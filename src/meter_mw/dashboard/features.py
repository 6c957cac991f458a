"""The features' page: how much and how well each route is used, and where customers meet trouble."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.dashboard.overviews import busiest
from meter_mw.dashboard.periods import days
from meter_mw.ledger.daily import kept_since
from meter_mw.ledger.insight import outcomes, reach, sketches
from meter_mw.policy.terms import Exemption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.dashboard.periods import Days
    from meter_mw.dashboard.sources import Sources
    from meter_mw.ledger.insight import Outcomes, Sketch

_MOST = 100
"""Routes that are shown."""
_MOST_TROUBLES = 15
_FEWEST = 5
"""Requests that went wrong, below which it is no trouble yet."""


class Feature(NamedTuple):
    """A route: what became of its requests, by how many subjects, and durations and sizes by percentile.

    `by_day` are the subjects of each day.
    """

    told: Outcomes
    subjects: int
    middle_us: float | None
    slow_us: float | None
    sent: float | None
    by_day: Sequence[int]


class Trouble(NamedTuple):
    """A customer for whom much of a route goes wrong."""

    told: Outcomes
    wrong: int


@dataclass(frozen=True, slots=True)
class Features:
    """What the features' page shows; `unused` are the metered routes that nobody asked for."""

    days: Days
    features: Sequence[Feature]
    more: int
    unused: Sequence[str]
    troubles: Sequence[Trouble]


def features(sources: Sources, many: int) -> Features:
    """Give the features' page, of so many days. Raises NoLedger, and the errors of the ledger."""
    policy = sources.policy
    with sources.ledger() as database:
        shown = days(sources.now_us, many, kept_since(database, "days"))
        by_route = busiest(outcomes(database, ["route"], shown.span, source=policy.source))
        by_both = outcomes(database, ["subject", "route"], shown.span, source=policy.source)
        reached = reach(database, shown.span, source=policy.source)
        found = sketches(database, shown.span, source=policy.source)
    measured = {(each.route, each.measure): each for each in found}
    subjects = Counter(each.key["route"] for each in by_both)
    by_day: dict[str, dict[int, int]] = defaultdict(lambda: dict.fromkeys(shown.starts_us, 0))
    for each in reached:
        by_day[each.route][each.start_us] = each.subjects
    used = {each.key["route"] for each in by_route}
    return Features(
        shown,
        [
            Feature(
                each,
                subjects[each.key["route"]],
                _at(measured.get((each.key["route"], "duration_us")), 0.5),
                _at(measured.get((each.key["route"], "duration_us")), 0.95),
                _at(measured.get((each.key["route"], "response_bytes")), 0.5),
                [*by_day[each.key["route"]].values()],
            )
            for each in by_route[:_MOST]
        ],
        max(0, len(by_route) - _MOST),
        sorted({each.name for each in policy.routes if each.exemption is not Exemption.FREE} - used),
        _troubles(by_both),
    )


def _troubles(found: Sequence[Outcomes]) -> list[Trouble]:
    troubles = [Trouble(each, each.client_errors + each.server_errors + _cut(each)) for each in found]
    troubles = [each for each in troubles if each.wrong >= _FEWEST]
    troubles.sort(key=lambda each: (-each.wrong, *each.told.key.values()))
    return troubles[:_MOST_TROUBLES]


def _cut(told: Outcomes) -> int:
    """Give what a limit stopped on its way beyond what was answered with an error for that."""
    return max(0, told.limited - told.too_many)


def _at(sketch: Sketch | None, part: float) -> float | None:
    return None if sketch is None else sketch.quantile(part)
