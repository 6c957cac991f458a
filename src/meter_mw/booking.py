"""What goes out when an exchange is over, or a part of it: events to the journal, the truth to the store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meter_mw import closing
from meter_mw.events import encode
from meter_mw.journal import JournalError
from meter_mw.rids import new_rid
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.admission import Admission
    from meter_mw.journal import Forwarder, Journal
    from meter_mw.model import Receipt, UsageEvent
    from meter_mw.policy.policy import Policy
    from meter_mw.stores.access import Stores
    from meter_mw.stores.port import Closed, Settle

_log = logging.getLogger(__name__)


class Books:
    """Records events and settles, in the background unless it is said otherwise."""

    def __init__(self, policy: Policy, stores: Stores, journal: Journal, forwarder: Forwarder) -> None:
        self._policy = policy
        self._stores = stores
        self._journal = journal
        self._forwarder = forwarder
        self._looked_around = False

    def record(self, event: UsageEvent) -> None:
        """Put an event into the journal, from where it is forwarded."""
        encoded = encode(event)
        try:
            self._journal.append(encoded)
        except JournalError as failure:
            _log.error(
                "a usage event could not be journaled, and is only here: %s: %s", failure, encoded.decode()
            )
        self._forwarder.start()
        if self._stores.awaited is None and not self._looked_around:
            self._look_around()

    def close(self, admission: Admission, method: str, receipt: Receipt) -> Settle | None:
        """Record what an exchange came to; give the settlement that is still to be sent."""
        self.record(closing.usage_event(self._policy, admission, method, receipt))
        return closing.settlement(self._policy, admission, receipt)

    def tell(self, admission: Admission) -> None:
        """Record the thresholds that an admission has reached."""
        for each in admission.reached:
            self.record(closing.threshold_event(self._policy, admission, each, admission.now_us))

    def amend(self, admission: Admission, reported: dict[str, int]) -> None:
        """Record and settle what was reported after the end."""
        now_us = self._stores.blocking.now_us()
        event, settlement = closing.amendment(self._policy, admission, new_rid(now_us), now_us, reported)
        self.record(event)
        if settlement is not None:
            self.settle(admission, settlement)

    def settle(self, admission: Admission, settlement: Settle) -> None:
        """Have it in the store soon."""
        self._stores.settler.put(settlement, self._hearing(admission, settlement))

    def settle_now(self, admission: Admission, settlement: Settle) -> None:
        """Have it in the store before anything else happens, if that answers within the deadline."""
        hear = self._hearing(admission, settlement)
        try:
            (closed,) = self._stores.blocking.settle((settlement,), patience_us=self._policy.deadline_us)
        except BaseException as failure:
            self._stores.settler.put(settlement, hear)
            if not isinstance(failure, StoreUnavailable):
                raise
        else:
            _hear(hear, closed)

    async def asettle_now(self, admission: Admission, settlement: Settle) -> None:
        """Have it in the store at once, without holding up the event loop."""
        if self._stores.awaited is None:
            self.settle_now(admission, settlement)
            return
        hear = self._hearing(admission, settlement)
        try:
            (closed,) = await self._stores.awaited.settle((settlement,), patience_us=self._policy.deadline_us)
        except BaseException as failure:
            self._stores.settler.put(settlement, hear)
            if not isinstance(failure, StoreUnavailable):
                raise
        else:
            _hear(hear, closed)

    def _hearing(self, admission: Admission, settlement: Settle) -> Callable[[Closed], None] | None:
        """Give what is to be done with the store's answer, where it may have something to tell."""
        if not closing.speaks(admission):
            return None

        def hear(closed: Closed) -> None:
            now_us = self._stores.blocking.now_us()
            rid = new_rid(now_us)
            for event in closing.told(self._policy, admission, settlement, closed, rid=rid, now_us=now_us):
                self.record(event)

        return hear

    def _look_around(self) -> None:
        """Say so when other processes count in memories of their own, as each then allows the whole limit."""
        self._looked_around = True
        if self._journal.neighbours():
            _log.warning(
                "%s is metered by several processes, each with memory:// and so with all of each limit; "
                "have them share one store, redis://host:6379/0 for example",
                self._policy.service,
            )


def _hear(hear: Callable[[Closed], None] | None, closed: Closed) -> None:
    if hear is not None:
        hear(closed)
