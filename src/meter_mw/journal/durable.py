"""How far a journal is on the disk, and who waits for it: many waiters are served by one fdatasync."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from meter_mw.journal.segments import HELD, Position

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("meter_mw.journal")

_START = Position(0, 0)


class Durable:
    """Told of every sync, it tells each waiter whether its position is on the disk.

    Positions are those of one journal in one process, and never go back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._synced = _START
        self._lost = (_START, _START)
        self._waiting: list[tuple[Position, Callable[[bool], None]]] = []

    @property
    def synced(self) -> Position:
        """Where that which is on the disk ends."""
        return self._synced

    def when(self, position: Position, tell: Callable[[bool], None]) -> bool:
        """Have `tell` called with whether the position is on the disk; return whether that was known.

        It is called at once where it is known, else in the thread that syncs; it must be quick.
        """
        with self._lock:
            known = position <= self._synced
            if not known:
                self._waiting.append((position, tell))
            fine = not self._lost[0] < position <= self._lost[1]
        if known:
            tell(fine)
        return known

    def reached(self, position: Position, *, held: bool) -> None:
        """Be told that all up to the position is on the disk; `held` says that more waits in memory."""
        with self._lock:
            self._synced = max(self._synced, position)
            served = self._take(position, held=held)
        _tell(served, durable=True)

    def failed(self, position: Position) -> None:
        """Be told that what came after the last sync, up to the position, may never get to the disk."""
        with self._lock:
            self._lost = (self._synced, position)
            self._synced = max(self._synced, position)
            served = self._take(position, held=True)
        _tell(served, durable=False)

    def _take(self, position: Position, *, held: bool) -> list[Callable[[bool], None]]:
        limit = position if held else HELD
        served = [tell for wanted, tell in self._waiting if wanted <= position or wanted == limit]
        self._waiting = [each for each in self._waiting if each[0] > position and each[0] != limit]
        return served


def _tell(served: list[Callable[[bool], None]], *, durable: bool) -> None:
    for tell in served:
        try:
            tell(durable)
        except RuntimeError as error:  # the event loop of the waiter is closed
            _log.debug("a waiter is gone: %s", error)
