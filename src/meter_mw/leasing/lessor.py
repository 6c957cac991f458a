"""The lessor of one process: gives the pools that requests take from, and looks after them in a thread.

Rule 1: no request waits for this: what is not lent yet, or no more, is asked of the store.
Rule 2: a forked child begins with nothing: what is lent is its parent's.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from meter_mw import forks
from meter_mw.leasing.grants import Grants
from meter_mw.leasing.lending import Lending
from meter_mw.leasing.pool import Pool
from meter_mw.leasing.sizes import is_lendable
from meter_mw.policy.delivery import Reap
from meter_mw.policy.terms import Speed

if TYPE_CHECKING:
    from meter_mw.leasing.grants import Trail
    from meter_mw.policy.policy import Policy
    from meter_mw.stores.access import Stores
    from meter_mw.stores.port import Charge

_log = logging.getLogger(__name__)

MOST_POOLS = 16_384
"""Pools that are kept ready; beyond them, those that were asked for the longest time ago begin anew."""


class Lessor:
    """Grants leases in the background, and settles them; `trail` is where a successor finds them."""

    def __init__(self, policy: Policy, stores: Stores, trail: Trail) -> None:
        self._grants = Grants(stores, trail, keeps=stores.awaited is not None)
        self._lends = policy.events.reap is not Reap.BILL
        self._pools: WeakValueDictionary[tuple[object, ...], Pool] = WeakValueDictionary()
        self._begin()
        trail.leaving = self.recall
        forks.register(self)

    def _begin(self) -> None:
        self._lending = Lending(self._grants)
        self._recent: OrderedDict[tuple[object, ...], Pool] = OrderedDict()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._turned = threading.Condition()
        self._recalls = self._recalled = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def forget(self) -> None:
        """Begin with nothing, as a forked child does."""
        self._lending.forget()
        for pool in list(self._pools.values()):
            pool.forget()
        self._begin()

    def pool(self, tag: str, charges: tuple[Charge, ...], speed: Speed) -> Pool | None:
        """Give the pool for charges that requests bring to one holder; None where they are never leased.

        It is the same one for the same holder, quotas and units. The windows of `charges` are valid now.
        """
        if speed is Speed.STRICT or not (self._lends and charges and all(map(is_lendable, charges))):
            return None
        holder = charges[0].holder or tag
        if any((each.holder or tag) != holder for each in charges):
            raise ValueError(f"the charges of a pool have one holder, got {charges}")
        key = (holder, speed, *((each.id, each.quota, each.take) for each in charges))
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = Pool(holder.partition(":")[0], charges, speed, self._wanted)
            elif charges is not pool.charges:
                pool.charges = charges
            self._recent[key] = pool
            self._recent.move_to_end(key)
            if len(self._recent) > MOST_POOLS:
                self._recent.popitem(last=False)
        return pool

    def _wanted(self, pool: Pool) -> None:
        self._lending.want(pool)
        if self._thread is None:
            self._start()
        self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._stopping:
                return
            thread = threading.Thread(target=self._run, name="meter-mw-lessor", daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:
                _log.warning("leases wait for a thread that asks for them: %s", failure)
            else:
                self._thread = thread

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait(self._lending.pause())
            self._wake.clear()
            recalls, is_last = self._recalls, self._stopping
            try:
                self._lending.turn(recalled=recalls != self._recalled, is_last=is_last)
            except Exception:  # noqa: BLE001 - a fault of the store must not end the thread
                _log.exception("leases could not be looked after")
            with self._turned:
                self._recalled = recalls
                self._turned.notify_all()

    def flush(self, timeout: float) -> bool:
        """Have all leases returned, within `timeout` seconds; say whether nothing unused is out any more."""
        if self._thread is None or self._stopping:
            return self._lending.is_back
        with self._turned:
            self._recalls += 1
            number = self._recalls
            self._wake.set()
            return self._turned.wait_for(
                lambda: self._recalled >= number and self._lending.is_back, max(0.0, timeout)
            )

    def recall(self) -> None:
        """Lend nothing more of what is lent now; it is settled soon."""
        self._lending.recall()

    def close(self, timeout: float) -> None:
        """Have all leases returned and take no more; what is still in flight then counts as used."""
        self.flush(timeout)
        with self._lock:
            self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(max(1.0, timeout))
