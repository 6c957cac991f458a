"""What limits ask of a store: the charges of a request, with the windows of its caps around now."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.periods import calendar
from meter_mw.policy.terms import Scope
from meter_mw.quota import Cap
from meter_mw.stores.port import Charge

if TYPE_CHECKING:
    from meter_mw.periods import Windows
    from meter_mw.policy.policy import Caller, Policy
    from meter_mw.policy.terms import Limit, Line

_OWN_ZONE = (Scope.KEY, Scope.SUBJECT, Scope.ACCOUNT)
"""Whose caps follow the zone and the anchor of the key; wider pools follow those of the policy."""

_ALWAYS_US = 2**53


class Asked(NamedTuple):
    """What lines ask of the store, from `since_us` until `until_us` of its time."""

    lines: tuple[Line, ...]
    charges: tuple[Charge, ...]
    since_us: int
    until_us: int


def charges_of(policy: Policy, lines: tuple[Line, ...], caller: Caller, now_us: int) -> tuple[Charge, ...]:
    """Give what is asked of the store; `now_us` is the best guess at its time."""
    return tuple(
        _charge(
            line,
            _windows(policy, line.limit, caller, now_us),
            line.holder or caller.holder(line.limit.scope),
        )
        for line in lines
    )


def asked_of(policy: Policy, lines: tuple[Line, ...], caller: Caller, now_us: int) -> Asked:
    """Give what is asked of the store, and while which windows that stays the same."""
    charges = charges_of(policy, lines, caller, now_us)
    open_now = [each.windows[1:3] for each in charges if each.windows is not None]
    ends = [until_us for _, until_us in caller.overrides if until_us is not None and until_us > now_us]
    return Asked(
        lines,
        charges,
        max((since_us for since_us, _ in open_now), default=0),
        min((*ends, *(until_us for _, until_us in open_now)), default=_ALWAYS_US),
    )


def _windows(policy: Policy, limit: Limit, caller: Caller, now_us: int) -> Windows | None:
    """Give the boundaries of a cap's periods around now, in the zone and from the anchor that it follows."""
    if not isinstance(limit.quota, Cap):
        return None
    own = limit.scope in _OWN_ZONE
    zone, anchor = (caller.timezone, caller.anchor) if own else (policy.timezone, None)
    return calendar(limit.quota.period, zone, anchor, policy.week_start).windows(now_us)


@lru_cache(maxsize=4_096)
def _charge(line: Line, windows: Windows | None, holder: str) -> Charge:
    """Give one charge; the same is asked again and again while its window lasts."""
    limit = line.limit
    return Charge(limit.id, limit.quota, line.need, line.take, windows, line.held, limit.shadow, holder)


def window_of(charge: Charge, now_us: int) -> int:
    """Give where the window opens that counts now."""
    for opening in reversed(charge.windows or (0,)):
        if opening <= now_us:
            return opening
    return 0
