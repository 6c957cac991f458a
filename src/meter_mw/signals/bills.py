"""The thresholds that bills have reached, in the present period and in one that has just ended."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from meter_mw.invoicing.customers import customer
from meter_mw.policy.prices import list_on
from meter_mw.rating.thresholds import reached
from meter_mw.signals.telling import Announcement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from meter_mw.invoicing.bills import Bill, Billing
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.prices import PriceList
    from meter_mw.policy.terms import KeyEntry, Plan


def announcements(
    policy: Policy,
    billing: Billing,
    subjects: Iterable[str],
    entries: Mapping[str, KeyEntry],
    since_us: int,
) -> Iterator[Announcement]:
    """Give what the bills of subjects have reached in their periods that were not over at `since_us`.

    `entries` are the subjects of the registry. Raises the errors of the source of usage.
    """
    for subject in sorted(subjects):
        who = customer(policy, subject, entries.get(subject))
        plan = policy.plans[who.plan]
        if not any(announces(each) for each in plan.prices):
            continue
        kind = plan.prices[-1].period
        span = who.at(kind, billing.now_us)
        spans = [span, who.before(kind, span)]
        for each in reversed([each for each in spans if each.end_us > since_us]):
            yield from _of_bill(policy, billing.bill(who, kind, each), plan)


def announces(prices: PriceList) -> bool:
    """Say whether a price list has any threshold."""
    return bool(prices.warn) or any(each.warn for each in prices.tariffs)


def _of_bill(policy: Policy, bill: Bill, plan: Plan) -> Iterator[Announcement]:
    last = bill.period.end - timedelta(days=1)
    prices = list_on(plan.prices, last)
    if prices is None:
        return
    used: Counter[str] = Counter()
    for evidence in bill.usage:
        used[evidence.field] += evidence.units
    by_meter = {each.meter.name: used[each.meter.field] for each in prices.tariffs}
    who = policy.source, bill.customer.subject
    for invoice in bill.invoices:
        if invoice.currency != prices.currency:
            continue
        for each in reached(who, prices, invoice, by_meter):
            yield Announcement(bill.customer.subject, plan.name, bill.kind, bill.period, each)
