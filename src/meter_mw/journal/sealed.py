"""The supply of sealed windows: what a courier brings to the sink behind an `Aggregate`.

Rule 1: records are sent by the process that has the mandate of the folder of the windows, and by no other.
Rule 2: a record goes out as it was sealed, and in the batch in which it first went out.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.mandates import Mandate
from meter_mw.journal.supply import Backlog, Consignment, Item

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.sinks.aggregate import Aggregate
    from meter_mw.sinks.base import Outcome
    from meter_mw.sinks.windows import Windows

_log = logging.getLogger("meter_mw.journal")

LOOK_EVERY = 1.0
"""Seconds between two looks for windows that are over, where the last one found none."""


class SealedSupply:
    """The records of a sink's windows. `now` gives seconds since 1970, `clock` never goes back."""

    def __init__(
        self,
        windows: Windows,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._windows = windows
        self._now = now
        self._clock = clock
        self._start_afresh()
        forks.register(self)

    def _start_afresh(self) -> None:
        self._mandate: Mandate | None = None
        self._elsewhere = False
        self._look_at = self._clock()
        self._changed = threading.Condition()
        self._in_hand: dict[Consignment, tuple[int, dict[Item, int]]] = {}

    def take(self, most: int) -> Consignment | None:
        """Seal what is due, and hand out what is sealed."""
        if self._clock() < self._look_at:
            return None
        consignment = None
        try:
            if self._is_due() and self._holds():
                consignment = self._take(most)
        except OSError as error:
            _log.error("%s: no look for windows that are over: %s", self._windows.folder, error.strerror)
        if consignment is None:
            with self._changed:
                self._look_at = self._clock() + LOOK_EVERY
                self._changed.notify_all()
        return consignment

    def keep(self, consignment: Consignment) -> None:
        """Write down which records of a consignment are in hand; raises `OSError`."""
        batch, numbers = self._in_hand[consignment]
        self._windows.keep(batch, {numbers[item]: item.sent for item in consignment.items})
        if not consignment.items:
            del self._in_hand[consignment]

    def backlog(self) -> Backlog:
        """Count the records that wait."""
        try:
            records, oldest_us = self._windows.backlog()
        except OSError:
            return Backlog()  # `take` says so
        return Backlog(records, None if oldest_us is None else oldest_us / 1_000_000)

    def hasten(self) -> None:
        """Have the next `take` look, however short ago the last one did. For any thread."""
        with self._changed:
            self._look_at = self._clock()

    def arrived(self, timeout: float) -> bool:
        """Wait until nothing is due, or another process sends it; return whether so within `timeout` seconds.

        For other threads than the one that takes.
        """
        with self._changed:
            return self._changed.wait_for(self._is_done, timeout)

    def release(self) -> None:
        """Leave the records to other processes."""
        mandate, self._mandate = self._mandate, None
        if mandate is not None:
            mandate.release()

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        if self._mandate is not None:
            self._mandate.disown()
        self._start_afresh()

    def _take(self, most: int) -> Consignment | None:
        self._windows.seal(int(self._now() * 1_000_000))
        found = self._windows.batch(most, {batch for batch, _ in self._in_hand.values()})
        if found is None:
            return None
        batch, records = found
        numbers = {Item(each.record, each.sent): each.number for each in records}
        consignment = Consignment(list(numbers), more=True)
        self._in_hand[consignment] = batch, numbers
        return consignment

    def _is_due(self) -> bool:
        return self._windows.is_due(int(self._now() * 1_000_000))

    def _is_done(self) -> bool:
        try:
            return self._elsewhere or not self._is_due()
        except OSError:
            return False

    def _holds(self) -> bool:
        """Have the mandate, and return whether this process has it."""
        if self._mandate is None:
            with forks.GATE:
                self._mandate = Mandate.take(self._windows.folder)
        self._elsewhere = self._mandate is None
        return not self._elsewhere


class Outlet:
    """The sink behind an `Aggregate`, for the courier of its records.

    When that ends the records are left to other processes.
    """

    def __init__(self, aggregate: Aggregate, supply: SealedSupply) -> None:
        self._sink = aggregate.sink
        self._supply = supply
        self.name = aggregate.name
        self.max_batch = aggregate.sink.max_batch
        self.horizon = aggregate.sink.horizon

    def __repr__(self) -> str:
        return f"Outlet({self._sink!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Send records."""
        return self._sink.send(batch)

    def close(self) -> None:
        """Close the sink, and leave the records to other processes."""
        self._sink.close()
        self._supply.release()
