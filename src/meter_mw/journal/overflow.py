"""What the disk does not take now: kept in memory, in order and within a bound, until it does.

Rule 1: while anything is held, what is new goes behind it.
Rule 2: what does not fit is lost, counted and said; a log has one line a minute of it, not one a request.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from meter_mw.journal.segments import JournalError, held

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.journal.segments import Position

SAID_AGAIN = 60.0
"""Seconds between two lines about one trouble."""


class JournalFull(JournalError):
    """The disk takes no event and memory holds no more: this one is counted as lost, and said with others."""


class Overflow:
    """Up to `size` bytes of events and closings, and the trouble that has them wait here.

    Used under the lock of its journal.
    """

    def __init__(self, size: int, clock: Callable[[], float], name: str) -> None:
        self.trouble: str | None = None
        """Why the disk takes nothing; `None` when it does."""
        self.lost = 0
        """Events and closings that were given up, since the process began."""
        self.written = 0
        """How many of those that were held have been written since."""
        self._size = size
        self._clock = clock
        self._name = name
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._bytes = 0
        self._since = self._said = 0.0
        self._lost_before = self._written_before = 0
        self._is_said = False

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, trouble: str) -> None:
        """Note that the disk takes nothing, and why."""
        if self.trouble is None:
            self._since = self._clock()
            self._is_said = False
            self._lost_before, self._written_before = self.lost, self.written
        self.trouble = trouble

    def hold(self, payload: bytes, closing: bytes) -> Position:
        """Keep an event, a closing or both, and return their place; raises `JournalFull`."""
        if self._bytes + len(payload) + len(closing) > self._size:
            self.lost += 1
            raise JournalFull(f"{self._name}: {self.trouble}; and {len(self)} events wait in memory already")
        self._waiting.append((payload, closing))
        self._bytes += len(payload) + len(closing)
        return held(self.written + len(self._waiting))

    def first(self) -> tuple[bytes, bytes] | None:
        """Return what has waited longest."""
        return self._waiting[0] if self._waiting else None

    def wrote_first(self) -> None:
        """Be told that what has waited longest is written."""
        payload, closing = self._waiting.popleft()
        self._bytes -= len(payload) + len(closing)
        self.written += 1

    def give_up(self) -> None:
        """Lose what waits: nobody is left to write it."""
        self.lost += len(self._waiting)
        self._waiting.clear()
        self._bytes = 0

    def end(self) -> str | None:
        """Note that the disk takes events again, and that nothing waits; return what is to be said of it."""
        began, self.trouble = self.trouble, None
        if began is None or not (self._is_said or self._losses):
            return None
        return (
            f"{self._name}: takes events again after {self._clock() - self._since:.1f} s; "
            f"{self.written - self._written_before} had waited in memory, {self._losses} were lost"
        )

    def complaint(self) -> str | None:
        """Return what is to be said of the trouble now: at once, and then every minute."""
        now = self._clock()
        if self.trouble is None or (self._is_said and now - self._said < SAID_AGAIN):
            return None
        self._is_said, self._said = True, now
        return (
            f"{self._name}: takes no events: {self.trouble}; "
            f"{len(self)} wait in memory, {self._losses} were lost"
        )

    @property
    def _losses(self) -> int:
        return self.lost - self._lost_before
