"""Pools of one holder's charges, and the leases that requests are admitted from without asking the store.

Rule 1: nothing here waits, for the store or for anybody; times are passed in.
Rule 2: one lease is asked for at a time, and two are out at most; the older one is used up first.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.leasing.lease import Grant, Lease
from meter_mw.leasing.sizes import LONGEST_US, SKEW_US, SPAN_US, Pace, lent, slice_of
from meter_mw.policy.terms import Speed
from meter_mw.quota import Cap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.leasing.gauges import Figures
    from meter_mw.leasing.sizes import Slice
    from meter_mw.stores.port import Charge, Reading

__all__ = ["Grant", "Lease", "Pool", "Share"]

_PAUSE_US = 100_000
_LONGEST_PAUSE_US = 10_000_000


class Share(NamedTuple):
    """What a request took: the lease that it is of, and how many requests are left in that after it."""

    lease: Lease
    left: int

    def figures(self, now_us: int) -> list[Figures]:
        """Give how the charges of the pool stand after the request."""
        left = self.left
        return [gauge.read(left, now_us) for gauge in self.lease.gauges]


class Pool:
    """What leases are taken for: the charges that requests of one kind bring to one holder.

    `charges` are those of one request, in windows that are valid now. `wants` is called when a lease is
    wanted, from whatever thread; it does not wait. Safe for threads.
    """

    __slots__ = (
        "__weakref__", "_asked", "_came", "_climbs", "_demand", "_due_us", "_leases", "_lock",
        "_paused_until_us", "_paused_us", "_seen", "_told", "_wants", "charges", "speed", "tag",
    )  # fmt: skip

    def __init__(
        self, tag: str, charges: tuple[Charge, ...], speed: Speed, wants: Callable[[Pool], None]
    ) -> None:
        self.tag = tag
        self.charges = charges
        self.speed = speed
        self._wants = wants
        self.forget()

    def forget(self) -> None:
        """Begin with nothing, as a forked child does: the leases are its parent's."""
        self._lock = threading.Lock()
        self._leases: list[Lease] = []
        self._came = 0
        self._demand = Pace()
        self._climbs = tuple(Pace() for _ in self.charges)
        self._seen: tuple[tuple[Reading, ...], int] = ((), 0)
        self._told: tuple[Reading, ...] = ()
        self._due_us = 0
        self._paused_us = self._paused_until_us = 0
        self._asked = False

    # Of requests

    def take(self, now_us: int) -> Share | None:
        """Admit a request from a lease, the older one first; None where the store is to be asked."""
        if not self._leases:
            return None
        with self._lock:
            for lease in self._leases:
                left = lease.left
                if left > 0 and now_us < lease.until_us:
                    left -= 1
                    lease.left = left
                    lease.flying += 1
                    self._came += 1
                    if left <= lease.refill_at or now_us >= lease.refill_us:
                        lease.is_followed()
                        self._ask(now_us)
                    return Share(lease, left)
            self._due_us = 0
            return None

    def saw(self, readings: Sequence[Reading], now_us: int) -> None:
        """Be told how the store says the charges stand after a request that it was asked for."""
        with self._lock:
            self._came += 1
            self._see(tuple(readings), now_us)
            if now_us >= self._due_us and not self._asked:
                self._due_us = 0 if self.speed is Speed.LEASED else now_us + SPAN_US
                self._count(now_us)
                if self._slice(now_us) is not None:
                    self._ask(now_us)

    # Of its lessor

    def slice(self, now_us: int) -> Slice | None:
        """Give what may be asked of the store now; None where it is no time for a lease."""
        with self._lock:
            self._count(now_us)
            found = None if len(self._open(now_us)) > 1 else self._slice(now_us)
            if found is None:
                self._asked = False
            return found

    def lent(self, requests: int) -> tuple[tuple[Charge, ...], tuple[Charge, ...]]:
        """Give the charges of one request, and those of a slice of so many."""
        with self._lock:
            charges, counts = self.charges, [each.state.part for each in self._seen[0]]
        return charges, tuple(lent(each, requests, used) for each, used in zip(charges, counts, strict=True))

    def granted(self, grant: Grant, lasts_us: int) -> Lease:
        """Lend from now on what the store has granted."""
        closes = (
            each.until_us - SKEW_US
            for charge, each in zip(grant.charges, grant.readings, strict=True)
            if isinstance(charge.quota, Cap)
        )
        with self._lock:
            until_us = min(grant.admitted_us + lasts_us, *closes, grant.admitted_us + LONGEST_US)
            lease = Lease(grant, until_us, self._lock)
            self._see(grant.readings, grant.admitted_us)
            self._leases = [*self._open(grant.admitted_us), lease]
            self._asked = False
            self._paused_us = 0
            return lease

    def refused(self, now_us: int) -> None:
        """Ask for no more for a while, and for longer the next time: the store granted nothing."""
        with self._lock:
            self._asked = False
            self._paused_us = min(_LONGEST_PAUSE_US, max(_PAUSE_US, self._paused_us * 2))
            self._paused_until_us = now_us + self._paused_us

    def drop(self, lease: Lease) -> None:
        """Lend no more of a lease."""
        lease.retire()
        with self._lock:
            self._leases = [each for each in self._leases if each is not lease]

    # With the lock

    def _open(self, now_us: int) -> list[Lease]:
        return [each for each in self._leases if each.left > 0 and now_us < each.until_us]

    def _ask(self, now_us: int) -> None:
        is_paused = self._paused_until_us - _LONGEST_PAUSE_US <= now_us < self._paused_until_us
        if not self._asked and not is_paused:
            self._asked = True
            self._wants(self)

    def _count(self, now_us: int) -> None:
        """Take stock of how many requests come."""
        if self._demand.is_due(now_us):
            self._demand.tell(self._came, now_us)
            self._came = 0

    def _see(self, readings: tuple[Reading, ...], now_us: int) -> None:
        """Take stock of how fast the counts grow, whoever uses them."""
        self._seen = readings, now_us
        if self._climbs[0].is_due(now_us):
            told = self._told or readings
            for climb, before, after in zip(self._climbs, told, readings, strict=True):
                grown = after.state.part - before.state.part
                climb.tell(max(0, grown) if before.state.whole == after.state.whole else 0, now_us)
            self._told = readings

    def _slice(self, now_us: int) -> Slice | None:
        readings, seen_us = self._seen
        if len(readings) != len(self.charges):
            return None
        is_eager = self.speed is Speed.LEASED
        demand = self._demand.per_second(self._came, now_us) if is_eager else self._demand.per_second()
        climbs = [
            climb.per_second(max(0, after.state.part - before.state.part), seen_us)
            for climb, before, after in zip(self._climbs, self._told, readings, strict=True)
        ]
        return slice_of(
            self.charges, readings, climbs, demand, seen_us=seen_us, now_us=now_us, speed=self.speed
        )
