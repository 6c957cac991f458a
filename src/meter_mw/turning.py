"""Turns a part of a long exchange over: records it, and has what it holds go on under a new rid.

Rule 1: what has passed is in the journal before anyone is asked; whatever fails after that, it is settled.
Rule 2: an exchange that ends meanwhile is settled under its new rid, whose admission then finds it closed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meter_mw import core, lasting
from meter_mw.model import Count
from meter_mw.rids import new_rid

if TYPE_CHECKING:
    from meter_mw.admission import Admission
    from meter_mw.booking import Books
    from meter_mw.driving import Driver
    from meter_mw.exchange import Exchange
    from meter_mw.gate import Gate
    from meter_mw.model import Receipt
    from meter_mw.policy.policy import Policy
    from meter_mw.stores.port import Settle, Store


class Turner:
    """What a keeper calls when the time of a part has come."""

    def __init__(self, policy: Policy, store: Store, driver: Driver, books: Books, gate: Gate) -> None:
        self._policy = policy
        self._store = store
        self._driver = driver
        self._books = books
        self._gate = gate

    def turn(self, exchange: Exchange) -> None:
        """Close the part that an exchange is in, and open the next."""
        now_us, admission, to_come = self._store.now_us(), exchange.admission, exchange.to_come
        promised = exchange.request_room  # in all, whatever of it comes meanwhile
        following = lasting.next_part(self._policy, admission, new_rid(now_us), now_us, to_come=to_come)
        over = exchange.part(time.monotonic_ns() // 1_000, following)
        if over is None:
            return
        try:
            self._handed_over(exchange, *over, following)
        finally:
            exchange.is_turning = False
        missing = promised - exchange.request_bytes
        if admission.sized and to_come and exchange.to_come < missing:
            self._gate.top_up(exchange, Count.REQUEST_BYTES, missing)

    def _handed_over(
        self, exchange: Exchange, admission: Admission, receipt: Receipt, following: Admission
    ) -> None:
        """Record what is over, ask for what follows, and then settle what is over."""
        answered = False
        settlement = self._recorded(exchange, admission, receipt)
        try:
            granted = self._driver.drive(core.continued(self._policy, following, admission.rid))
            answered = bool(granted.standings) or not granted.lines
            exchange.resume(granted)
            self._books.hand_over(granted, exchange.method)
        finally:
            if settlement is not None:
                settle = self._books.settle_now if answered else self._books.settle
                settle(admission, settlement)

    def _recorded(self, exchange: Exchange, admission: Admission, receipt: Receipt) -> Settle | None:
        if admission.part == 0 or not receipt.is_empty:
            return self._books.close(admission, exchange.method, receipt).settlement
        return self._books.close_empty(admission, receipt)
