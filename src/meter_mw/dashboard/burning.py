"""How a cap burns down in its period: what is left of it by day, and when it is used up at this pace.

The counts are those of the ledger: a request that is on its way is not among them yet. A cap that others
share (a key's, an account's, a route's, everyone's) is left out, as the ledger tells subjects apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from meter_mw.dashboard.plots import Point
from meter_mw.ledger.reports import Step, steps, usage_by
from meter_mw.ledger.spans import Span
from meter_mw.periods import Period, calendar
from meter_mw.policy.policy import NO_ROUTE
from meter_mw.policy.terms import Exemption, Scope
from meter_mw.quota import Cap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meter_mw.ledger.database import Database
    from meter_mw.policy.policy import Caller, Policy
    from meter_mw.policy.terms import Limit

_STEPS = {
    Period.DAY: Step.HOUR,
    Period.WEEK: Step.DAY,
    Period.MONTH: Step.DAY,
    Period.YEAR: Step.DAY,
}
"""Periods that are long enough to watch, and what tells their time apart."""


@dataclass(frozen=True, slots=True)
class Burn:
    """A cap in its present period; `levels` are moments (µs since 1970) and the units used up to them."""

    limit: Limit
    cap: Cap
    span: Span
    now_us: int
    levels: Sequence[tuple[int, int]]

    @property
    def used(self) -> int:
        """The units used so far; what corrections took below zero counts as none."""
        return max(0, self.levels[-1][1])

    @property
    def left(self) -> int:
        """The units that are left."""
        return max(0, self.cap.units - self.used)

    @property
    def ends_us(self) -> int | None:
        """When it is used up at the pace of this period so far; None if not before the period's end."""
        passed = self.now_us - self.span.start_us
        if not self.used or not passed:
            return None
        at_us = self.span.start_us + passed * self.cap.units // self.used
        return at_us if at_us < self.span.end_us else None

    @property
    def expected(self) -> int:
        """The units used at the end of the period, at the pace so far."""
        passed = max(1, self.now_us - self.span.start_us)
        return self.used * (self.span.end_us - self.span.start_us) // passed

    @property
    def points(self) -> list[Point]:
        """What was left at each moment, to draw."""
        return [self._point(at_us, self.cap.units - used) for at_us, used in self.levels]

    @property
    def pace(self) -> list[Point]:
        """What will be left at this pace, to draw."""
        end_us = self.ends_us
        if end_us is not None and end_us <= self.now_us:
            return []
        last = self.cap.units - self.expected if end_us is None else 0
        return [
            self._point(self.now_us, self.left),
            self._point(self.span.end_us if end_us is None else end_us, last),
        ]

    def _point(self, at_us: int, left: int) -> Point:
        whole = self.span.end_us - self.span.start_us
        return Point((at_us - self.span.start_us) / whole, left / self.cap.units)


def burns(database: Database, policy: Policy, caller: Caller, now_us: int) -> list[Burn]:
    """Give the caps of a caller alone, in the policy's order. Raises Purged, and the errors of the ledger."""
    return [_burn(database, policy, caller, each, now_us) for each in _caps(policy, caller, now_us)]


def _caps(policy: Policy, caller: Caller, now_us: int) -> Iterator[tuple[Limit, Cap]]:
    if caller.exemption is not Exemption.NONE:
        return
    for line in policy.lines(NO_ROUTE, caller, now_us):
        limit, quota = line.limit, line.limit.quota
        is_own = limit.scope is Scope.SUBJECT and not limit.shadow
        if is_own and isinstance(quota, Cap) and quota.period in _STEPS:
            yield limit, quota


def _burn(database: Database, policy: Policy, caller: Caller, capped: tuple[Limit, Cap], now_us: int) -> Burn:
    limit, cap = capped
    periods = calendar(cap.period, caller.timezone, caller.anchor, policy.week_start)
    _, start_us, end_us, _ = periods.windows(now_us)
    begun = Span(start_us, now_us + 1)
    rows = usage_by(
        database,
        (),
        begun,
        step=_STEPS[cap.period],
        zone=caller.timezone,
        subjects=[caller.subject],
        source=policy.source,
    )
    used = {each.start: each.units for each in rows if each.field == limit.meter.field}
    cuts = list(steps(begun, _STEPS[cap.period], caller.timezone))
    sums = accumulate(used.get(cut.start, 0) for cut in cuts)
    moments = (min(now_us, cut.end_us) for cut in cuts)
    levels = [(start_us, 0), *zip(moments, sums, strict=True)]
    return Burn(limit, cap, Span(start_us, end_us), now_us, levels)
