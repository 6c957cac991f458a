"""A limit in words: `10 requests per second, 20 at once`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.model import Count
from meter_mw.policy.terms import OnExhausted, Scope
from meter_mw.policy.units import in_words
from meter_mw.quota import Cap, Slots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.model import Meter
    from meter_mw.policy.terms import Limit
    from meter_mw.quota import Quota

_SHARED = {
    Scope.KEY: "for each key",
    Scope.ACCOUNT: "shared by an account",
    Scope.ROUTE: "shared by everyone on a route",
    Scope.EVERYONE: "shared by everyone",
}


def limit_in_words(limit: Limit, *, is_shadow: bool = False) -> str:
    """Say a limit; `is_shadow` where all of them are in shadow, so that none is marked."""
    notes = [quota_in_words(limit.quota, limit.meter), *_notes(limit)]
    if limit.shadow and not is_shadow:
        notes.append("in shadow")
    return ", ".join(notes)


def quota_in_words(quota: Quota, meter: Meter) -> str:
    """Say a quota on a meter."""
    if isinstance(quota, Slots):
        return f"{quota.units} requests in flight"
    unit, of = _unit(meter)
    amount = in_words(quota.units, unit) + of
    if isinstance(quota, Cap):
        return ", ".join([f"{amount} per calendar {quota.period.word}", *_beyond(quota, unit)])
    return f"{amount} per {_span(quota.period_us)}, {_amount(quota.burst, unit)} at once"


def _unit(meter: Meter) -> tuple[str, str]:
    match meter.count:
        case Count.REQUEST_BYTES:
            return "bytes", " in"
        case Count.RESPONSE_BYTES:
            return "bytes", " out"
        case _:
            return meter.name, ""


def _beyond(cap: Cap, unit: str) -> Iterator[str]:
    if cap.grace:
        yield f"{_amount(cap.grace, unit)} more as grace"
    if cap.bills:
        yield "then overage" + ("" if cap.ceiling is None else f" up to {_amount(cap.ceiling, unit)}")
    if cap.warn:
        yield f"announced at {' and '.join(_amount(each, unit) for each in cap.warn)}"


def _notes(limit: Limit) -> Iterator[str]:
    if limit.scope in _SHARED:
        yield _SHARED[limit.scope]
    if limit.reserve and limit.meter.count is Count.REPORTED:
        yield f"estimated at {limit.reserve}"
    elif limit.reserve:
        yield f"reserves {_amount(limit.reserve, _unit(limit.meter)[0])}"
    if limit.on_exhausted is OnExhausted.CUT:
        yield "cut when used up"


def _amount(units: int, unit: str) -> str:
    return in_words(units, unit) if unit == "bytes" else str(units)


def _span(period_us: int) -> str:
    seconds = period_us // 1_000_000
    lengths = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    word, many = next((word, seconds // length) for word, length in lengths if seconds % length == 0)
    return word if many == 1 else f"{many} {word}s"
