"""A daemon thread that works shortly after it was nudged, at most once an interval."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("meter_mw.journal")

_AFTER_FAILURE = 1.0


class Pulse:
    """Calls `beat` one interval after the first nudge since the last beat.

    A beat may return the seconds after which the next one comes without a nudge.
    A nudge costs one look at a flag, save the first of each interval: a busy caller never waits
    for the thread, nor the thread for the caller.
    """

    def __init__(self, beat: Callable[[], float | None], interval: float) -> None:
        self._beat = beat
        self._interval = interval
        self._wake = threading.Event()
        self._due = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def nudge(self) -> None:
        """Have `beat` called an interval from now, if it is not to be called sooner."""
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self._start()

    def hurry(self) -> bool:
        """Have `beat` called at once, or after the one under way; say whether there is a thread for it."""
        self._due.set()
        self.nudge()
        return self._thread is not None

    def close(self, timeout: float) -> bool:
        """Stop, and return whether the thread has ended in time."""
        self._stopped = True
        self._due.set()
        self._wake.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(max(0.0, timeout))
        return not thread.is_alive()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="meter-mw-journal", daemon=True)
        try:
            self._thread = thread
            thread.start()
        except RuntimeError as error:
            # No more threads, or the interpreter is ending: the page cache has the event all the same.
            self._thread = None
            self._wake.clear()
            _log.warning("the journal's thread does not start: %s", error)

    def _run(self) -> None:
        pause: float | None = None
        while True:
            if self._wake.wait(pause):
                self._due.wait(self._interval)
            # Cleared before the look at the flag: the other way round could clear the wake-up of `close`.
            self._wake.clear()
            self._due.clear()
            if self._stopped:
                return
            try:
                pause = self._beat()
            except Exception:  # the thread must outlive any one failure  # noqa: BLE001
                _log.exception("the journal's thread failed once and goes on")
                pause = _AFTER_FAILURE
