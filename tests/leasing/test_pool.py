"""A pool: what requests take of its leases, what they end, and what the store would have said."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasing.charges import MONTH, cap, rate
from leasing.simulation import START_US, TAG
from meter_mw.leasing.pool import Grant, Lease, Pool
from meter_mw.policy.terms import Speed
from meter_mw.quota import Cap, Rate, Span
from meter_mw.rids import new_rid
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, Reading, Settle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.stores.port import Charge

CHARGES = (cap(1_000_000), rate(10_000, 100_000))


class Wanted(list[Pool]):
    """Remembers who wanted a lease."""

    def __call__(self, pool: Pool) -> None:
        self.append(pool)


def counts() -> memoryview:
    return memoryview(bytearray(16)).cast("Q")


def a_grant(requests: int, charges: tuple[Charge, ...] = CHARGES, *, used: int = 0) -> Grant:
    readings = tuple(
        Reading(Span(MONTH[1], used + requests * each.take), until_us=MONTH[2])
        if isinstance(each.quota, Cap)
        else Reading(Span(START_US + requests * each.take * 100, 0))
        for each in charges
    )
    return Grant(new_rid(START_US), TAG, charges, requests, readings, START_US, counts())


def a_pool(charges: tuple[Charge, ...] = CHARGES, speed: Speed = Speed.LEASED) -> tuple[Pool, Wanted]:
    wanted = Wanted()
    return Pool(TAG, charges, speed, wanted), wanted


def booked(settlement: Settle | None) -> list[int]:
    assert settlement is not None
    return [each.actual for each in settlement.bookings]


def test_a_lease_lends_what_it_has_and_no_more() -> None:
    pool, _ = a_pool()
    assert pool.take(START_US) is None
    pool.granted(a_grant(3), 1_000_000)
    taken = [pool.take(START_US) for _ in range(5)]
    assert [None if each is None else each.left for each in taken] == [2, 1, 0, None, None]


def test_a_lease_lends_nothing_when_its_time_is_over() -> None:
    pool, _ = a_pool()
    pool.granted(a_grant(3), 200_000)
    assert pool.take(START_US + 199_999) is not None
    assert pool.take(START_US + 200_000) is None


def test_a_lease_is_over_before_the_window_of_its_cap_is() -> None:
    pool, _ = a_pool()
    grant = a_grant(3)
    closing = Reading(Span(MONTH[1], 3), until_us=START_US + 150_000)
    lease = pool.granted(grant._replace(readings=(closing, grant.readings[1])), 1_000_000)
    assert lease.until_us == START_US + 100_000


def test_the_older_one_is_used_up_first() -> None:
    pool, _ = a_pool()
    old, new = pool.granted(a_grant(2), 1_000_000), pool.granted(a_grant(2), 1_000_000)
    assert [share.lease for _ in range(4) if (share := pool.take(START_US))] == [old, old, new, new]


def test_what_was_used_stands_where_a_successor_finds_it() -> None:
    pool, _ = a_pool()
    grant = a_grant(10)
    lease = pool.granted(grant, 1_000_000)
    for charged in (True, False, True):
        share = pool.take(START_US)
        assert share is not None
        share.lease.end(charged=charged)
    assert grant.counts is not None
    assert list(grant.counts) == [3, 1]
    assert lease.unused == 7


def test_rates_keep_what_an_uncharged_request_took_and_caps_do_not() -> None:
    pool, _ = a_pool((cap(1_000_000, 5), rate(10_000, 100_000, 2)))
    lease = pool.granted(a_grant(10, pool.charges), 1_000_000)
    for charged in (True, False, False):
        share = pool.take(START_US)
        assert share is not None
        share.lease.end(charged=charged)
    pool.drop(lease)
    assert booked(lease.settle()) == [5, 6]
    assert lease.settle() is None


def test_what_is_given_back_is_lent_again_or_comes_back() -> None:
    pool, _ = a_pool()
    lease = pool.granted(a_grant(2), 1_000_000)
    first, second = pool.take(START_US), pool.take(START_US)
    assert first is not None
    assert second is not None
    first.lease.give_back()
    assert pool.take(START_US) is not None
    pool.drop(lease)
    second.lease.give_back()
    assert pool.take(START_US) is None
    assert (lease.flying, lease.unused) == (1, 1)


def test_what_is_in_flight_at_the_end_counts_as_used() -> None:
    pool, _ = a_pool()
    lease = pool.granted(a_grant(4), 1_000_000)
    share = pool.take(START_US)
    assert share is not None
    assert booked(lease.settle()) == [1, 1]
    share.lease.end(charged=False)  # it is too late, and harms nothing
    assert lease.grant is None


def test_what_is_in_flight_may_be_of_another_grant_later() -> None:
    pool, _ = a_pool()
    lease = pool.granted(a_grant(10), 1_000_000)
    shares = [pool.take(START_US) for _ in range(3)]
    assert shares[0] is not None
    shares[0].lease.end(charged=False)
    pool.drop(lease)
    later = a_grant(2, (CHARGES[0],))
    assert booked(lease.hand_over(later)) == [0, 3]  # the rate keeps what they took
    for share in shares[1:]:
        assert share is not None
        share.lease.end(charged=True)
    assert later.counts is not None
    assert list(later.counts) == [2, 0]
    assert booked(lease.settle()) == [2]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=40), st.integers(1, 3))
def test_figures_are_what_the_store_would_have_said(gaps_us: list[int], take: int) -> None:
    """A request of a lease stands as one that the store admitted by itself, if nobody else comes.

    A rate drains a little otherwise where a slice is charged at once.
    """
    now_us = START_US
    store, lending = MemoryStore(lambda: now_us), MemoryStore(lambda: START_US)
    charges = (cap(1_000_000, take), rate(100, 6_400, take))
    units = take * len(gaps_us)
    slices = tuple(replace(each, need=units, take=units) for each in charges)
    lent = Admit(new_rid(START_US), TAG, START_US, slices)
    pool, _ = a_pool(charges)
    readings = lending.admit(lent).readings
    pool.granted(Grant(lent.rid, TAG, charges, len(gaps_us), readings, START_US), 10_000_000)
    quota = charges[1].quota
    assert isinstance(quota, Rate)
    for gap_us in gaps_us:
        now_us = min(START_US + 999_999, now_us + gap_us)
        share = pool.take(now_us)
        assert share is not None
        count, flow = store.admit(Admit(new_rid(now_us), TAG, now_us, charges)).readings
        of_cap, of_rate = share.figures(now_us)
        assert (of_cap.used, of_cap.start_us) == (count.state.part, count.state.whole)
        assert (of_cap.remaining, of_cap.reset_us) == (1_000_000 - count.state.part, count.until_us - now_us)
        remaining = quota.remaining(flow.state, now_us)
        assert of_rate.remaining <= 6_400 - take
        assert abs(of_rate.remaining - remaining) <= 100 * (now_us - START_US) / 1_000_000 + 1


def test_a_lease_is_asked_for_once_and_before_the_last_one_is_used_up() -> None:
    pool, wanted = a_pool()
    for at in range(3):
        pool.saw(a_grant(at).readings, START_US + at * 60_000)
    assert wanted == [pool]
    assert pool.slice(START_US + 130_000) is not None
    pool.granted(a_grant(10), 1_000_000)
    taken = 0
    while len(wanted) == 1:
        assert pool.take(START_US + 140_000) is not None
        taken += 1
    assert taken == 8
    assert pool.slice(START_US + 145_000) is not None
    pool.granted(a_grant(10), 1_000_000)
    for _ in range(2):
        pool.take(START_US + 150_000)
    assert len(wanted) == 2  # it was followed
    for _ in range(8):
        pool.take(START_US + 150_000)
    assert len(wanted) == 3
    assert pool.slice(START_US + 200_000) is not None


def test_a_lease_that_ends_soon_is_followed_by_another() -> None:
    pool, wanted = a_pool()
    pool.granted(a_grant(100), 1_000_000)
    pool.take(START_US + 700_000)
    assert not wanted
    pool.take(START_US + 760_000)
    assert wanted == [pool]


def test_two_leases_are_out_at_most() -> None:
    pool, _ = a_pool()
    for at in range(10):
        pool.saw(a_grant(at).readings, START_US + at * 10_000)
    pool.granted(a_grant(10), 1_000_000)
    assert pool.slice(START_US + 100_000) is not None
    pool.granted(a_grant(10), 1_000_000)
    assert pool.slice(START_US + 100_000) is None


def test_who_is_refused_asks_later_and_later() -> None:
    pool, wanted = a_pool()
    now_us = START_US
    waits = []
    for _ in range(9):
        asked_us, asked = now_us, len(wanted)
        while len(wanted) == asked:
            now_us += 20_000
            pool.saw(a_grant(1).readings, now_us)
        waits.append((now_us - asked_us) / 1_000_000)
        pool.refused(now_us)
    assert waits[1:] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0], abs=0.05)


def test_auto_waits_for_demand() -> None:
    pool, wanted = a_pool(speed=Speed.AUTO)
    for at in range(40):
        pool.saw(a_grant(1).readings, START_US + at * 400_000)
    assert not wanted
    for at in range(40):
        pool.saw(a_grant(1).readings, START_US + 16_000_000 + at * 50_000)
    assert wanted == [pool]


@pytest.mark.usefixtures("hasty")
def test_threads_take_each_request_once() -> None:
    pool, _ = a_pool()
    grant = a_grant(20_000)
    lease = pool.granted(grant, 1_000_000)
    taken = [0] * 8
    ready = threading.Barrier(len(taken))

    def work(number: int) -> None:
        ready.wait()
        while (share := pool.take(START_US)) is not None:
            taken[number] += 1
            if taken[number] % 10 == 0:
                share.lease.give_back()
            else:
                share.lease.end(charged=taken[number] % 2 == 0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(taken))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grant.counts is not None
    assert (lease.flying, lease.left, lease.used, grant.counts[0]) == (0, 0, 20_000, 20_000)
    assert grant.counts[1] == lease.refunded


def test_a_child_begins_with_nothing() -> None:
    pool, _ = a_pool()
    grant = a_grant(10)
    lease: Lease = pool.granted(grant, 1_000_000)
    share = pool.take(START_US)
    assert share is not None
    pool.forget()
    lease.forget()
    assert pool.take(START_US) is None
    share.lease.end(charged=True)
    assert grant.counts is not None
    assert list(grant.counts) == [0, 0]
    assert lease.settle() is None
