"""What a caller is told of a limit that is lent is what the store would have told it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leasing.charges import MONTH, cap, rate
from leasing.simulation import START_US
from meter_mw.judging import standing
from meter_mw.leasing.gauges import gauge
from meter_mw.policy.terms import Failure, Limit, Line
from meter_mw.quota import Rate, Span, charged
from meter_mw.stores.port import Charge, Reading
from support.policies import REQUESTS


def told(charge: Charge, reading: Reading, now_us: int) -> tuple[int, int | None, int | None, int]:
    """Give what a caller is told where the store was asked."""
    limit = Limit("limit", REQUESTS, charge.quota, Failure.OPEN)
    how = standing(Line(limit, charge.need, charge.take), charge, reading, now_us)
    return how.remaining, how.reset_us, how.used, how.start_us


@given(
    st.integers(1, 10**6),
    st.integers(64, 10**6),
    st.integers(1, 9),
    st.integers(0, 60),
    st.integers(0, 10**6),
)
def test_of_a_rate(per_second: int, burst: int, take: int, left: int, later_us: int) -> None:
    """As if those that are unspent had not been taken; the request itself has just been."""
    charge = rate(per_second, burst, take)
    quota = charge.quota
    assert isinstance(quota, Rate)
    granted = charged(Span(0, 0), quota, START_US, quota.span(take * 61))
    unspent = quota.size(granted) - left * take * quota.numerator
    now_us = START_US + later_us
    just_taken = now_us * quota.denominator + take * quota.numerator
    reading = Reading(quota.spanning(max(unspent, just_taken)))
    figures = gauge(charge, Reading(granted), START_US).read(left, now_us)
    assert tuple(figures) == told(charge, reading, now_us)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 60), st.integers(0, 10**6))
def test_of_a_cap(used: int, take: int, left: int, later_us: int) -> None:
    """The count is that of the store, less what is unspent here."""
    charge = cap(10**6, take)
    granted = used + 61 * take
    figures = gauge(charge, Reading(Span(MONTH[1], granted), until_us=MONTH[2]), START_US).read(
        left, START_US + later_us
    )
    reading = Reading(Span(MONTH[1], granted - left * take), until_us=MONTH[2])
    assert tuple(figures) == told(charge, reading, START_US + later_us)
