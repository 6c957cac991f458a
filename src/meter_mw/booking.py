"""What goes out when an exchange is over, or a part of it: events to the journal, the truth to the store."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from meter_mw import closing
from meter_mw.events import encode
from meter_mw.journal import JournalError, JournalFull, NotDurable
from meter_mw.policy.delivery import Durability, OnFull
from meter_mw.recent import Recent
from meter_mw.recovery.reaping import facts_of
from meter_mw.recovery.trail import cancel
from meter_mw.rids import new_rid
from meter_mw.stores.port import Cancel, NotAsked, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.admission import Admission
    from meter_mw.events import Form
    from meter_mw.exchange import Exchange
    from meter_mw.journal import Forwarder, Journal, Position
    from meter_mw.model import Receipt, UsageEvent
    from meter_mw.policy.policy import Policy
    from meter_mw.recovery.trail import Trail
    from meter_mw.stores.access import Stores
    from meter_mw.stores.port import Closed, Settle

_log = logging.getLogger(__name__)

DISK_PATIENCE_S = 5.0
"""Seconds that a response waits for the disk: one that hangs for longer has failed."""


_MOST_FORMS = 8_192
"""Forms of events that are kept for the next, at least as many as this."""


class Booked(NamedTuple):
    """What may be left to do before a last byte leaves.

    `settlement` gives slots back. The event ends at `position`; `None` where the journal did not keep it.
    """

    settlement: Settle | None
    position: Position | None


class Books:
    """Records events and settles, in the background unless it is said otherwise.

    Where the policy is strict, a response waits for its event to be on the disk. It is served without that
    only where the policy has requests counted in the store alone while the journal takes no events.
    """

    def __init__(
        self, policy: Policy, stores: Stores, journal: Journal, forwarder: Forwarder, trail: Trail
    ) -> None:
        self._policy = policy
        self._stores = stores
        self._journal = journal
        self._trail = trail
        self._forwarder = forwarder
        self._looked_around = False
        self._forms: Recent[tuple[int, int, str], Form] = Recent(_MOST_FORMS)
        self.is_strict = policy.events.durability is Durability.STRICT
        self._serves_unrecorded = policy.events.on_full is OnFull.COUNT

    @property
    def takes_requests(self) -> bool:
        """Whether what requests come to can be recorded, or the policy serves them all the same."""
        return self._serves_unrecorded or self._journal.takes_events

    def record(
        self, event: UsageEvent, settlement: Settle | None = None, admitted_us: int = 0
    ) -> Position | None:
        """Put an event and its settlement into the journal, from where it is forwarded; give where they end.

        `admitted_us`: see `Kept`.
        """
        return self._recorded(encode(event), settlement, admitted_us)

    def _recorded(
        self, encoded: bytes, settlement: Settle | None, admitted_us: int, *, settled: bool = False
    ) -> Position | None:
        position = None
        packed = self._trail.packed(settlement, admitted_us) if settlement is not None else b""
        try:
            if settlement is not None and packed:
                position = self._trail.keep(settlement.rid, encoded, packed, settled=settled)
            else:
                position = self._journal.append(encoded)
        except JournalFull:
            pass  # the journal counts what it loses, and says so now and then
        except JournalError as failure:
            _log.error(
                "a usage event could not be journaled, and is only here: %s: %s", failure, encoded.decode()
            )
        self._forwarder.start()
        if self._stores.awaited is None and not self._looked_around:
            self._look_around()
        return position

    def close(self, admission: Admission, method: str, receipt: Receipt) -> Booked:
        """Record what an exchange came to; give what is still to be done.

        What was taken from leases is noted first: who is killed in between errs on the safe side of a cap.
        """
        self._end_shares(admission, receipt)
        settlement = closing.settlement(self._policy, admission, receipt) if admission.charges else None
        settled = (
            settlement is not None
            and self._stores.awaited is not None
            and closing.is_settled(self._policy, admission, receipt)
        )
        position = self._recorded(
            self._written(admission, method, receipt), settlement, admission.asked_us, settled=settled
        )
        if admission.charges or self._trail.bills:
            self._trail.leave(admission.rid)
        return Booked(None if settled else settlement, position)

    def _end_shares(self, admission: Admission, receipt: Receipt) -> None:
        if admission.lent is not None:
            charged = closing.is_charged(self._policy, admission, receipt)
            for share in admission.lent.shares:
                share.lease.end(charged=charged)

    def _written(self, admission: Admission, method: str, receipt: Receipt) -> bytes:
        """Give the event of an exchange; of a plain one by a form, which holds what others have in common."""
        caller = admission.caller
        if caller is None or not closing.is_plain(admission, receipt):
            return encode(closing.usage_event(self._policy, admission, method, receipt))
        route = admission.route
        kind = (id(route), id(caller), method)
        form = self._forms.get(kind)
        if form is None:  # it keeps the route and the caller, and so their ids
            form = closing.form(self._policy, route, caller, method)
            self._forms.put(kind, form)
        return form.fill(
            admission.rid,
            admission.now_us,
            receipt.status,
            receipt.request_bytes,
            receipt.response_bytes,
            receipt.duration_us,
        )

    def close_empty(self, admission: Admission, receipt: Receipt) -> Settle | None:
        """Give what is booked for a part in which nothing passed, and which has no event."""
        self._end_shares(admission, receipt)
        settlement = closing.settlement(self._policy, admission, receipt)
        packed = self._trail.packed(settlement, admission.asked_us)
        if settlement is not None and packed:
            try:
                self._trail.keep(settlement.rid, b"", packed)
            except JournalError as failure:
                _log.debug("a settlement is not journaled, and is sent all the same: %s", failure)
        self._trail.leave(admission.rid)
        return settlement

    def cancel(self, admission: Admission) -> None:
        """Take back what an admission that was not served may have been charged."""
        if admission.asked_us and admission.caller is not None:
            cancellation = Cancel(admission.rid, admission.caller.tag, admission.charges)
            cancel(self._trail, self._stores, cancellation)
        else:
            self._trail.leave(admission.rid)

    def hand_over(self, admission: Admission, method: str) -> None:
        """Note that a request, or a part of a long one, is handed to the app, where that is billed for."""
        if self._trail.bills and admission.caller is not None:
            self._trail.hand_over(admission.rid, facts_of(self._policy, admission, method))

    def deliver(self, admission: Admission, booked: Booked) -> None:
        """Do what is to be done before the last byte leaves; raises `NotDurable`."""
        if booked.settlement is not None:
            self.settle_now(admission, booked.settlement)
        position = self._awaited(booked)
        if position is not None:
            self._judge(is_durable=self._journal.wait(position, DISK_PATIENCE_S))

    async def adeliver(self, admission: Admission, booked: Booked) -> None:
        """Do what is to be done before the last byte leaves, without holding up the event loop."""
        if booked.settlement is not None:
            await self.asettle_now(admission, booked.settlement)
        position = self._awaited(booked)
        if position is not None:
            self._judge(is_durable=await self._synced(position))

    def _awaited(self, booked: Booked) -> Position | None:
        """Give what the response has to wait for; raises `NotDurable` where that is lost."""
        position = booked.position
        if not self.is_strict or (self._serves_unrecorded and (position is None or position.is_held)):
            return None
        if position is None:
            self._judge(is_durable=False)
        return position

    def _judge(self, *, is_durable: bool) -> None:
        if not (is_durable or self._serves_unrecorded):
            raise NotDurable("the event of this request is not on the disk, and durability is strict")

    async def _synced(self, position: Position) -> bool:
        """Wait for the disk without a thread: that of the journal tells all who wait of one sync."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()

        def tell(is_durable: bool) -> None:  # noqa: FBT001 - the answer itself
            loop.call_soon_threadsafe(_answer, told, is_durable)

        self._journal.when_synced(position, tell)
        try:
            return await asyncio.wait_for(told, DISK_PATIENCE_S)
        except TimeoutError:
            return False

    def glance(self, exchange: Exchange) -> None:
        """Note how much of an exchange has passed, for whoever has to bill it if this process is killed."""
        self._trail.passed_so_far(*exchange.so_far())

    def tell(self, admission: Admission) -> None:
        """Record the thresholds that an admission has reached."""
        for each in admission.reached:
            self.record(closing.threshold_event(self._policy, admission, each, admission.now_us))

    def amend(self, admission: Admission, reported: dict[str, int]) -> None:
        """Record and settle what was reported after the end."""
        now_us = self._stores.blocking.now_us()
        event, settlement = closing.amendment(self._policy, admission, new_rid(now_us), now_us, reported)
        self.record(event, settlement)
        if settlement is not None:
            self._stores.settler.put(settlement, self._hearing(admission, settlement))

    def settle(self, admission: Admission, settlement: Settle) -> None:
        """Have it in the store soon."""
        self._stores.settler.put(settlement, self._hearing(admission, settlement), admission.asked_us)

    def settle_now(self, admission: Admission, settlement: Settle) -> None:
        """Have it in the store before anything else happens, if that answers within the deadline."""
        hear = self._hearing(admission, settlement)
        noted = self._trail.sending((settlement.rid,))
        try:
            (closed,) = self._stores.blocking.settle((settlement,), patience_us=self._policy.deadline_us)
        except BaseException as failure:
            self._not_settled(admission, settlement, hear, noted, failure)
            if not isinstance(failure, StoreUnavailable):
                raise
        else:
            self._trail.confirmed((settlement.rid,))
            _hear(hear, closed)

    async def asettle_now(self, admission: Admission, settlement: Settle) -> None:
        """Have it in the store at once, without holding up the event loop."""
        if self._stores.awaited is None:
            self.settle_now(admission, settlement)
            return
        hear = self._hearing(admission, settlement)
        noted = self._trail.sending((settlement.rid,))
        try:
            (closed,) = await self._stores.awaited.settle((settlement,), patience_us=self._policy.deadline_us)
        except BaseException as failure:
            self._not_settled(admission, settlement, hear, noted, failure)
            if not isinstance(failure, StoreUnavailable):
                raise
        else:
            self._trail.confirmed((settlement.rid,))
            _hear(hear, closed)

    def _not_settled(
        self,
        admission: Admission,
        settlement: Settle,
        hear: Callable[[Closed], None] | None,
        noted: object,
        failure: BaseException,
    ) -> None:
        """Have it settled in the background."""
        asked = not isinstance(failure, NotAsked)
        if not asked:
            self._trail.unsent(noted)
        tried_us = self._stores.blocking.now_us() if asked else None
        self._stores.settler.put(settlement, hear, admission.asked_us, tried_us)

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


def _answer(told: asyncio.Future[bool], answer: bool) -> None:  # noqa: FBT001 - the answer itself
    if not told.done():
        told.set_result(answer)


def _hear(hear: Callable[[Closed], None] | None, closed: Closed) -> None:
    if hear is not None:
        hear(closed)
