"""The bill of a customer for a period: its usage under the prices of the policy, and what credits pay.

Rule 1: nothing of a bill is kept. What is left of a credit is found by billing the periods before it again,
        so a correction of the past is in it, and the ledger's roll-ups have to reach back to its first day.
Rule 2: credits are those of the price list that holds at the end of a period. One is known by its currency
        and name: it stays the same when prices, or the plan, change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from meter_mw.invoicing.customers import day_of
from meter_mw.invoicing.stretches import Day, plans_of, stretches
from meter_mw.ledger.reports import Step, steps
from meter_mw.ledger.spans import Span
from meter_mw.policy.prices import list_on
from meter_mw.rating.invoices import Balance, Invoice, rate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from meter_mw.invoicing.customers import Customer
    from meter_mw.invoicing.source import UsageSource
    from meter_mw.periods import Period
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.prices import Credit
    from meter_mw.rating.usage import BillingPeriod

Spent = dict[tuple[str, str], Decimal]
"""What was paid from credits before, by currency and name."""


class Evidence(NamedTuple):
    """What a bill stands on: units of one field of events that were used on a plan in a day."""

    day: date
    plan: str
    field: str
    units: int


@dataclass(frozen=True, slots=True)
class Bill:
    """The invoices of one customer for one period, one for each currency, and the usage behind them.

    `is_open` says that the period is not over. `notes` tell what is not billed, and why.
    """

    customer: Customer
    kind: Period
    span: Span
    period: BillingPeriod
    invoices: tuple[Invoice, ...]
    usage: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    is_open: bool = False


class Billing:
    """Bills customers of one policy from one source of usage; `now_us` is the present, in µs since 1970.

    Every method raises the errors of the source.
    """

    def __init__(self, policy: Policy, source: UsageSource, now_us: int) -> None:
        self.now_us = now_us
        self._plans = policy.plans
        self._source = source

    def bill(self, customer: Customer, kind: Period, span: Span) -> Bill:
        """Bill a period; one that is not over is billed for what was used so far."""
        spent = self.spent_before(customer, kind, span)
        return self.bill_of(customer, kind, span, self.days(customer, span), spent)

    def bill_of(
        self, customer: Customer, kind: Period, span: Span, days: Sequence[Day], spent: Spent
    ) -> Bill:
        """Bill the days of a period, of whatever usage they tell."""
        found, notes = stretches(days, self._plans, customer.plan, kind)
        period = customer.billing(span)
        invoices = rate(found, period, self._balances(customer, days, spent))
        usage = tuple(
            Evidence(day.date, plan, name, units)
            for day in days
            for plan, used in sorted(day.used.items())
            for name, units in sorted(used.items())
            if units
        )
        return Bill(customer, kind, span, period, invoices, usage, tuple(notes), span.end_us > self.now_us)

    def subjects_around(self, span: Span) -> Sequence[str]:
        """Give who has used anything in a period, or in the one before or after, wherever theirs begins."""
        length = span.end_us - span.start_us
        return self._source.subjects(Span(span.start_us - length, span.end_us + length))

    def days(self, customer: Customer, span: Span, *, sampled: bool = True) -> list[Day]:
        """Give the days of a span with what was used in each, and the samples where some are priced."""
        zone = ZoneInfo(customer.timezone)
        cuts = steps(span, Step.DAY, customer.timezone)
        days = {cut.start_us: Day(day_of(cut.start, zone), cut) for cut in cuts}
        for each in self._source.by_day(customer.subject, span, customer.timezone):
            days[each.day_us].used[each.plan or customer.plan][each.field] += each.units
        found, starts = list(days.values()), list(days)
        for name in self._sampled(found, customer) if sampled else ():
            for sample in self._source.samples(customer.subject, name, span):
                day = found[max(0, bisect_right(starts, sample.start_us) - 1)]
                day.samples[name].append(sample.units)
        return found

    def spent_before(self, customer: Customer, kind: Period, span: Span) -> Spent:
        """Give what the periods before one have used of credits, from the first day of any on.

        Periods before the anchor, or where there is none before the first usage, are nobody's.
        """
        zone = ZoneInfo(customer.timezone)
        first = self._first_credit(customer)
        if first is not None and customer.anchor is not None:
            first = max(first, customer.anchor)
        spans: list[Span] = []
        earlier = customer.before(kind, span)
        while first is not None and first < day_of(earlier.end, zone):
            spans.append(earlier)
            earlier = customer.before(kind, earlier)
        spent: Spent = defaultdict(Decimal)
        has_begun = customer.anchor is not None
        for each in reversed(spans):
            days = self.days(customer, each)
            has_begun = has_begun or any(day.used for day in days)
            if not has_begun:
                continue
            bill = self.bill_of(customer, kind, each, days, spent)
            for invoice in bill.invoices:
                for name, amount in invoice.drawn.items():
                    spent[invoice.currency.code, name] += amount
        return spent

    def _sampled(self, days: Sequence[Day], customer: Customer) -> set[str]:
        """Give the fields that are priced by a percentile on any plan of these days."""
        plans = (self._plans[name] for name in {*plans_of(days, customer.plan)} & self._plans.keys())
        tariffs = (each for plan in plans for prices in plan.prices for each in prices.tariffs)
        return {each.meter.field for each in tariffs if each.percentile is not None}

    def _balances(self, customer: Customer, days: Sequence[Day], spent: Spent) -> list[Balance]:
        """Give the credits of the price list that holds at the end, as far as they are left."""
        last = plans_of(days, customer.plan)[-1]
        prices = list_on(self._plans[last].prices, days[-1].date) if last in self._plans else None
        if prices is None:
            return []
        code = prices.currency.code
        return [
            Balance(each, each.amount - spent.get((code, each.name), Decimal()), prices.currency)
            for each in prices.credits
            if _is_for(each, customer)
        ]

    def _first_credit(self, customer: Customer) -> date | None:
        lists = (prices for plan in self._plans.values() for prices in plan.prices)
        own = (each for prices in lists for each in prices.credits if _is_for(each, customer))
        return min((each.since for each in own), default=None)


def _is_for(credit: Credit, customer: Customer) -> bool:
    return credit.subject in (None, customer.subject)
