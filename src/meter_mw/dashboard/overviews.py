"""The first page: how much there was, day by day, by whom and where, and what has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.dashboard.periods import counts, days
from meter_mw.ledger.daily import daily, kept_since
from meter_mw.ledger.insight import outcomes
from meter_mw.ledger.reports import usage_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.dashboard.periods import Days
    from meter_mw.dashboard.sources import Sources
    from meter_mw.ledger.insight import Outcomes
    from meter_mw.signals.signal import Signal

_MOST = 8
"""Customers, routes and signals that are shown."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What the first page shows.

    `all` is None where nothing was answered; `by_day` has served, client errors and server errors; `used`
    are units by field.
    """

    days: Days
    all: Outcomes | None
    by_day: Sequence[tuple[int, int, int]]
    used: Mapping[str, int]
    customers: int
    busiest: Sequence[Outcomes]
    routes: Sequence[Outcomes]
    signals: Sequence[Signal]
    more_signals: int


def overview(sources: Sources, many: int) -> Overview:
    """Give the first page, of so many days. Raises NoLedger, and the errors of the ledger."""
    source = sources.policy.source
    with sources.ledger() as database:
        shown = days(sources.now_us, many, kept_since(database, "days"))
        by_subject = outcomes(database, ["subject"], shown.span, source=source)
        by_route = outcomes(database, ["route"], shown.span, source=source)
        whole = outcomes(database, [], shown.span, source=source)
        rows = daily(database, (), shown.span, source=source)
        used = {each.field: each.units for each in usage_by(database, (), shown.span, source=source)}
        signals = sources.signals(database)
    return Overview(
        shown,
        whole[0] if whole else None,
        counts(shown, rows),
        used,
        len(by_subject),
        busiest(by_subject)[:_MOST],
        busiest(by_route)[:_MOST],
        signals[:_MOST],
        max(0, len(signals) - _MOST),
    )


def busiest(found: Sequence[Outcomes]) -> list[Outcomes]:
    """Give those first that were answered most."""
    return sorted(found, key=lambda each: (-each.answers, *each.key.values()))
