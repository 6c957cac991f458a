"""A convoy: one daemon thread a sink, each with its courier, so that a slow sink holds up no other."""

from __future__ import annotations

import logging
import random as random_module
import threading
import time
from typing import TYPE_CHECKING

from meter_mw.journal.courier import Courier
from meter_mw.journal.sealed import Outlet, SealedSupply
from meter_mw.sinks.aggregate import Aggregate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meter_mw.journal.courier import Report
    from meter_mw.journal.supply import Stock, Supply
    from meter_mw.sinks.base import Sink

_log = logging.getLogger("meter_mw.journal")

GATHER = 0.05
"""Seconds that events are given to gather, so that few large batches go out and not many small ones."""


class Convoy:
    """Ships what a stock holds to the sinks.

    Used once: started, then stopped. All times are in seconds: `idle` is the longest nap of a courier
    that nobody wakes, `backoff` and `longest_backoff` the first and the greatest bound of a random wait.
    What a sink refuses for good is parked in `directory`.
    """

    def __init__(
        self,
        stock: Stock,
        sinks: Sequence[Sink],
        directory: Path,
        *,
        idle: float = 30.0,
        backoff: float = 0.5,
        longest_backoff: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.stock = stock
        pairs: list[tuple[Sink, Supply]] = [
            (sink, stock.supply(sink.name, durable=sink.horizon is not None)) for sink in sinks
        ]
        self._sealed: list[SealedSupply] = []
        for sink in sinks:
            if isinstance(sink, Aggregate):
                self._sealed.append(SealedSupply(sink.windows, now=now, clock=clock))
                pairs.append((Outlet(sink, self._sealed[-1]), self._sealed[-1]))
        couriers = [
            Courier(
                sink,
                supply,
                directory,
                clock=clock,
                now=now,
                random=random,
                backoff=backoff,
                longest_backoff=longest_backoff,
            )
            for sink, supply in pairs
        ]
        self._runners = [_Runner(courier, idle) for courier in couriers]

    def start(self) -> bool:
        """Start the threads, and return whether any has started."""
        try:
            for runner in self._runners:
                runner.start()
        except RuntimeError as error:
            # No more threads, or the interpreter is ending: the next process takes the events up.
            _log.warning("the forwarder's threads do not start: %s", error)
        self._runners = [runner for runner in self._runners if runner.started]
        return bool(self._runners)

    def wake(self) -> None:
        """Have the couriers look for events soon."""
        for runner in self._runners:
            runner.wake()

    def flush(self, timeout: float) -> bool:
        """Deliver what is there, and return whether every sink had it all within `timeout` seconds.

        A sink that is waiting after a failure is tried at once, save where it asked for the wait.
        Of windows those are delivered that are over.
        """
        self.wake()
        arrived = self.due()
        self.hurry()
        return arrived(timeout)

    def due(self) -> Callable[[float], bool]:
        """Note what is there now, and what windows are over; see `Stock`."""
        in_stock = self.stock.due()
        for each in self._sealed:
            each.hasten()

        def arrived(timeout: float) -> bool:
            deadline = time.monotonic() + timeout
            return in_stock(timeout) and all(
                each.arrived(max(0.0, deadline - time.monotonic())) for each in self._sealed
            )

        return arrived

    def hurry(self) -> None:
        """End every nap, and every wait that is our own."""
        for runner in self._runners:
            runner.hurry()

    def stop(self) -> None:
        """Have the threads end after the attempts under way; `ended` tells when they have."""
        for runner in self._runners:
            runner.stop()

    def ended(self, timeout: float) -> bool:
        """Wait for the threads to end, and return whether they have."""
        deadline = time.monotonic() + timeout
        return all(runner.join(deadline - time.monotonic()) for runner in self._runners)

    def reports(self) -> list[Report]:
        """Tell how each sink is doing."""
        return [runner.report for runner in self._runners]

    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(runner.alive for runner in self._runners)


class _Runner:
    """The thread of one courier.

    News are given time to gather; a hurry ends every nap.
    """

    def __init__(self, courier: Courier, longest_nap: float) -> None:
        self._courier = courier
        self._longest_nap = longest_nap
        self._news = threading.Event()
        self._called = threading.Event()
        self._stopped = False
        self._hurried = False
        self._thread = threading.Thread(target=self._run, name=f"meter-mw-{courier.sink.name}", daemon=True)

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def report(self) -> Report:
        return self._courier.report

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        if not self._news.is_set():
            self._news.set()

    def hurry(self) -> None:
        self._hurried = True
        self._call()

    def stop(self) -> None:
        self._stopped = True
        self._call()

    def join(self, timeout: float) -> bool:
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def _call(self) -> None:
        self._called.set()
        self._news.set()

    def _run(self) -> None:
        while True:
            # Cleared before the look at the flags, so that what is asked meanwhile ends the nap.
            self._news.clear()
            self._called.clear()
            if self._stopped:
                break
            if self._hurried:
                self._hurried = False
                self._courier.hurry()
            self._nap(self._step())
        self._courier.sink.close()

    def _nap(self, wait: float | None) -> None:
        if wait == 0 and self._courier.behind:
            return
        nap = self._longest_nap if wait is None else min(wait, self._longest_nap)
        if nap and self._courier.takes_news:
            self._news.wait(nap)
            nap = 0
        self._called.wait(nap or min(GATHER, self._longest_nap))

    def _step(self) -> float | None:
        try:
            return self._courier.step()
        except Exception:  # the thread must outlive any one failure  # noqa: BLE001
            _log.exception("forwarding to %s failed once and goes on", self._courier.sink.name)
            return 1.0
