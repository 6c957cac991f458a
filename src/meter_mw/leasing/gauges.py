"""How charges stand after a request from a lease: what the store said of the grant, less what is unspent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meter_mw.quota import Rate

if TYPE_CHECKING:
    from meter_mw.stores.port import Charge, Reading


class Figures(NamedTuple):
    """What a caller is told of a limit: see `Standing`."""

    remaining: int
    reset_us: int
    used: int | None = None
    start_us: int = 0


class _RateGauge(NamedTuple):
    """A rate's backlog at the grant, and what a request takes, in 1/denominator µs."""

    since_us: int
    backlog: int
    step: int
    numerator: int
    denominator: int
    burst: int

    def read(self, left: int, now_us: int) -> Figures:
        """Give the figures when `left` requests are unspent."""
        since_us, granted, step, numerator, denominator, burst = self
        backlog = granted - left * step - (now_us - since_us) * denominator
        backlog = max(step, backlog)  # the request itself has just been taken
        return Figures(max(0, burst + -backlog // numerator), -(-backlog // denominator))


class _CapGauge(NamedTuple):
    """A cap's count at the grant, and what a request takes."""

    units: int
    used: int
    step: int
    start_us: int
    until_us: int

    def read(self, left: int, now_us: int) -> Figures:
        """Give the figures when `left` requests are unspent."""
        units, granted, step, start_us, until_us = self
        used = granted - left * step
        return Figures(max(0, units - used), max(0, until_us - now_us), used, start_us)


Gauge: TypeAlias = _RateGauge | _CapGauge


def gauge(charge: Charge, reading: Reading, since_us: int) -> Gauge:
    """Give what reads how a charge of one request stands; `reading` is of the whole grant, at `since_us`."""
    quota, state = charge.quota, reading.state
    if isinstance(quota, Rate):
        step = charge.take * quota.numerator
        backlog = quota.backlog(state, since_us)
        return _RateGauge(since_us, backlog, step, quota.numerator, quota.denominator, quota.burst)
    return _CapGauge(quota.units, state.part, charge.take, state.whole, reading.until_us)
