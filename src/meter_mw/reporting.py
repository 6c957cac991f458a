"""The conversation that tells a caller of its own usage: it looks, and changes nothing.

Rule 1: a caller is told of every limit that is on it, under the name and with the numbers of the limit
fields; of limits in shadow, and of anybody else, it is told nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.admission import Admission, Answer, Refused, Standing
from meter_mw.charging import charges_of
from meter_mw.identifying import identify
from meter_mw.judging import standing
from meter_mw.policy.policy import NO_ROUTE
from meter_mw.policy.terms import Exemption, Scope
from meter_mw.quota import Cap
from meter_mw.stores.port import StoreUnavailable, Tally, Verdict
from meter_mw.talk import Peek

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from meter_mw.model import Request, RequestId
    from meter_mw.policy.policy import Caller, Policy
    from meter_mw.policy.terms import Line
    from meter_mw.talk import Conversation

_ROUNDS = 3
"""How often a store is looked at again about windows that its clock has left behind."""


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """How a caller stands with one limit, on `route` where it counts apart there.

    `until` is the day on which an amount of the caller's own is over.
    """

    standing: Standing
    route: str | None = None
    until: date | None = None

    @property
    def overage(self) -> int | None:
        """The units beyond what the limit includes; `None` where they are not billed."""
        quota, used = self.standing.line.limit.quota, self.standing.used
        if not isinstance(quota, Cap) or not quota.bills or used is None:
            return None
        return max(0, used - quota.included)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a caller has used of what it may, at one moment of the store's time."""

    caller: Caller
    now_us: int
    limits: tuple[LimitUsage, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A limit that is asked about."""

    line: Line
    route: str | None


def usage(policy: Policy, request: Request, rid: RequestId, now_us: int) -> Conversation[Usage | Admission]:
    """Say how the one who makes a request stands with all of its limits; a refusal where nobody can say."""
    caller = yield from identify(policy, request, now_us)
    if isinstance(caller, Refused):
        return Admission(caller.answer, rid, now_us, NO_ROUTE, reason=caller.reason)
    told = yield from usage_of(policy, caller, now_us)
    return _unavailable(rid, now_us) if told is None else told


def usage_of(policy: Policy, caller: Caller, now_us: int) -> Conversation[Usage | None]:
    """Say how a caller stands with all of its limits; `None` where the store does not say."""
    for _ in range(_ROUNDS):
        found: list[LimitUsage] = []
        for asked in _apart(list(_asked(policy, caller, now_us))):
            lines = tuple(each.line for each in asked)
            charges = charges_of(policy, lines, caller, now_us)
            try:
                tally = yield Peek(caller.tag, charges)
            except StoreUnavailable:
                return None
            if not isinstance(tally, Tally):
                return None
            now_us = tally.now_us
            if tally.verdict is Verdict.REFRESH:
                break
            for each, charge, reading in zip(asked, charges, tally.readings, strict=True):
                how = standing(each.line, charge, reading, now_us)
                found.append(LimitUsage(how, each.route, _until(caller, each.line, now_us)))
        else:
            return Usage(caller, now_us, tuple(found))
    return None


def _unavailable(rid: RequestId, now_us: int) -> Admission:
    reason = "the usage of this key cannot be looked up at the moment"
    return Admission(Answer.UNAVAILABLE, rid, now_us, NO_ROUTE, reason=reason)


def _asked(policy: Policy, caller: Caller, now_us: int) -> Iterator[_Asked]:
    """Give the limits of the caller's plan, then those that count on a route only."""
    if caller.exemption is not Exemption.NONE:
        return
    for line in policy.lines(NO_ROUTE, caller, now_us):
        if line.limit.scope is not Scope.ROUTE and not line.limit.shadow:
            yield _Asked(line, None)
    for route in (*policy.routes, NO_ROUTE):
        if route.exemption is Exemption.NONE:
            for line in policy.lines(route, caller, now_us):
                counts_there = line.limit.route is not None or line.limit.scope is Scope.ROUTE
                if counts_there and not line.limit.shadow:
                    yield _Asked(line, route.name)


def _apart(asked: Sequence[_Asked]) -> Sequence[list[_Asked]]:
    """Spread limits over looks, in each of which an id comes once; nearly always one look does."""
    looks: list[dict[str, _Asked]] = []
    for each in asked:
        free = next((look for look in looks if each.line.limit.id not in look), None)
        if free is None:
            looks.append(free := {})
        free[each.line.limit.id] = each
    return [list(look.values()) for look in looks]


def _until(caller: Caller, line: Line, now_us: int) -> date | None:
    limit = line.limit
    for override, until_us in caller.overrides:
        holds = until_us is None or now_us < until_us
        if holds and override.limit == limit.name and override.quota == limit.quota:
            return override.until
    return None
