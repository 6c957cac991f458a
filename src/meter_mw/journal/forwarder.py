"""The forwarder: a daemon thread a sink that brings the journal's events to it, at least once."""

from __future__ import annotations

import logging
import random as random_module
import threading
import time
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.courier import Courier
from meter_mw.journal.holdings import Holdings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.journal.estates import Estate
    from meter_mw.journal.journal import Journal
    from meter_mw.journal.segments import Position
    from meter_mw.sinks.base import Sink

_log = logging.getLogger("meter_mw.journal")

GATHER = 0.05
"""Seconds that events are given to gather, so that few large batches go out and not many small ones."""


class Forwarder:
    """Forwards what the journal holds, and what dead processes left in its directory.

    Its threads start with the first append of each process, or with `start`. All times are in
    seconds: `adopt_every` between looks for orphans, `retention` for which delivered segments stay,
    `backoff` and `longest_backoff` as the first and the greatest bound of a random wait.
    Raises `ValueError` when two sinks have one name.
    """

    def __init__(
        self,
        journal: Journal,
        sinks: Sequence[Sink],
        *,
        adopt_every: float = 30.0,
        retention: float = 0.0,
        backoff: float = 0.5,
        longest_backoff: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        names = [sink.name for sink in sinks]
        if len(set(names)) < len(names):
            raise ValueError(f"sinks need names of their own, got {names}")
        self._journal = journal
        self._holdings = Holdings(journal, names, clock=clock, adopt_every=adopt_every, retention=retention)
        self._couriers: Callable[[], list[Courier]] = lambda: [
            Courier(
                sink,
                self._holdings,
                journal.directory,
                clock=clock,
                random=random,
                backoff=backoff,
                longest_backoff=longest_backoff,
            )
            for sink in sinks
        ]
        self._has_sinks = bool(names)
        self._adopt_every = adopt_every
        self._start_afresh()
        journal.subscribe(self.wake)
        forks.register(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._runners: list[_Runner] = []
        self._ending: list[_Runner] = []
        # The journal's thread may still tell of a sync when this is closed: no reason to start again.
        self._closed_at: tuple[Estate, Position] | None = None

    def start(self) -> None:
        """Start this process' threads, if they do not run."""
        if self._runners or not self._has_sinks:
            return
        with self._lock:
            self._ending = [runner for runner in self._ending if not runner.join(0)]
            if not self._runners and not self._ending:
                runners = [_Runner(courier, self._adopt_every) for courier in self._couriers()]
                try:
                    for runner in runners:
                        runner.start()
                except RuntimeError as error:
                    # No more threads, or the interpreter is ending: the next process adopts the events.
                    _log.warning("the forwarder's threads do not start: %s", error)
                self._runners = [runner for runner in runners if runner.started]

    def wake(self) -> None:
        """Have the events that the journal has by now delivered; the journal calls it after each sync."""
        if not self._runners and (tail := self._journal.tail()) and tail != self._closed_at:
            self.start()
        for runner in self._runners:
            runner.wake()

    def flush(self, timeout: float) -> bool:
        """Deliver what waits, and return whether every sink had it all within `timeout` seconds.

        A sink that is waiting after a failure is tried at once, save where it asked for the wait.
        """
        deadline = time.monotonic() + timeout
        if not self._has_sinks or (not self._runners and self._journal.tail() is None):
            return True
        self.wake()
        targets = self._holdings.current()
        for runner in self._runners:
            runner.hurry()
        return self._holdings.wait_for(targets, deadline - time.monotonic())

    def close(self, timeout: float) -> bool:
        """Flush, then stop the threads and close the sinks, within `timeout` seconds altogether.

        Returns whether everything was delivered; what was not stays in the journal. A later append
        starts the threads again.
        """
        deadline = time.monotonic() + timeout
        flushed = self.flush(timeout)
        self._closed_at = self._journal.tail()
        with self._lock:
            runners, self._runners = self._runners, []
        for runner in runners:
            runner.stop()
        ended = [runner.join(deadline - time.monotonic()) for runner in runners]
        if all(ended):
            self._holdings.release()
        else:
            self._ending = runners
            _log.warning("a sink is still busy; its thread ends when it answers")
        return flushed

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        self._start_afresh()


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
        if wait is None:
            self._news.wait(self._longest_nap)
        self._called.wait(min(wait or GATHER, self._longest_nap))

    def _step(self) -> float | None:
        try:
            return self._courier.step()
        except Exception:  # the thread must outlive any one failure  # noqa: BLE001
            _log.exception("forwarding to %s failed once and goes on", self._courier.sink.name)
            return 1.0
