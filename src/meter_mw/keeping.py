"""Keeps what long exchanges hold: now and then each is recorded as a part, and goes on under a new rid.

Rule 1: so a process that is killed loses one checkpoint of a count at most, a stream of days is counted in
each of its periods, and what a dead process held comes back when its lease is over.
Rule 2: the thread of the keeper asks the store; neither an event loop nor a handler waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

from meter_mw import forks

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.exchange import Exchange

_log = logging.getLogger(__name__)

_LOOKS = 4
"""Looks at all exchanges in the time of one checkpoint."""


class Keeper:
    """Knows the exchanges that are on their way, and has each recorded in parts of `checkpoint_us`.

    `glance`, where it is given, is called for each exchange at each look.
    """

    def __init__(
        self,
        checkpoint_us: int,
        turn: Callable[[Exchange], None],
        glance: Callable[[Exchange], None] | None = None,
    ) -> None:
        self._checkpoint_us = checkpoint_us
        self._turn = weakref.WeakMethod(turn)
        self._glance = None if glance is None else weakref.WeakMethod(glance)
        self.forget()
        forks.register(self)

    def forget(self) -> None:
        """Begin with nothing, as a forked child does."""
        self._exchanges: set[Exchange] = set()
        self._stopping = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, exchange: Exchange) -> None:
        """Look after an exchange from now on."""
        self._exchanges.add(exchange)
        if self._thread is None:
            self._start()

    def discard(self, exchange: Exchange) -> None:
        """Let it be: it has ended."""
        self._exchanges.discard(exchange)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is not None or self._stopping.is_set():
                return
            pause = self._checkpoint_us / 1_000_000 / _LOOKS
            stopping = self._stopping
            known = weakref.ref(self, lambda _: stopping.set())  # a keeper that is let go ends its thread
            arguments = (known, stopping, pause)
            thread = threading.Thread(target=_run, args=arguments, name="meter-mw-keeper", daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:
                _log.warning("long exchanges are not kept, as there is no thread for it: %s", failure)
            else:
                self._thread = thread

    def look(self) -> None:
        """Close the part of every exchange whose time has come."""
        turn = self._turn()
        glance = None if self._glance is None else self._glance()
        due_us = time.monotonic_ns() // 1_000 - self._checkpoint_us
        for exchange in list(self._exchanges):
            if glance is not None:
                glance(exchange)
            if turn is not None and exchange.part_us <= due_us:
                try:
                    turn(exchange)
                except Exception:  # noqa: BLE001 - one that cannot be kept must not end the others
                    _log.exception("a long exchange could not be recorded in part")

    def close(self) -> None:
        """Stop looking."""
        self._stopping.set()


def _run(known: weakref.ref[Keeper], stopping: threading.Event, pause: float) -> None:
    while not stopping.wait(pause):
        keeper = known()
        if keeper is None:
            return
        keeper.look()
        del keeper
