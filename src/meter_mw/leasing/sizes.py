"""How large a slice may be, and for how long: by demand, and by what is left until something happens; pure.

Rule 1: a slice never reaches a boundary: the end of what is included, the most that is served, the next
threshold that is announced. There each request is asked for by itself.
Rule 2: a slice is over long before a boundary is reached at the pace of all who use the cap together, so
that what was not used is back by then.
Rule 3: a rate lends at most a small part of its burst.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.policy.terms import Speed
from meter_mw.quota import Cap, Rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.stores.port import Charge, Reading

LONGEST_US = 1_000_000
"""A lease lasts for at most this long (µs)."""

SHORTEST_US = 25_000
"""Where a lease would last for less than this (µs), there is none."""

SKEW_US = 50_000
"""A lease ends so long before the window of its cap closes (µs): clocks differ."""

TIMES = 64
"""A lease is over in this part of the time to the nearest boundary."""

SHARE = 16
"""A lease takes at most this part of the units to the nearest boundary."""

BURST_SHARE = 32
"""A lease takes at most this part of a rate's burst."""

FREE_SHARE = 8
"""A lease takes at most this part of what is free of a rate."""

COMING_SHARE = 0.75
"""A lease takes this part of the requests that will come while it lasts, or less."""

FEWEST = 2
"""Requests that a lease is worth its round trips for."""

FEWEST_COMING = 4
"""Requests that have to come while a lease lasts, for `auto` to take one."""

SPAN_US = 50_000
"""What comes is counted over spans of at least this (µs)."""

_GLIMPSE_US = 10_000
_MEMORY_US = 200_000
_SECOND_US = 1_000_000


class Slice(NamedTuple):
    """What is asked of the store: so many requests at once, and how long they are good for (µs)."""

    requests: int
    lasts_us: int


class Pace:
    """How many units a second come: a moving mean over spans of at least 50 ms."""

    __slots__ = ("_mean", "since_us")

    def __init__(self) -> None:
        self._mean = 0.0
        self.since_us: int | None = None

    def is_due(self, now_us: int) -> bool:
        """Whether the span is long enough to be told; one that a clock has turned back is told too."""
        return self.since_us is None or not 0 <= now_us - self.since_us < SPAN_US

    def tell(self, units: float, now_us: int) -> None:
        """Be told how many units came since the last time; the first time begins a span."""
        if self.since_us is not None and now_us > self.since_us:
            took_us = now_us - self.since_us
            weight = took_us / (took_us + _MEMORY_US)
            self._mean += weight * (units * _SECOND_US / took_us - self._mean)
        self.since_us = now_us

    def per_second(self, units: float = 0, now_us: int = 0) -> float:
        """Give the mean; or what `units` since the last time come to, if that is more and can be told."""
        if self.since_us is None or now_us - self.since_us < _GLIMPSE_US:
            return self._mean
        return max(self._mean, units * _SECOND_US / (now_us - self.since_us))


def is_lendable(charge: Charge) -> bool:
    """Whether a charge can be lent: it is known beforehand, enforced, and there is enough of it."""
    quota = charge.quota
    if charge.held or charge.shadow or charge.take < 1 or charge.need != charge.take:
        return False
    if isinstance(quota, Rate):
        return quota.burst // BURST_SHARE // charge.take >= FEWEST
    return isinstance(quota, Cap) and quota.most // SHARE // charge.take >= FEWEST


def boundary_of(cap: Cap, used: int) -> int:
    """Give the next count at which something happens; the count itself where it is past all of them."""
    return min((each for each in (*cap.warn, cap.included, cap.most) if each > used), default=used)


def lent(charge: Charge, requests: int, used: int) -> Charge:
    """Give the charge of a slice: the store refuses one that would reach the boundary (Rule 1)."""
    units = charge.take * requests
    quota = charge.quota
    if isinstance(quota, Cap):
        quota = Cap(max(0, boundary_of(quota, used) - 1), quota.period)
    return replace(charge, quota=quota, need=units, take=units)


def told(charge: Charge) -> Charge:
    """Give the charge of one request as a slice is settled by it.

    Thresholds are left to the next request that is asked for by itself, which can say so.
    """
    quota = charge.quota
    return replace(charge, quota=replace(quota, warn=())) if isinstance(quota, Cap) and quota.warn else charge


def slice_of(
    charges: Sequence[Charge],
    readings: Sequence[Reading],
    climbs: Sequence[float],
    demand: float,
    *,
    seen_us: int,
    now_us: int,
    speed: Speed,
) -> Slice | None:
    """Give the slice that may be asked for now; None where requests are better asked for one by one.

    The `readings` are of `seen_us`. `climbs` says by how many units a second each count grows, whoever uses
    it, and `demand` how many requests a second come here.
    """
    if demand <= 0 or speed is Speed.STRICT:
        return None
    lasts_us, most = float(LONGEST_US), float("inf")
    for charge, reading, climb in zip(charges, readings, climbs, strict=True):
        quota = charge.quota
        if isinstance(quota, Rate):
            free = quota.remaining(reading.state, now_us)
            most = min(most, quota.burst / BURST_SHARE / charge.take, free / FREE_SHARE / charge.take)
        elif isinstance(quota, Cap):
            pace = max(climb, demand * charge.take)
            passed = pace * max(0, now_us - seen_us) / _SECOND_US
            left = boundary_of(quota, reading.state.part) - 1 - reading.state.part - passed
            lasts_us = min(lasts_us, left / pace / TIMES * _SECOND_US, reading.until_us - SKEW_US - now_us)
            most = min(most, left / SHARE / charge.take)
    coming = demand * lasts_us / _SECOND_US
    if lasts_us < SHORTEST_US or coming < (FEWEST_COMING if speed is Speed.AUTO else FEWEST):
        return None
    # Not all that will come: a slice is used up before its time, so that little is left unused.
    requests = int(min(most, max(FEWEST, coming * COMING_SHARE)))
    return Slice(requests, int(lasts_us)) if requests >= FEWEST else None
