"""Closings on their way to the store: they wait here, and leave in batches, in the background.

Rule 1: the request path is never held up; a store that is away is retried for as long as the process runs.
Rule 2: every closing may be sent again: its rid makes a repeat harmless.
Rule 3: what the store cannot digest is let go and said; nothing else is held up by it.
Rule 4: a forked child settles its own requests and leaves its parent's to the parent.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from meter_mw import forks
from meter_mw.stores.outage import Outage
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.port import Closed, Closing, Store

    Booked: TypeAlias = Callable[[Closed], None]
    """Is called with what became of a closing, in the settler's thread."""

_log = logging.getLogger(__name__)

BATCH = 100
"""Closings that go out in one round trip at most."""

MOST_WAITING = 200_000
"""Beyond this many the oldest is let go; the journal still has its event."""

_LINGER = 0.005
_LONGEST_PAUSE = 1.0


class Settler:
    """Sends closings to a blocking store from a thread of its own."""

    def __init__(self, store: Store, *, most_waiting: int = MOST_WAITING) -> None:
        self._store = store
        self._most_waiting = most_waiting
        self._jitter = random.Random()  # noqa: S311 - our own: an app may have seeded the shared one
        self.forget()
        forks.register(self)

    def forget(self) -> None:
        """Begin with nothing, as a forked child does."""
        self._waiting: deque[tuple[Closing, Booked | None]] = deque()
        self._wake = threading.Event()
        self._idle = threading.Condition()
        self._sending = 0
        self._batch = BATCH
        self._outage = Outage("closings wait for it")
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._stopping = False
        self.dropped = 0

    def put(self, closing: Closing, booked: Booked | None = None) -> None:
        """Have it sent soon; never blocks. What became of it is told to `booked`."""
        if len(self._waiting) >= self._most_waiting:
            self._drop()
        self._waiting.append((closing, booked))
        if self._thread is None:
            self._start()
        if not self._wake.is_set():
            self._wake.set()

    def _drop(self) -> None:
        try:
            self._waiting.popleft()
        except IndexError:
            return
        self.dropped += 1
        if self.dropped == 1:
            _log.error("the store was away for too long: closings are dropped, and its counts will be off")

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is not None or self._stopping:
                return
            thread = threading.Thread(target=self._run, name="meter-mw-settler", daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:
                _log.warning("closings wait for a thread to send them: %s", failure)
            else:
                self._thread = thread

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait()
            if not self._waiting:
                self._wake.clear()
                if not self._waiting:
                    if self._stopping:
                        return
                    continue
            if len(self._waiting) < BATCH and not self._stopping:
                time.sleep(_LINGER)
            if self._send():
                pause = 0.0
            else:
                pause = min(_LONGEST_PAUSE, max(0.05, pause * 2))
                time.sleep(self._jitter.uniform(0, pause))

    def _send(self) -> bool:
        self._sending = min(self._batch, len(self._waiting))
        batch = self._taken(self._sending)
        try:
            answers = self._store.settle([closing for closing, _ in batch])
            _tell(batch, answers)
        except StoreUnavailable as outage:
            self._outage.goes_on(outage)
            # To the back, and one by one from now on: a single one that is refused holds up no other.
            self._waiting.extend(batch)
            self._batch = 1
            return False
        except Exception:  # noqa: BLE001 - a fault of the store must not end the thread
            self.dropped += len(batch)
            _log.exception("the store could not settle %d closings, and its counts will be off", len(batch))
        finally:
            self._sending = 0
            with self._idle:
                self._idle.notify_all()
        self._outage.is_over()
        self._batch = min(BATCH, self._batch * 2)
        return True

    def _taken(self, count: int) -> list[tuple[Closing, Booked | None]]:
        """Take the oldest that wait; a full queue may let go of some of them meanwhile."""
        batch: list[tuple[Closing, Booked | None]] = []
        with contextlib.suppress(IndexError):
            while len(batch) < count:
                batch.append(self._waiting.popleft())
        return batch

    @property
    def waiting(self) -> int:
        """How many closings the store has not confirmed yet."""
        return len(self._waiting) + self._sending

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put is in the store, at most `timeout` seconds; say whether it is."""
        with self._idle:
            return self._idle.wait_for(lambda: self.waiting == 0, timeout)

    def close(self, timeout: float) -> bool:
        """Flush, then stop."""
        done = self.flush(timeout)
        self._stopping = True
        self._wake.set()
        return done


def _tell(batch: Sequence[tuple[Closing, Booked | None]], answers: Sequence[Closed]) -> None:
    for (_, booked), answer in zip(batch, answers, strict=True):
        if booked is not None:
            try:
                booked(answer)
            except Exception:  # noqa: BLE001 - what hears of it must not hold up the rest
                _log.exception("what settling told could not be recorded")


class DirectSettler:
    """Settles at once, for a store that never makes its caller wait."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, closing: Closing, booked: Booked | None = None) -> None:
        """Settle it, and tell what became of it."""
        _tell(((closing, booked),), self._store.settle((closing,)))

    def flush(self, timeout: float) -> bool:  # noqa: ARG002 - nothing ever waits
        """Say that nothing waits."""
        return True

    def close(self, timeout: float) -> bool:  # noqa: ARG002 - nothing ever waits
        """Say that nothing waits."""
        return True
