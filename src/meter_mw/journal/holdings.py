"""Holdings: the estates that this process forwards, its own and those it adopted from the dead.

Rule 1: an adopted estate stays locked from adoption until every sink has all of it.
Rule 2: a segment is deleted when every sink is past its end and the retention is over.
Rule 3: without a sink nothing is adopted or deleted: the journal itself is the record then.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.estates import Estate, estate_paths
from meter_mw.journal.segments import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.journal.journal import Journal

_log = logging.getLogger("meter_mw.journal")


@dataclass(slots=True, eq=False)
class Holding:
    """An estate, and where each sink stands in it. `end` is fixed for one whose writer is dead."""

    estate: Estate
    end: Position | None
    marks: dict[str, Position] = field(default_factory=dict)


class Holdings:
    """Knows what is to be forwarded; shared by the threads of all sinks."""

    def __init__(
        self,
        journal: Journal,
        sinks: Sequence[str],
        *,
        clock: Callable[[], float],
        adopt_every: float,
        retention: float,
    ) -> None:
        self._journal = journal
        self._sinks = sinks
        self._clock = clock
        self._adopt_every = adopt_every
        self._retention = retention
        self._start_afresh()
        forks.register(self)

    def _start_afresh(self) -> None:
        self._changed = threading.Condition()
        self._own: Holding | None = None
        self._adopted: list[Holding] = []
        self._adopt_at = self._clock()

    def current(self) -> list[tuple[Holding, Position]]:
        """Return what is held and how far each may be read now; looks for orphans when it is time."""
        tail = self._journal.tail()
        with self._changed:
            now = self._clock()
            if self._sinks and now >= self._adopt_at:
                self._adopt_at = now + self._adopt_every
                self._adopt()
                self._tidy()
            self._follow(tail[0] if tail else None)
            held = [(holding, holding.end) for holding in self._adopted if holding.end is not None]
            return [(self._own, tail[1]), *held] if tail and self._own else held

    def passed(self, holding: Holding, sink: str, position: Position) -> None:
        """Note that a sink needs nothing before the position any more."""
        with self._changed:
            holding.marks[sink] = position
            self._discard(holding)
            self._changed.notify_all()

    def wait_for(self, targets: Sequence[tuple[Holding, Position]], timeout: float) -> bool:
        """Wait until every sink has passed the targets, and return whether it has within `timeout`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self._lowest(holding) >= target for holding, target in targets), timeout
            )

    def release(self) -> None:
        """Leave the adopted estates to other processes."""
        with self._changed:
            for holding in self._adopted:
                holding.estate.release()
            self._adopted = []
            self._own = None
            self._adopt_at = self._clock()

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        for holding in self._adopted:
            holding.estate.disown()
        self._start_afresh()

    def _follow(self, estate: Estate | None) -> None:
        if estate is None:
            self._own = None
        elif self._own is None or self._own.estate is not estate:
            self._own = self._hold(estate, None)

    def _hold(self, estate: Estate, end: Position | None) -> Holding:
        return Holding(estate, end, {sink: estate.load_cursor(sink) for sink in self._sinks})

    def _adopt(self) -> None:
        try:
            paths = estate_paths(self._journal.directory)
        except OSError as error:
            _log.warning("%s: no look for orphans: %s", self._journal.directory, error.strerror)
            return
        for path in paths:
            with forks.GATE:
                estate = Estate.lock(path)
                if estate is None:
                    continue
                holding = self._inherit(estate)
                if holding is None:
                    estate.release()
                else:
                    self._adopted.append(holding)

    def _inherit(self, estate: Estate) -> Holding | None:
        try:
            sequences = estate.sequences()
            if not sequences:
                estate.remove()
                return None
            if estate.source() not in (self._journal.source, None):
                return None
            _log.info("%s: adopted, its process is dead", estate.path)
            return self._hold(estate, Position(sequences[-1] + 1, 0))
        except OSError as error:
            _log.warning("%s: not adopted: %s", estate.path, error.strerror)
            return None

    def _tidy(self) -> None:
        for holding in [*self._adopted, *([self._own] if self._own else [])]:
            self._discard(holding)

    def _discard(self, holding: Holding) -> None:
        lowest = self._lowest(holding)
        estate = holding.estate
        try:
            estate.discard(lowest.sequence, retention=self._retention)
            if holding is self._own:
                if not self._retention:
                    self._journal.settle(estate, lowest)
            elif holding in self._adopted and not estate.sequences():
                estate.remove()
                self._adopted.remove(holding)
                estate.release()
        except OSError as error:
            _log.warning("%s: delivered segments stay: %s", estate.path, error.strerror)

    def _lowest(self, holding: Holding) -> Position:
        return min(holding.marks.values(), default=Position(0, 0))
