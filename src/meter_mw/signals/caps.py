"""How far each subject has used up its caps, day by day, from the ledger.

A day of UTC counts for the period that its noon is in: near the ends of periods this is off by hours, which
a signal bears. Caps of a key, an account, a route or everyone announce themselves by `warn`.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING

from meter_mw.ledger.records import DAY_US
from meter_mw.ledger.reports import Step, usage_by
from meter_mw.ledger.spans import Span
from meter_mw.periods import Period, calendar
from meter_mw.policy.policy import NO_ROUTE
from meter_mw.policy.terms import KeyEntry, Scope
from meter_mw.quota import Cap
from meter_mw.signals.troubles import CapUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from meter_mw.ledger.database import Database
    from meter_mw.periods import Calendar
    from meter_mw.policy.policy import Caller, Policy
    from meter_mw.policy.terms import Limit

Used = dict[tuple[str, str], dict[int, int]]
"""Units by subject and field, and by day."""

LONGEST = {Period.DAY: 1, Period.WEEK: 7, Period.MONTH: 31, Period.YEAR: 366}
"""Days of the periods that are looked at; shorter ones cannot be told from days."""

_EPOCH = date(1970, 1, 1).toordinal()


def start_of(day: int) -> int:
    """Give when a day of UTC (`date.toordinal`) begins, in µs since 1970."""
    return (day - _EPOCH) * DAY_US


def day_of(moment_us: int) -> int:
    """Give the day of UTC that a moment is in."""
    return moment_us // DAY_US + _EPOCH


def caller_of(policy: Policy, subject: str, entry: KeyEntry | None, plan: str) -> Caller:
    """Give a subject as it is listed or registered, or else on the plan that its events name."""
    listed = next((each for each in policy.keys.values() if each.subject == subject), entry)
    return policy.caller(listed or KeyEntry(subject, plan if plan in policy.plans else None), None)


def cap_uses(
    database: Database, policy: Policy, callers: Iterable[Caller], days: range, *, since: int = 0
) -> dict[str, list[CapUse]]:
    """Give the caps of each subject that has any; `since` is the first day that the ledger has all of."""
    capped = {each: list(_caps(policy, each, start_of(days.stop))) for each in callers}
    periods = [quota.period for limits in capped.values() for _, quota in limits]
    if not periods:
        return {}
    first = max(since, days.start - max(LONGEST[each] for each in periods))
    used = _used(database, policy.source, range(first, days.stop))
    return {
        caller.subject: [
            _use(
                limit,
                quota,
                calendar(quota.period, caller.timezone, caller.anchor, policy.week_start),
                used.get((caller.subject, limit.meter.field), {}),
                days,
            )
            for limit, quota in limits
        ]
        for caller, limits in capped.items()
        if limits
    }


def _caps(policy: Policy, caller: Caller, now_us: int) -> Iterator[tuple[Limit, Cap]]:
    for line in policy.lines(NO_ROUTE, caller, now_us):
        limit, quota = line.limit, line.limit.quota
        if isinstance(quota, Cap) and quota.period in LONGEST and limit.scope is Scope.SUBJECT:
            yield limit, quota


def _used(database: Database, source: str, days: range) -> Used:
    span = Span(start_of(days.start), start_of(days.stop))
    found: Used = defaultdict(dict)
    for row in usage_by(database, ["subject"], span, step=Step.DAY, source=source):
        if row.start is not None:
            found[row.subject or "", row.field][row.start.date().toordinal()] = row.units
    return found


def _use(limit: Limit, quota: Cap, periods: Calendar, used: Mapping[int, int], days: range) -> CapUse:
    levels: dict[int, int] = {}
    period, units = 0, 0
    for day in range(days.start - LONGEST[quota.period], days.stop):
        noon = datetime.combine(date.fromordinal(day), time(12), UTC)
        begun = periods.windows(int(noon.timestamp()) * 1_000_000)[1]
        units = used.get(day, 0) + (units if begun == period else 0)
        period = begun
        levels[day] = units
    return CapUse(limit.name, quota.units, levels)
