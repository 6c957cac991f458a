"""Who is billed, and for which periods: the plan, zone and anchor of a subject."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from meter_mw.ledger.spans import Span, SpanError, period_named
from meter_mw.periods import Period, calendar
from meter_mw.policy.terms import KeyEntry
from meter_mw.rating.usage import BillingPeriod

if TYPE_CHECKING:
    from datetime import datetime

    from meter_mw.periods import Calendar
    from meter_mw.policy.policy import Policy

_KINDS = {4: Period.YEAR, 7: Period.MONTH, 10: Period.DAY}
"""What a name of so many characters names: 2026, 2026-11, 2026-11-21."""

_WEEK = re.compile(r"(\d{4})-W(\d{2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Customer:
    """A subject, and the terms on which its periods begin; `anchor` is the date of its first one.

    `plan` is the one that it is listed on, for the time that no event tells of.
    """

    subject: str
    plan: str
    timezone: str
    anchor: date | None = None
    week_start: int = 0

    def named(self, name: str) -> tuple[Period, Span]:
        """Give the period of a name: 2026, 2026-11, 2026-W47 or 2026-11-21. Raises SpanError.

        It is the one that begins in the time of that name: with an anchor on the 21st, 2026-11 ends on
        21 December.
        """
        week = _WEEK.fullmatch(name)
        if week is None:
            span = period_named(name, self.timezone, self.anchor)
            return _KINDS[len(name)], span
        try:
            monday = date.fromisocalendar(int(week[1]), int(week[2]), 1)
        except ValueError:
            raise SpanError(f"found {name!r}; expected a week of that year, such as 2026-W47") from None
        first = self.anchor.weekday() if self.anchor else self.week_start
        opens = monday + timedelta(days=first)
        return Period.WEEK, self.at(Period.WEEK, period_named(opens.isoformat(), self.timezone).start_us)

    def at(self, kind: Period, moment_us: int) -> Span:
        """Give the period of a kind that a moment (µs since 1970) is in."""
        _, start_us, end_us, _ = self._calendar(kind).windows(moment_us)
        return Span(start_us, end_us)

    def before(self, kind: Period, span: Span) -> Span:
        """Give the period before one."""
        return self.at(kind, span.start_us - 1)

    def billing(self, span: Span) -> BillingPeriod:
        """Give the days of a period."""
        zone = ZoneInfo(self.timezone)
        return BillingPeriod(day_of(span.start, zone), day_of(span.end, zone))

    def _calendar(self, kind: Period) -> Calendar:
        return calendar(kind, self.timezone, self.anchor, self.week_start)


def day_of(moment: datetime, zone: ZoneInfo) -> date:
    """Give the day of a moment, in a zone."""
    return moment.astimezone(zone).date()


def customer(policy: Policy, subject: str, entry: KeyEntry | None = None) -> Customer:
    """Give a subject as the policy lists it, or an entry of the registry has it, or on the default plan."""
    listed = next((each for each in policy.keys.values() if each.subject == subject), None)
    caller = policy.caller(listed or entry or KeyEntry(subject=subject), None)
    return Customer(subject, caller.plan.name, caller.timezone, caller.anchor, policy.week_start)
