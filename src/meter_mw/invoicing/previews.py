"""The bill of a period that is not over, as it may be at its end: expected, lowest and highest."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from meter_mw.invoicing.projecting import MOST_DAYS, Bound, Method, Projection
from meter_mw.invoicing.stretches import plans_of
from meter_mw.ledger.reports import SAMPLE_US
from meter_mw.ledger.spans import Span
from meter_mw.periods import Period, calendar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.invoicing.bills import Bill, Billing
    from meter_mw.invoicing.customers import Customer
    from meter_mw.invoicing.stretches import Day

_LOOK_BACK_US = timedelta(days=MOST_DAYS, hours=-12) // timedelta(microseconds=1)
"""From a midnight to the noon of the first day that is looked at, whatever the clocks did since."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What is due so far in a period that is not over, what may be at its end, and how that was projected."""

    so_far: Bill
    expected: Bill
    low: Bill
    high: Bill
    method: str


def preview(billing: Billing, customer: Customer, kind: Period, span: Span) -> Preview:
    """Project a period that is not over, from the complete days before today.

    A percentile is expected to stay as it is so far; it is lowest if nothing more is used, and highest if
    the rest is all like the busiest five minutes. Raises the errors of the source of usage.
    """
    today_us = calendar(Period.DAY, customer.timezone, None).windows(billing.now_us)[1]
    complete = _complete(billing, customer, today_us)
    names = {name for day in complete for used in day.used.values() for name in used}
    history = {name: Projection({day.date: _units(day)[name] for day in complete}) for name in names}
    spent = billing.spent_before(customer, kind, span)
    bills = {}
    for bound in Bound:
        days = billing.days(customer, span)
        _fill(days, history, customer, bound, now_us=billing.now_us)
        bills[bound] = billing.bill_of(customer, kind, span, days, spent)
    so_far = billing.bill_of(customer, kind, span, billing.days(customer, span), spent)
    method = next((each.method for each in history.values()), Method.NOTHING)
    said = f", of the {len(complete)} days before today" if complete else ""
    return Preview(
        so_far, bills[Bound.EXPECTED], bills[Bound.LOW], bills[Bound.HIGH], f"{method.value}{said}"
    )


def _complete(billing: Billing, customer: Customer, today_us: int) -> Sequence[Day]:
    """Give the days before today that are looked at, from the first one with any usage on."""
    first_us = calendar(Period.DAY, customer.timezone, None).windows(today_us - _LOOK_BACK_US)[1]
    days = billing.days(customer, Span(first_us, today_us), sampled=False)
    begun = next((index for index, day in enumerate(days) if day.used), len(days))
    return days[begun:]


def _units(day: Day) -> Counter[str]:
    found: Counter[str] = Counter()
    for used in day.used.values():
        found.update(used)  # unlike a sum of Counters, keeps what corrections took below zero
    return found


def _fill(
    days: Sequence[Day],
    history: Mapping[str, Projection],
    customer: Customer,
    bound: Bound,
    *,
    now_us: int,
) -> None:
    """Put what may come into the days that are not over, on the plan that the last one of them has."""
    begun = [day for day in days if day.span.start_us <= now_us]
    plan = plans_of(begun, customer.plan)[-1] if begun else customer.plan
    peaks: dict[str, int] = defaultdict(int)
    for day in begun:
        for name, found in day.samples.items():
            peaks[name] = max(peaks[name], *found)
    for day in days:
        if day.span.end_us <= now_us:
            continue
        so_far = _units(day)
        for name, projection in history.items():
            day.used[plan][name] += max(0, projection.of(day.date, bound) - so_far[name])
        passed = max(0, now_us - day.span.start_us) // SAMPLE_US
        if bound is Bound.EXPECTED:
            day.intervals = passed
        elif bound is Bound.HIGH:
            for name, peak in peaks.items():
                day.samples[name] += [peak] * (day.intervals - passed)
