"""The forwarder: brings the journal's events to the sinks from within the process that writes them."""

from __future__ import annotations

import logging
import random as random_module
import threading
import time
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.convoy import Convoy
from meter_mw.journal.holdings import Holdings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.journal.courier import Report
    from meter_mw.journal.estates import Estate
    from meter_mw.journal.journal import Journal
    from meter_mw.journal.segments import Position
    from meter_mw.sinks.base import Sink

_log = logging.getLogger("meter_mw.journal")


class Forwarder:
    """Forwards what the journal holds, and what dead processes left in its directory.

    Its threads start with the first append of each process, or with `start`. All times are in
    seconds: `adopt_every` between looks for orphans, `retention` for which delivered segments stay,
    `backoff` and `longest_backoff` as the first and the greatest bound of a random wait.
    Where a daemon forwards this process' events already, it is left to that.
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
        names = names_of(sinks)
        self._journal = journal
        self._holdings = Holdings(journal, names, clock=clock, adopt_every=adopt_every, retention=retention)
        self._new_convoy: Callable[[], Convoy] = lambda: Convoy(
            self._holdings,
            sinks,
            journal.directory,
            idle=adopt_every,
            backoff=backoff,
            longest_backoff=longest_backoff,
            clock=clock,
            random=random,
        )
        self._has_sinks = bool(names)
        self._start_afresh()
        journal.subscribe(self.wake)
        forks.register(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._convoy: Convoy | None = None
        self._ending: Convoy | None = None
        # The journal's thread may still tell of a sync when this is closed: no reason to start again.
        self._closed_at: tuple[Estate, Position] | None = None

    def start(self) -> None:
        """Start this process' threads, if they do not run."""
        if not self._has_sinks:
            return
        with self._lock:
            if self._ending is not None and self._ending.ended(0):
                self._ending = None
            if self._convoy is None and self._ending is None:
                convoy = self._new_convoy()
                self._convoy = convoy if convoy.start() else None

    def wake(self) -> None:
        """Have the events that the journal has by now delivered; the journal calls it after each sync."""
        if self._convoy is None and (tail := self._journal.tail()) and tail != self._closed_at:
            self.start()
        if (convoy := self._convoy) is not None:
            convoy.wake()

    def flush(self, timeout: float) -> bool:
        """Deliver what waits, and return whether every sink had it all within `timeout` seconds.

        A sink that is waiting after a failure is tried at once, save where it asked for the wait.
        """
        if not self._has_sinks or (self._convoy is None and self._journal.tail() is None):
            return True
        self.wake()
        if (convoy := self._convoy) is not None:
            return convoy.flush(timeout)
        return self._holdings.due()(timeout)

    def close(self, timeout: float) -> bool:
        """Flush, then stop the threads and close the sinks, within `timeout` seconds altogether.

        Returns whether everything was delivered; what was not stays in the journal. A later append
        starts the threads again.
        """
        deadline = time.monotonic() + timeout
        flushed = self.flush(timeout)
        self._closed_at = self._journal.tail()
        with self._lock:
            convoy, self._convoy = self._convoy, None
        if convoy is not None:
            convoy.stop()
        if convoy is None or convoy.ended(deadline - time.monotonic()):
            self._holdings.release()
        else:
            self._ending = convoy
            _log.warning("a sink is still busy; its thread ends when it answers")
        return flushed

    def reports(self) -> list[Report]:
        """Tell how each sink is doing; of none before the first event."""
        return self._convoy.reports() if self._convoy is not None else []

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        self._start_afresh()


def names_of(sinks: Sequence[Sink]) -> list[str]:
    """Give the names of sinks; raises `ValueError` where two have one, as they would share a place."""
    names = [sink.name for sink in sinks]
    if len(set(names)) < len(names):
        raise ValueError(f"sinks need names of their own, got {names}")
    return names
