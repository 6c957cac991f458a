"""What a subject does for the first time: call at all, and take up a route. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.model import UNMATCHED
from meter_mw.signals.moves import Found
from meter_mw.signals.signal import score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.policy.signals import SignalRules
    from meter_mw.signals.history import History

TRIAL = 7
"""Days within which a route is taken up, or was only tried."""

_SETTLED = 14
"""Days after which a subject's routes are no longer all new."""


@dataclass(frozen=True, slots=True)
class Uptake:
    """Answers of 2xx that a route gave a subject, by day (`date.toordinal`), in its first days."""

    subject: str
    route: str
    first: int
    served: Mapping[int, int]


def first_use(history: History, day: int) -> Found:
    """Tell of the first day on which a subject was served."""
    return Found(1.0, {"calls": history.calls(day)})


def taken_up(uptake: Uptake, since: int | None, rules: SignalRules) -> tuple[int, Found] | None:
    """Give the day on which a route counts as taken up by a subject that was first served `since`."""
    is_settled = since is not None and since <= uptake.first - _SETTLED
    if not is_settled or uptake.route in (UNMATCHED, ""):
        return None
    served = 0
    for day in range(uptake.first, uptake.first + TRIAL):
        served += uptake.served.get(day, 0)
        if served >= rules.new_route_calls:
            figures = {"served": served, "days": day - uptake.first + 1}
            return day, Found(score(served / rules.new_route_calls), figures)
    return None
