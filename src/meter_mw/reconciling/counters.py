"""What the store counts: for each subject its caps, in the windows that are open now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.charging import charges_of
from meter_mw.policy.policy import NO_ROUTE
from meter_mw.policy.terms import KeyEntry, Scope
from meter_mw.quota import Cap
from meter_mw.stores.port import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.policy.policy import Caller, Policy
    from meter_mw.stores.port import Store

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Counted:
    """The count of one cap of one subject, since its window opened."""

    limit: str
    subject: str
    field: str
    start_us: int
    now_us: int
    used: int


def caller_of(policy: Policy, subject: str, plan: str | None, account: str | None) -> Caller:
    """Give the caller of a subject: as the policy lists it, or as its events describe it."""
    listed = next((entry for entry in policy.keys.values() if entry.subject == subject), None)
    known = plan if plan in policy.plans else None
    return policy.caller(listed or KeyEntry(subject=subject, plan=known, account=account), None)


def counters(policy: Policy, store: Store, caller: Caller) -> Iterator[Counted]:
    """Give the counts of a subject's own caps; raises StoreUnavailable."""
    for _ in range(_ROUNDS):
        now_us = store.now_us()
        lines = tuple(
            line
            for line in policy.lines(NO_ROUTE, caller, now_us)
            if isinstance(line.limit.quota, Cap)
            and line.limit.scope is Scope.SUBJECT
            and not line.limit.shadow
            and line.limit.route is None
        )
        if not lines:
            return
        tally = store.peek(caller.tag, charges_of(policy, lines, caller, now_us))
        if tally.verdict is Verdict.REFRESH:
            continue
        for line, reading in zip(lines, tally.readings, strict=True):
            yield Counted(
                line.limit.name,
                caller.subject,
                line.limit.meter.field,
                reading.state.whole,
                tally.now_us,
                reading.state.part,
            )
        return
