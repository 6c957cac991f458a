"""One customer's page: limits and what is left of them, days, the bill to come, signals and newest events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.dashboard.burning import burns
from meter_mw.dashboard.crowds import last_plans
from meter_mw.dashboard.periods import counts, days
from meter_mw.invoicing.bills import Billing
from meter_mw.invoicing.customers import Customer
from meter_mw.invoicing.previews import preview
from meter_mw.invoicing.source import LedgerUsage
from meter_mw.ledger.daily import daily, kept_since
from meter_mw.ledger.insight import outcomes
from meter_mw.ledger.latest import latest
from meter_mw.ledger.reports import usage_by
from meter_mw.ledger.retention import Purged
from meter_mw.policy.terms import Exemption, Scope
from meter_mw.quota import Rate
from meter_mw.signals.caps import caller_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.dashboard.burning import Burn
    from meter_mw.dashboard.periods import Days
    from meter_mw.dashboard.sources import Sources
    from meter_mw.invoicing.previews import Preview
    from meter_mw.ledger.database import Database
    from meter_mw.ledger.insight import Outcomes
    from meter_mw.ledger.latest import Latest
    from meter_mw.policy.policy import Caller
    from meter_mw.policy.terms import Limit
    from meter_mw.reporting import LimitUsage
    from meter_mw.signals.signal import Signal

MOST = 50
"""Events on a page."""


class Stand(NamedTuple):
    """How a customer stands with a limit: of `most` units `used` are taken, on a route if it counts there.

    All is free again after `wait_us`, where that is known; `overage` is None where it is not billed.
    """

    limit: Limit
    route: str | None
    used: int
    most: int
    wait_us: int | None
    overage: int | None

    @property
    def part(self) -> float:
        """The part that is taken: one, or more with overage."""
        return self.used / self.most


@dataclass(frozen=True, slots=True)
class Single:
    """What the page of a customer shows.

    `by_store` says that limits are as the store has them, and else as far as the ledger tells; those that
    each key has for itself are left out. `bill` is None where no price is asked on its plan, or where
    `no_bill` says why it cannot be told.
    """

    caller: Caller
    days: Days
    all: Outcomes | None
    by_day: Sequence[tuple[int, int, int]]
    used: Mapping[str, int]
    stands: Sequence[Stand]
    by_store: bool
    burns: Sequence[Burn]
    bill: Preview | None
    no_bill: str
    signals: Sequence[Signal]
    events: Sequence[Latest]

    @property
    def is_exempt(self) -> bool:
        """Whether it is under no limit."""
        return self.caller.exemption is not Exemption.NONE


def single(sources: Sources, subject: str, many: int, before_us: int | None) -> Single | None:
    """Give the page of a customer, with events before a moment; None where nobody knows it.

    Raises NoLedger, and the errors of the ledger.
    """
    policy, now_us = sources.policy, sources.now_us
    entry = (sources.entries() or {}).get(subject)
    listed = any(each.subject == subject for each in policy.keys.values())
    with sources.ledger() as database:
        shown = days(now_us, many, kept_since(database, "days"))
        only, source = [subject], policy.source
        rows = daily(database, ("subject", "plan"), shown.span, subjects=only, source=source)
        events = latest(database, subject, MOST, before_us=before_us, source=source)
        if not (listed or entry or rows or events or latest(database, subject, 1, source=source)):
            return None
        caller = caller_of(policy, subject, entry, last_plans(rows).get(subject, ""))
        told = outcomes(database, [], shown.span, subjects=only, source=source)
        used = usage_by(database, (), shown.span, subjects=only, source=source)
        try:
            burning = burns(database, policy, caller, now_us)
        except Purged:
            burning = []
        bill, no_bill = _bill(sources, database, caller)
        signals = [each for each in sources.signals(database) if each.subject == subject]
    found = sources.usage(caller)
    stands = (
        [_standing(each) for each in found.limits if each.standing.line.limit.scope is not Scope.KEY]
        if found is not None
        else [_burnt(each, now_us) for each in burning]
    )
    return Single(
        caller,
        shown,
        told[0] if told else None,
        counts(shown, rows),
        {each.field: each.units for each in used},
        stands,
        found is not None,
        burning,
        bill,
        no_bill,
        signals,
        events,
    )


def _bill(sources: Sources, database: Database, caller: Caller) -> tuple[Preview | None, str]:
    """Give what the present period may cost at its end; or why that cannot be told."""
    if not caller.plan.prices:
        return None, ""
    policy = sources.policy
    who = Customer(caller.subject, caller.plan.name, caller.timezone, caller.anchor, policy.week_start)
    billing = Billing(policy, LedgerUsage(database, policy.source), sources.now_us)
    kind = caller.plan.prices[-1].period
    span = who.at(kind, billing.now_us)
    if caller.anchor is not None and who.billing(span).end <= caller.anchor:
        return None, f"The first period begins on {caller.anchor}."
    try:
        return preview(billing, who, kind, span), ""
    except Purged as reason:
        return None, f"It cannot be told: {reason}."


def _standing(each: LimitUsage) -> Stand:
    how, limit = each.standing, each.standing.line.limit
    quota = limit.quota
    most = quota.burst if isinstance(quota, Rate) else quota.units
    used = max(0, most - how.remaining) if how.used is None else how.used
    return Stand(limit, each.route, used, most, how.reset_us, each.overage)


def _burnt(each: Burn, now_us: int) -> Stand:
    quota = each.cap
    overage = max(0, each.used - quota.included) if quota.bills else None
    return Stand(each.limit, None, each.used, quota.units, each.span.end_us - now_us, overage)
