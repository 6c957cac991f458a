"""Holdings: the estates that this process forwards, its own, those of the dead, and of the living on demand.

Rule 1: an estate is held by its mandate, from when it is found until every sink has all of it.
Rule 2: a dead writer's lock is held with it, so that nobody else takes it for an orphan.
Rule 3: a segment is deleted when every sink is past its end, the retention is over, and no claim is on it.
Rule 4: without a sink nothing is adopted or deleted: the journal itself is the record then.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.bookmarks import BookmarkFile
from meter_mw.journal.claims import NOTHING, claimed
from meter_mw.journal.estates import (
    Estate,
    estate_paths,
    give_back,
    segment_numbers,
    segment_path,
    segments_to_discard,
    source_of,
)
from meter_mw.journal.following import tail_of
from meter_mw.journal.lanes import JournalSupply
from meter_mw.journal.mandates import Mandate
from meter_mw.journal.segments import Position
from meter_mw.journal.space import LOOK_EVERY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meter_mw.journal.journal import Journal

_log = logging.getLogger("meter_mw.journal")


@dataclass(slots=True, eq=False)
class Holding:
    """An estate, and where each sink stands in it.

    `estate` is the writer's lock where this process has it; `end` is fixed once the writer is dead.
    """

    path: Path
    mandate: Mandate
    estate: Estate | None = None
    end: Position | None = None
    marks: dict[str, Position] = field(default_factory=dict)

    @property
    def lowest(self) -> Position:
        """The place before which no sink needs anything."""
        return min(self.marks.values(), default=Position(0, 0))


class Holdings:
    """Knows what is to be forwarded; shared by the threads of all sinks. A `Stock`.

    With `living` it holds what other, living processes write, where they do not forward it themselves.
    While `pressed` says that the journal nears its bound, some of what is delivered goes every second,
    whatever its retention; else the journal is asked.
    """

    def __init__(
        self,
        journal: Journal,
        sinks: Sequence[str],
        *,
        clock: Callable[[], float],
        adopt_every: float,
        retention: float,
        living: bool = False,
        pressed: Callable[[], bool] | None = None,
    ) -> None:
        self._journal = journal
        self._sinks = sinks
        self._clock = clock
        self._adopt_every = adopt_every
        self._retention = retention
        self._living = living
        self._pressed = pressed or (lambda: journal.is_pressed)
        self._start_afresh()
        forks.register(self)

    def _start_afresh(self) -> None:
        self._changed = threading.Condition()
        self._own: Holding | None = None
        self._refused: Estate | None = None
        self._others: list[Holding] = []
        self._look_at = self._press_at = self._clock()

    def supply(self, sink: str, *, durable: bool) -> JournalSupply:
        """Begin a sink's share anew."""
        return JournalSupply(self, sink, durable=durable)

    def current(self) -> list[tuple[Holding, Position | None]]:
        """Return what is held and how far each may be read now; looks for more when it is time.

        None stands for the last whole frame of a living writer.
        """
        tail = self._journal.tail()
        with self._changed:
            now = self._clock()
            due = bool(self._sinks) and now >= self._look_at
            if due:
                self._look_at = now + self._adopt_every
            self._follow(tail[0] if tail else None, look=due)
            if due:
                self._find()
            pressed = now >= self._press_at and self._pressed()
            if pressed:
                self._press_at = now + LOOK_EVERY
            if due or pressed:
                self._tidy(pressed=pressed)
            held = [(holding, holding.end) for holding in self._others]
            return [(self._own, tail[1]), *held] if tail and self._own else held

    def passed(self, holding: Holding, sink: str, position: Position) -> None:
        """Note that a sink needs nothing before the position any more."""
        with self._changed:
            before, holding.marks[sink] = holding.lowest, position
            if holding.lowest.sequence != before.sequence:
                self._discard(holding)
            self._settle(holding)
            self._changed.notify_all()

    def due(self) -> Callable[[float], bool]:
        """Note how far each estate goes now; see `Stock`."""
        targets = [(holding, _end_of(holding) if stop is None else stop) for holding, stop in self.current()]

        def arrived(timeout: float) -> bool:
            with self._changed:
                return self._changed.wait_for(
                    lambda: all(holding.lowest >= target for holding, target in targets), timeout
                )

        return arrived

    def release(self) -> None:
        """Leave everything to other processes."""
        with self._changed:
            for holding in self._others:
                self._let_go(holding)
            if self._own is not None:
                self._own.mandate.release()
            self._others, self._own = [], None
            self._look_at = self._clock()

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        for holding in self._others:
            if holding.estate is not None:
                holding.estate.disown()
            holding.mandate.disown()
        if self._own is not None:
            self._own.mandate.disown()
        self._start_afresh()

    def _follow(self, estate: Estate | None, *, look: bool) -> None:
        """Hold the estate that this process writes, unless a daemon does."""
        if self._own is not None and self._own.estate is estate:
            return
        if self._own is not None:
            self._own.mandate.release()
            self._own = None
        if estate is None or (estate is self._refused and not look):
            return
        with forks.GATE:
            mandate = Mandate.take(estate.path)
            if mandate is not None:
                self._own = self._hold(estate.path, mandate, estate)
        self._refused = None if self._own else estate

    def _find(self) -> None:
        try:
            paths = estate_paths(self._journal.directory)
        except OSError as error:
            _log.warning("%s: no look for orphans: %s", self._journal.directory, error.strerror)
            return
        held = {holding.path: holding for holding in self._others}
        for path in paths:
            if self._own is not None and path == self._own.path:
                continue
            try:
                with forks.GATE:
                    if path in held:
                        self._look_after(held[path])
                    else:
                        self._look_at_stranger(path)
            except OSError as error:
                _log.warning("%s: not adopted: %s", path, error.strerror)

    def _look_at_stranger(self, path: Path) -> None:
        """Adopt an orphan; hold what a living process writes, where that is asked for."""
        estate = Estate.lock(path)
        if estate is None and not self._living:
            return
        mandate = Mandate.take(path)
        try:
            if mandate is not None and (holding := self._inherit(path, mandate, estate)):
                self._others.append(holding)
                mandate = estate = None
        finally:
            if mandate is not None:
                mandate.release()
            if estate is not None:
                estate.release()

    def _inherit(self, path: Path, mandate: Mandate, estate: Estate | None) -> Holding | None:
        sequences = segment_numbers(path)
        if not sequences:
            if estate is not None and claimed(path) == NOTHING:
                estate.remove()
            return None
        if source_of(path) not in (self._journal.source, None):
            return None
        holding = self._hold(path, mandate, estate)
        if estate is not None:
            _log.info("%s: adopted, its process is dead", path)
            give_back(path)
            holding.end = Position(sequences[-1] + 1, 0)
        return holding

    def _look_after(self, holding: Holding) -> None:
        """Learn that the writer of an estate has died."""
        if holding.estate is not None:
            return
        holding.estate = Estate.lock(holding.path)
        if holding.estate is not None:
            holding.end = Position(max(segment_numbers(holding.path), default=0) + 1, 0)

    def _hold(self, path: Path, mandate: Mandate, estate: Estate | None) -> Holding:
        marks = {sink: BookmarkFile(path, sink).load().cursor for sink in self._sinks}
        return Holding(path, mandate, estate, marks=marks)

    def _tidy(self, *, pressed: bool) -> None:
        for holding in [*self._others, *([self._own] if self._own else [])]:
            self._discard(holding, pressed=pressed)

    def _discard(self, holding: Holding, *, pressed: bool = False) -> None:
        try:
            lowest = min(holding.lowest, claimed(holding.path))
            self._delete(holding, lowest.sequence, pressed=pressed)
            self._settle(holding)
            orphan = holding.estate if holding in self._others else None
            is_free = claimed(holding.path) == NOTHING
            if orphan is not None and is_free and not segment_numbers(holding.path):
                orphan.remove()
                self._drop(holding)
        except FileNotFoundError:
            self._drop(holding)
        except OSError as error:
            _log.warning("%s: delivered segments stay: %s", holding.path, error.strerror)

    def _delete(self, holding: Holding, before: int, *, pressed: bool) -> None:
        sealing = self._journal.sealing
        if sealing is not None:
            before = min(before, sealing.sealed(holding.path, dead=holding.end is not None))
        due = segments_to_discard(holding.path, before, retention=self._retention, pressed=pressed)
        if sealing is not None and due:
            # Noted before it is done: what a crash leaves undone is done, and noted, once more.
            sealing.discarded(holding.path, due)
        for sequence in due:
            segment_path(holding.path, sequence).unlink()

    def _settle(self, holding: Holding) -> None:
        """Tell our own journal what it may delete when it is closed."""
        if holding is self._own and holding.estate is not None and not self._retention:
            self._journal.settle(holding.estate, min(holding.lowest, claimed(holding.path)))

    def _drop(self, holding: Holding) -> None:
        """Have no more to do with an estate that is gone."""
        if holding in self._others:
            self._others.remove(holding)
            self._let_go(holding)

    def _let_go(self, holding: Holding) -> None:
        holding.mandate.release()
        if holding.estate is not None:
            holding.estate.release()


def _end_of(holding: Holding) -> Position:
    try:
        return tail_of(holding.path)
    except OSError:
        return Position(0, 0)
