"""The leases that are out: each is over after a while, and is settled when nothing of it is in flight.

Rule 1: what was not used comes back as soon as a lease is over: what is in flight then is debited anew, by
itself, and does not hold it up.
Rule 2: a lease is settled long before the store forgets it.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meter_mw.leasing.grants import Asked, windows_of
from meter_mw.leasing.sizes import lent
from meter_mw.quota import Cap
from meter_mw.stores.port import Cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.leasing.grants import Grants
    from meter_mw.leasing.lease import Lease
    from meter_mw.leasing.pool import Pool

_log = logging.getLogger(__name__)

LINGER_S = 300.0
"""A lease whose requests take longer than this (s) is settled as if all of them were used."""

_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.05, 1.0


@dataclass(slots=True, order=True)
class _Out:
    """A lease that is out: when to look at it (s, by our own clock), and since when it is over."""

    due: float
    pool: Pool = field(compare=False)
    lease: Lease = field(compare=False)
    over: float | None = field(default=None, compare=False)


class Lending:
    """Lends to pools what the store grants, and takes it back. One thread takes turns; all may want."""

    def __init__(self, grants: Grants, clock: Callable[[], float] = time.monotonic) -> None:
        self._grants = grants
        self._clock = clock
        self._lock = threading.Lock()
        self._out: list[_Out] = []
        self._wanting: deque[Pool] = deque()
        self._recalls = 0

    def want(self, pool: Pool) -> None:
        """Have a lease asked for at the next turn."""
        self._wanting.append(pool)

    def pause(self) -> float | None:
        """Give how long there is nothing to do (s), unless somebody wants something; None for ever."""
        with self._lock:
            return max(0.0, self._out[0].due - self._clock()) if self._out else None

    @property
    def is_back(self) -> bool:
        """Whether nothing is out that was not used."""
        with self._lock:
            return not any(each.lease.unused for each in self._out)

    def turn(self, *, recalled: bool = False, is_last: bool = False) -> None:
        """Settle what is over, and have granted what is wanted.

        What is `recalled` is over at once; at the last turn all is settled, and what is in flight is used.
        """
        self._end(recalled=recalled or is_last, is_last=is_last)
        wanting: list[Pool] = []
        with contextlib.suppress(IndexError):
            while not is_last:
                wanting.append(self._wanting.popleft())
        if wanting:
            self._grant(wanting)

    def recall(self) -> None:
        """Lend nothing more of what is out, or is just being asked for; it is settled soon."""
        with self._lock:
            self._recalls += 1
            leases = [each.lease for each in self._out]
        for lease in leases:
            lease.retire()

    def forget(self) -> None:
        """Leave all that is out to the parent of this process."""
        for each in self._out:
            each.lease.forget()

    def _grant(self, pools: Sequence[Pool]) -> None:
        now_us, recalls = self._grants.now_us(), self._recalls
        asked: list[tuple[Pool, int, Asked]] = []
        for pool in pools:
            found = pool.slice(now_us)
            if found is not None:
                one, slices = pool.lent(found.requests)
                asked.append((pool, found.lasts_us, Asked(pool.tag, one, slices, found.requests)))
        try:
            granted = self._grants.ask([each[2] for each in asked])
        except BaseException:
            for pool, _, _ in asked:
                pool.refused(now_us)
            raise
        for (pool, lasts_us, _), grant in zip(asked, granted, strict=True):
            if grant is None:
                pool.refused(now_us)
            else:
                lease = pool.granted(grant, lasts_us)
                lasts = max(0, lease.until_us - self._grants.now_us()) / 1_000_000
                self._put(_Out(self._clock() + lasts, pool, lease))
                if recalls != self._recalls:
                    lease.retire()

    def _put(self, out: _Out) -> None:
        with self._lock:
            heapq.heappush(self._out, out)

    def _end(self, *, recalled: bool, is_last: bool) -> None:
        """Retire what has had its time, and settle what nothing is in flight of."""
        now = self._clock()
        due: list[_Out] = []
        with self._lock:
            while self._out and (recalled or self._out[0].due <= now):
                due.append(heapq.heappop(self._out))
        flying: list[Lease] = []
        for out in due:
            lease, was_over = out.lease, out.over is not None
            since = out.over = now if out.over is None else out.over
            if not was_over:
                out.pool.drop(lease)
            if not lease.waits or is_last or now - since >= LINGER_S:
                self._settle(lease)
                continue
            if lease.unused and (was_over or recalled):
                flying.append(lease)
            out.due = now + min(_LONGEST_LOOK_S, max(_SHORTEST_LOOK_S, (now - since) / 2))
            self._put(out)
        if flying:
            self._hand_over(flying)

    def _settle(self, lease: Lease) -> None:
        grant, closing = lease.grant, lease.settle()
        if grant is not None and closing is not None:
            self._grants.end(closing, grant.admitted_us)

    def _hand_over(self, leases: Sequence[Lease]) -> None:
        """Have debited anew what is in flight of leases that are over (Rule 1)."""
        asked = [(lease, each) for lease in leases if (each := _in_flight(lease)) is not None]
        granted = self._grants.ask([each for _, each in asked])
        for (lease, _), grant in zip(asked, granted, strict=True):
            before = lease.grant
            if grant is None or before is None:
                continue
            if windows_of(before) != windows_of(grant):
                self._grants.end(Cancel(grant.rid, grant.tag, grant.charges), 0)
                continue
            closing = lease.hand_over(grant)
            if closing is not None:
                self._grants.end(closing, before.admitted_us)


def _in_flight(lease: Lease) -> Asked | None:
    """Give what is in flight as a slice by itself, of caps alone: rates keep what was taken."""
    first, flying = lease.first, lease.flying
    caps = [
        (each, lent(each, flying, reading.state.part))
        for each, reading in zip(first.charges, first.readings, strict=True)
        if isinstance(each.quota, Cap)
    ]
    one, slices = tuple(each for each, _ in caps), tuple(each for _, each in caps)
    return Asked(first.tag, one, slices, flying) if flying else None
