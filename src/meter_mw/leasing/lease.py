"""One slice that the store has debited ahead: what it lends, and what was used of it.

Rule 1: what a lease lends stays debited until it is settled with what was used: a cap is never passed,
whatever becomes of this process.
Rule 2: what was used is noted before it is recorded, where a successor finds it: who is killed in between has
used it.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.leasing.gauges import gauge
from meter_mw.leasing.sizes import told
from meter_mw.quota import Cap, Rate
from meter_mw.stores.port import Booking, Settle

if TYPE_CHECKING:
    from meter_mw.model import RequestId
    from meter_mw.stores.port import Charge, Reading


class Grant(NamedTuple):
    """What the store has debited under `rid`: so many `requests`, each of which costs `charges`.

    `readings` are the store's, as of after that, at `admitted_us`. `counts` are where a successor of this
    process finds how many requests have used it, and how many of those get caps back; None where nobody
    looks.
    """

    rid: RequestId
    tag: str
    charges: tuple[Charge, ...]
    requests: int
    readings: tuple[Reading, ...]
    admitted_us: int
    counts: memoryview | None = None


def settled(grant: Grant, taken: int, charged: int) -> Settle:
    """Give what a grant came to: rates keep what was `taken`, caps what is `charged` for."""
    bookings = tuple(
        Booking(charge, charge.take * taken)
        if isinstance(charge.quota, Rate)
        else Booking(told(charge), charge.take * charged, reading.state.whole)
        for charge, reading in zip(grant.charges, grant.readings, strict=True)
    )
    return Settle(grant.rid, grant.tag, bookings)


class Lease:
    """One slice: requests that this process may admit, until the store's `until_us`.

    `first` is what the store has granted; later those in flight may be of another grant.
    """

    __slots__ = (
        "_grant", "_lock", "first", "flying", "gauges", "left", "refill_at", "refill_us", "refunded",
        "until_us", "used",
    )  # fmt: skip

    def __init__(self, grant: Grant, until_us: int, lock: threading.Lock) -> None:
        self.first = grant
        self.gauges = tuple(
            gauge(charge, reading, grant.admitted_us)
            for charge, reading in zip(grant.charges, grant.readings, strict=True)
        )
        self._grant: Grant | None = grant
        self._lock = lock
        self.until_us = until_us
        self.left = grant.requests
        self.flying = self.used = self.refunded = 0
        self.refill_at = grant.requests // 4
        self.refill_us = until_us - (until_us - grant.admitted_us) // 4

    @property
    def grant(self) -> Grant | None:
        """What it lends; None once that is settled."""
        return self._grant

    @property
    def waits(self) -> bool:
        """Whether it waits for what is in flight: a rate keeps what was taken, whatever becomes of that."""
        grant = self._grant
        return (
            grant is not None
            and self.flying > 0
            and any(isinstance(each.quota, Cap) for each in grant.charges)
        )

    @property
    def unused(self) -> int:
        """How many of its requests nobody has asked for."""
        return 0 if self._grant is None else self._grant.requests - self.used - self.flying

    def end(self, *, charged: bool) -> None:
        """Note that one of its requests is about to be recorded (Rule 2)."""
        with self._lock:
            grant = self._grant
            if grant is None:
                return
            self.flying -= 1
            self.used += 1
            if not charged:
                self.refunded += 1
            counts = grant.counts
            if counts is not None:
                counts[0] = self.used
                if not charged:
                    counts[1] = self.refunded

    def give_back(self) -> None:
        """Take one back that is not served after all."""
        with self._lock:
            self.flying -= 1
            if self.until_us:
                self.left += 1

    def forget(self) -> None:
        """Be nothing, in a forked child: it is its parent's."""
        self._lock = threading.Lock()
        self._grant = None
        self.left = self.until_us = 0

    def is_followed(self) -> None:
        """Have no more leases asked for because of this one; the caller holds the lock."""
        self.refill_at, self.refill_us = -1, sys.maxsize

    def retire(self) -> None:
        """Lend no more of it."""
        with self._lock:
            self.left = self.until_us = 0

    def settle(self) -> Settle | None:
        """Give what it came to, once; those still in flight count as used."""
        with self._lock:
            grant, self._grant = self._grant, None
            if grant is None:
                return None
            taken = self.used + self.flying
            return settled(grant, taken, taken - self.refunded)

    def hand_over(self, grant: Grant) -> Settle | None:
        """Have those in flight be of another grant from now on; give what this one came to without them.

        Rates know of no difference: they keep what those took.
        """
        with self._lock:
            before, self._grant = self._grant, grant
            if before is None:
                return None
            settlement = settled(before, self.used + self.flying, self.used - self.refunded)
            self.used = self.refunded = 0
            return settlement
