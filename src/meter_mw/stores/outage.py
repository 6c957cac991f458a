"""What the log is told of a store that is away: when it begins, once a minute, and when it is over."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

SAID_AGAIN_S = 60.0
"""Seconds between two lines about one outage."""


class Outage:
    """Counts the failures of a store, and says few of them; `meanwhile` is what becomes of the callers.

    `back` is called when it is over.
    """

    def __init__(
        self,
        meanwhile: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        back: Callable[[], None] | None = None,
    ) -> None:
        self._meanwhile = meanwhile
        self._back = back
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._said = 0.0
        self._failures = 0

    def goes_on(self, failure: Exception) -> None:
        """Note a failure."""
        now = self._clock()
        with self._lock:
            self._failures += 1
            if self._since is None:
                self._since = now
            elif now - self._said < SAID_AGAIN_S:
                return
            self._said = now
            failures = self._failures
        _log.warning("the store is away (%d failures so far), and %s: %s", failures, self._meanwhile, failure)

    def is_over(self) -> None:
        """Note that the store answered."""
        if self._since is None:
            return
        with self._lock:
            since, failures = self._since, self._failures
            self._since, self._failures = None, 0
        if since is not None:
            if self._back is not None:
                self._back()
            _log.warning("the store is back after %.1f s and %d failures", self._clock() - since, failures)
