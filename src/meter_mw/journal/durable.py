"""How far a journal is on the disk, and who waits for it: many waiters are served by one fdatasync."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from meter_mw.journal.segments import Position, held
from meter_mw.model import MeterError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("meter_mw.journal")

_START = Position(0, 0)


class NotDurable(MeterError):
    """An event is not on the disk, and its policy lets no response be whole before it is."""


class Durable:
    """Told of every sync, it tells each waiter whether its position is on the disk.

    Positions are those of one journal in one process. They never go back, those of the events that
    waited in memory among themselves: `written` says how many of those a sync has covered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._synced = _START
        self._written = held(0)
        self._lost = (_START, _START)
        self._waiting: list[tuple[Position, Callable[[bool], None]]] = []

    def when(self, position: Position, tell: Callable[[bool], None]) -> bool:
        """Have `tell` called with whether the position is on the disk; return whether that was known.

        It is called at once where it is known, else in the thread that syncs; it must be quick.
        """
        with self._lock:
            known = self._covers(position)
            if not known:
                self._waiting.append((position, tell))
            fine = not self._lost[0] < position <= self._lost[1]
        if known:
            tell(fine)
        return known

    def reached(self, position: Position, written: int) -> None:
        """Be told that all up to the position is on the disk."""
        self._pass(position, written, durable=True)

    def failed(self, position: Position, written: int) -> None:
        """Be told that what came after the last sync, up to the position, may never get to the disk."""
        self._pass(position, written, durable=False)

    def _pass(self, position: Position, written: int, *, durable: bool) -> None:
        with self._lock:
            if not durable:
                self._lost = (self._synced, position)
            self._synced, self._written = max(self._synced, position), held(written)
            served = [tell for wanted, tell in self._waiting if self._covers(wanted)]
            self._waiting = [each for each in self._waiting if not self._covers(each[0])]
        for tell in served:
            try:
                tell(durable)
            except RuntimeError as error:  # the event loop of the waiter is closed
                _log.debug("a waiter is gone: %s", error)

    def _covers(self, position: Position) -> bool:
        return position <= (self._written if position.is_held else self._synced)
