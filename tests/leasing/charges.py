"""Charges that leases are taken for, in windows around the time that tests begin at."""

from __future__ import annotations

from leasing.simulation import START_US
from meter_mw.periods import Period, calendar
from meter_mw.quota import Cap, Rate
from meter_mw.stores.port import Charge

MONTH = calendar(Period.MONTH, "UTC", None).windows(START_US)


def cap(units: int, take: int = 1, *, warn: tuple[int, ...] = (), ceiling: int | None = None) -> Charge:
    quota = Cap(units, Period.MONTH, bills=ceiling is not None, ceiling=ceiling, warn=warn)
    return Charge("c:month", quota, take, take, MONTH)


def rate(per_second: int, burst: int, take: int = 1) -> Charge:
    return Charge("r:second", Rate(per_second, 1_000_000, burst), take, take)
