"""The features' page: how much and how well each route is used, and where customers meet trouble."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.dashboard.periods import days
from meter_mw.ledger.daily import kept_since
from meter_mw.ledger.features import features as of_ledger
from meter_mw.ledger.insight import outcomes, reach
from meter_mw.policy.terms import Exemption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.dashboard.periods import Days
    from meter_mw.dashboard.sources import Sources
    from meter_mw.ledger.features import Feature
    from meter_mw.ledger.insight import Outcomes

_MOST = 100
"""Routes that are shown."""
_MOST_TROUBLES = 15
_FEWEST = 5
"""Requests that went wrong, below which it is no trouble yet."""


class Trouble(NamedTuple):
    """A customer for whom much of a route goes wrong."""

    told: Outcomes
    wrong: int


@dataclass(frozen=True, slots=True)
class Features:
    """What the features' page shows; `unused` are the metered routes that nobody asked for.

    `by_day` are the subjects of each route on each day.
    """

    days: Days
    features: Sequence[Feature]
    by_day: Mapping[str, Sequence[int]]
    more: int
    unused: Sequence[str]
    troubles: Sequence[Trouble]


def features(sources: Sources, many: int) -> Features:
    """Give the features' page, of so many days. Raises NoLedger, and the errors of the ledger."""
    policy = sources.policy
    with sources.ledger() as database:
        shown = days(sources.now_us, many, kept_since(database, "days"))
        found = of_ledger(database, shown.span, source=policy.source)
        by_both = outcomes(database, ["subject", "route"], shown.span, source=policy.source)
        reached = reach(database, shown.span, source=policy.source)
    by_day: dict[str, dict[int, int]] = defaultdict(lambda: dict.fromkeys(shown.starts_us, 0))
    for each in reached:
        by_day[each.route][each.start_us] = each.subjects
    metered = {each.name for each in policy.routes if each.exemption is not Exemption.FREE}
    return Features(
        shown,
        found[:_MOST],
        {each.route: [*by_day[each.route].values()] for each in found},
        max(0, len(found) - _MOST),
        sorted(metered - {each.route for each in found}),
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
