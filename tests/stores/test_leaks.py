"""Nothing leaks: whatever becomes of two thousand requests, every slot is free and no unit is held after."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from meter_mw.periods import Period, calendar
from meter_mw.quota import Cap, Rate, Slots
from meter_mw.rids import new_rid
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, Cancel, Charge, Settle, TopUp, Verdict
from meter_mw.stores.redis_store import open_store
from meter_mw.testing.stores import settlement
from support.states import state_of

if TYPE_CHECKING:
    from meter_mw.stores.port import Closing, Tally
    from meter_mw.testing.stores import Clock, ConformingStore
    from support.servers import RedisServer

pytestmark = pytest.mark.lengthy

SECOND = 1_000_000
LEASE_US = 30 * SECOND
REQUESTS = 2_000
SUBJECTS = 50
POOL = "pool"
BYTES = Cap(2**50, Period.MONTH)
TOKENS = Rate(10**6, SECOND, 10**9)
SLOTS = Slots(REQUESTS)
ENDS = (
    "settled",
    "cancelled",
    "closed twice",
    "abandoned",
    "topped up and abandoned",
    "topped up and settled",
)


class Crowd:
    """Clients of fifty subjects, who come, and end as it pleases them; `used` is what was settled."""

    def __init__(self, store: ConformingStore, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.random = random.Random(3)
        self.used = [0] * SUBJECTS
        self.busiest = 0

    def charges(self, units: int = 65_536) -> tuple[Charge, ...]:
        """Ask of a slot, of bytes reserved from a cap and a pool, and of an estimate of a rate."""
        windows = calendar(Period.MONTH, "UTC", None).windows(self.clock())
        return (
            Charge("s:slots", SLOTS, 1, 1, held=True),
            Charge("c:bytes", BYTES, 1, units, windows, held=True),
            Charge("r:tokens", TOKENS, 1, units, held=True),
            Charge("c:pool", BYTES, 1, units, windows, held=True, holder=POOL),
            Charge("s:pool", SLOTS, 1, 1, held=True, holder=POOL),
        )

    def comes(self) -> None:
        """Admit one, and end it, or do not."""
        self.clock.move(self.random.randrange(0, 40_000))
        who, end, now_us = self.random.randrange(SUBJECTS), self.random.choice(ENDS), self.clock()
        command = Admit(new_rid(now_us), f"subject-{who}", now_us, self.charges(), LEASE_US)
        tally = self.store.admit(command, patience_us=5 * SECOND)
        assert tally.verdict is Verdict.ADMITTED
        self.busiest = max(self.busiest, tally.readings[-1].state.part)
        if end.startswith("topped up"):
            for units in (100_000, 150_000):
                topping = TopUp(command.rid, command.tag, now_us, self.charges(units), LEASE_US)
                assert self.store.admit(topping, patience_us=5 * SECOND).verdict is Verdict.ADMITTED
        if not end.endswith("abandoned"):
            self.store.settle(self.closings(end, command, tally, who))

    def closings(self, end: str, command: Admit, tally: Tally, who: int) -> list[Closing]:
        """Give what closes one, once or twice."""
        cancel = Cancel(command.rid, command.tag, command.charges)
        if end == "cancelled":
            return [cancel]
        actual = self.random.randrange(0, 200_000)
        self.used[who] += actual
        settle: Settle = settlement(command, tally, 1, actual, actual, actual, 1)
        return [settle, settle, cancel] if end == "closed twice" else [settle]

    def looks(self, who: int) -> list[int]:
        """Read what one subject and the pool have used, having asked for nothing."""
        now_us = self.clock()
        nothing = tuple(
            Charge(each.id, each.quota, 0, 0, each.windows, held=True, holder=each.holder)
            for each in self.charges()
        )
        command = Admit(new_rid(now_us), f"subject-{who}", now_us, nothing, LEASE_US)
        tally = self.store.admit(command, patience_us=5 * SECOND)
        return [each.state.part for each in tally.readings]

    def has_left(self) -> None:
        """See that every slot is free, and that no count has more than was settled."""
        self.clock.move(LEASE_US)
        for who in range(SUBJECTS):
            slots, known, _, pool, pooled = self.looks(who)
            assert (slots, known, pool, pooled) == (0, self.used[who], sum(self.used), 0)


def test_nothing_leaks_in_memory(clock: Clock) -> None:
    """After the last lease no hold is left, and what was remembered of the requests is forgotten in time."""
    memory = MemoryStore(clock)
    crowd = Crowd(memory, clock)
    for _ in range(REQUESTS):
        crowd.comes()
    assert crowd.busiest > 100
    crowd.has_left()
    holders = memory._holders.values()
    assert not any(holder.holds for holder in holders)
    assert not any(used.held for holder in holders for used in holder.counts.values())
    clock.move(16 * 60 * SECOND)
    memory._sweep(clock())
    assert not memory._requests
    assert set(memory._holders) == {POOL, *(f"subject-{who}" for who in range(SUBJECTS))}


def test_nothing_leaks_in_redis(redis_server: RedisServer, redis_url: str, clock: Clock) -> None:
    """After the last lease no hold is left; there is a key for each holder, and some for each minute."""
    store = open_store(redis_url, clock=clock)
    try:
        crowd = Crowd(store, clock)
        began_us = clock()
        for _ in range(REQUESTS):
            crowd.comes()
        assert crowd.busiest > 100
        crowd.has_left()
    finally:
        store.close()
    minutes = (clock() - began_us) // (60 * SECOND) + 2
    with redis_server.client() as looker:
        keys = [key.decode() for key in looker.keys("*")]
        assert not [key for key in keys if key.endswith(":h")]
        assert len(keys) <= (SUBJECTS + 1) + SUBJECTS * minutes
        assert all(looker.pttl(key) > 0 for key in keys)
        for key in keys:
            if looker.type(key) == b"string":
                _, due, _, counts = state_of(looker.get(key))
                assert not due
                assert not any(each.held for id_, each in counts.items() if id_.startswith("c"))
                assert not any(each.used for id_, each in counts.items() if id_.startswith("s"))
