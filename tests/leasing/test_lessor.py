"""The lessor's thread on a real Redis: what is out comes back, and no fault of the store is one of a cap."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from leasing.charges import rate
from meter_mw.journal import Journal
from meter_mw.leasing import lessor as module
from meter_mw.leasing.lessor import Lessor
from meter_mw.periods import Period, calendar
from meter_mw.policy.delivery import Reap
from meter_mw.policy.terms import Speed
from meter_mw.quota import Cap
from meter_mw.recovery.register import Register
from meter_mw.recovery.trail import Trail
from meter_mw.rids import new_rid
from meter_mw.stores.access import Stores
from meter_mw.stores.aredis_store import open_async_store
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, Cancel, Charge
from meter_mw.stores.redis_store import open_store
from meter_mw.stores.settler import DirectSettler, Settler
from support.policies import policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meter_mw.leasing.pool import Pool
    from meter_mw.stores.port import Closing
    from support.servers import RedisServer

TAG = "t"
PATIENCE_US = 10_000_000


class Bench:
    """A lessor with all that it needs, on one Redis."""

    def __init__(self, folder: Path, url: str) -> None:
        self.store = open_store(url)
        self.journal = Journal(folder / "journal", "urn:test")
        self.trail = Trail(self.journal, self.store.now_us)
        self.settler = Settler(self.store, record=self.trail)
        self.policy = policy(store=url)
        self.stores = Stores(self.store, open_async_store(url), self.settler)
        self.lessor = Lessor(self.policy, self.stores, self.trail)
        now_us = self.store.now_us()
        windows = calendar(Period.YEAR, "UTC", None).windows(now_us)
        self.charges = (Charge("c:year", Cap(10**9, Period.YEAR), 1, 1, windows), rate(10**6, 10**6))

    def pool(self) -> Pool:
        pool = self.lessor.pool(TAG, self.charges, Speed.LEASED)
        assert pool is not None
        return pool

    def strict(self) -> None:
        """Ask the store for one request, and let the pool see it."""
        now_us = self.store.now_us()
        command = Admit(new_rid(now_us), TAG, now_us + PATIENCE_US, self.charges)
        tally = self.store.admit(command, patience_us=PATIENCE_US)
        self.pool().saw(tally.readings, tally.now_us)

    def until_lent(self) -> int:
        """Send requests until one is lent, and end all; give how many there were."""
        sent, end = 0, time.monotonic() + 20
        while True:
            assert time.monotonic() < end, "nothing is lent"
            sent += 1
            share = self.pool().take(self.store.now_us())
            if share is not None:
                share.lease.end(charged=True)
                return sent
            self.strict()
            time.sleep(0.004)

    def counted(self) -> int:
        return self.store.peek(TAG, self.charges).readings[0].state.part

    def close(self) -> None:
        self.lessor.close(5)
        self.settler.close(5)
        self.trail.forget()
        self.journal.close()
        self.store.close()


@pytest.fixture
def bench(tmp_path: Path, redis_url: str) -> Iterator[Bench]:
    bench = Bench(tmp_path, redis_url)
    yield bench
    bench.close()


def test_a_flush_brings_back_what_was_not_used(bench: Bench) -> None:
    sent = bench.until_lent()
    assert bench.lessor.flush(10)
    assert bench.settler.flush(10)
    assert bench.counted() == sent
    assert bench.trail.register is not None
    assert bench.trail.register.is_empty
    assert bench.until_lent()  # and then it is lent again


def test_a_close_brings_back_what_was_not_used_and_lends_no_more(bench: Bench) -> None:
    sent = bench.until_lent()
    bench.lessor.close(10)
    assert bench.settler.flush(10)
    assert bench.counted() == sent
    for _ in range(20):
        bench.strict()
        time.sleep(0.004)
    assert bench.pool().take(bench.store.now_us()) is None


def test_what_is_idle_comes_back_by_itself(bench: Bench) -> None:
    sent = bench.until_lent()
    end = time.monotonic() + 20
    while bench.counted() != sent:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_child_has_none_of_its_parents_leases(bench: Bench) -> None:
    """Nor does it end what its parent has in flight, though both could write to one register."""
    bench.until_lent()
    pool = bench.pool()
    share = None
    while share is None:
        bench.until_lent()
        share = pool.take(bench.store.now_us())
    grant = share.lease.grant
    assert grant is not None
    assert grant.counts is not None
    before = list(grant.counts)
    child = os.fork()
    if child == 0:
        share.lease.end(charged=False)
        is_bare = pool.take(bench.store.now_us()) is None and bench.lessor._thread is None
        os._exit(0 if is_bare else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(grant.counts) == before
    assert bench.lessor._thread is not None
    share.lease.end(charged=True)


def test_without_a_register_nothing_is_lent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process has not used could not be brought back."""
    monkeypatch.setattr(bench.trail, "ready", lambda: None)
    for sent in range(1, 40):
        assert bench.pool().take(bench.store.now_us()) is None
        bench.strict()
        assert bench.counted() == sent
        time.sleep(0.004)


def test_a_store_that_goes_away_leaves_nothing_spent(
    tmp_path: Path, start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that got no answer is cancelled, whether the store has it or not."""
    monkeypatch.setattr("meter_mw.leasing.grants.PATIENCE_US", 100_000)
    server = start_redis()
    bench = Bench(tmp_path, server.url)
    closings: list[Closing] = []
    put = bench.settler.put
    monkeypatch.setattr(bench.settler, "put", lambda each, **more: (closings.append(each), put(each, **more)))
    try:
        bench.strict()
        time.sleep(0.06)
        bench.strict()
        bench.lessor.flush(5)
        server.freeze()
        end = time.monotonic() + 20
        while not any(isinstance(each, Cancel) for each in closings):
            assert time.monotonic() < end
            bench.pool()._came += 5  # many come, though none is answered
            bench.pool()._wants(bench.pool())
            time.sleep(0.02)
        server.thaw()
        assert bench.lessor.flush(10)
        assert bench.settler.flush(20)
        end = time.monotonic() + 20
        while bench.counted() != 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert bench.trail.register is not None
        assert bench.trail.register.is_empty
    finally:
        bench.close()


def test_a_register_that_is_left_to_others_ends_what_is_lent(bench: Bench) -> None:
    bench.until_lent()
    assert bench.trail.leaving is not None
    bench.trail.leaving()
    assert bench.pool().take(bench.store.now_us()) is None


def test_who_never_leases(tmp_path: Path, bench: Bench) -> None:
    assert bench.lessor.pool(TAG, bench.charges, Speed.STRICT) is None
    held = (replace(bench.charges[0], held=True), bench.charges[1])
    assert bench.lessor.pool(TAG, held, Speed.LEASED) is None
    assert bench.lessor.pool(TAG, (), Speed.LEASED) is None
    events = replace(bench.policy.events, reap=Reap.BILL)
    bills = Lessor(replace(bench.policy, events=events), bench.stores, bench.trail)
    assert bills.pool(TAG, bench.charges, Speed.LEASED) is None


def test_a_store_in_memory_lends_too(bench: Bench) -> None:
    """Asking it waits for nobody, and takes twice as long as a lease all the same."""
    memory = MemoryStore()
    alone = Lessor(bench.policy, Stores(memory, None, DirectSettler(memory)), bench.trail)
    for speed in (Speed.AUTO, Speed.LEASED):
        assert alone.pool(TAG, bench.charges, speed) is not None


def test_a_pool_is_the_same_for_one_holder_and_the_same_charges(bench: Bench) -> None:
    pool, lessor = bench.pool(), bench.lessor
    assert bench.pool() is pool
    assert lessor.pool("u", bench.charges, Speed.LEASED) is not pool
    assert lessor.pool(TAG, bench.charges, Speed.AUTO) is not pool
    later = (replace(bench.charges[0], windows=(1, 2, 3, 4)), bench.charges[1])
    assert lessor.pool(TAG, later, Speed.LEASED) is pool
    assert pool.charges == later
    other = (replace(bench.charges[0], quota=Cap(10**6, Period.YEAR)), bench.charges[1])
    assert lessor.pool(TAG, other, Speed.LEASED) is not pool
    shared = tuple(replace(each, holder="account") for each in bench.charges)
    theirs = lessor.pool(TAG, shared, Speed.LEASED)
    assert theirs is not None
    assert theirs is lessor.pool("u", shared, Speed.LEASED)
    assert theirs.tag == "account"
    of_key = lessor.pool(TAG, tuple(replace(each, holder="t:k1") for each in bench.charges), Speed.LEASED)
    assert of_key is not None
    assert of_key.tag == "t"
    with pytest.raises(ValueError, match="one holder"):
        lessor.pool(TAG, (shared[0], bench.charges[1]), Speed.LEASED)


def test_pools_that_nobody_asks_for_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_POOLS", 10)
    for number in range(50):
        assert bench.lessor.pool(f"t{number}", bench.charges, Speed.LEASED) is not None
    assert len(bench.lessor._pools) == len(bench.lessor._recent) == 10


# -- the register


def test_a_lease_in_the_register_says_what_was_used_of_it(tmp_path: Path) -> None:
    register = Register.create(tmp_path)
    counts = register.lend(new_rid(1), b"settles one")
    assert counts is not None
    counts[0] = 2**40 + 7
    counts[1] = 3
    (entry,) = register.entries()
    assert (entry.lent, entry.packed, entry.used, entry.refunded) == (True, b"settles one", 2**40 + 7, 3)
    assert register.lend(new_rid(2), b"x" * 2_000) is None
    register.cross_out(entry)
    assert list(register.entries()) == []
    register.disown()
