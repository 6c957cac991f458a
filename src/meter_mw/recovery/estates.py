"""The estates that are recovered: the one that this process writes, and those that the dead have left."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.claims import claim, unclaim
from meter_mw.journal.estates import estate_paths, segment_numbers, segment_path, source_of
from meter_mw.recovery.backlog import Backlog, Inherited
from meter_mw.recovery.register import Register
from meter_mw.recovery.watching import Canaries
from meter_mw.stores.canary import Asked, clear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meter_mw.journal import Journal
    from meter_mw.recovery.backlog import Progress
    from meter_mw.recovery.marks import Marks
    from meter_mw.recovery.trail import Trail
    from meter_mw.stores.port import Closing, Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shipping:
    """Where closings are sent, and where those are parked that are not."""

    store: Store
    park: Callable[[bytes, str], None]

    @property
    def watched(self) -> Asked | None:
        """The store, where it outlives its processes."""
        return self.store if isinstance(self.store, Asked) else None

    def backlog(self, canaries: Canaries, marks: Marks, progress: Progress) -> Backlog:
        """Begin to send the closings of an estate that these marks say are not settled."""

        def is_lost(closing: Closing) -> bool:
            """Say whether a closing is all in parts of the store that have lost data."""
            tags = {closing.tag, *(each.charge.holder.partition(":")[0] for each in closing.bookings)} - {""}
            watched = self.watched
            return watched is not None and {watched.part_of(tag) for tag in tags} <= canaries.lost

        return Backlog(canaries.estate, marks, progress, store=self.store, park=self.park, lost=is_lost)

    def clear(self, canaries: Canaries) -> None:
        """Delete the canaries of an estate that is no more; raises StoreUnavailable."""
        if self.watched is not None:
            clear(self.watched, canaries.estate.name, canaries.last)


class Own:
    """The estate that this process writes."""

    def __init__(self, register: Register, trail: Trail, shipping: Shipping) -> None:
        self.canaries = Canaries(register.path.parent, register)
        self._trail = trail
        self._shipping = shipping
        self._backlog: Backlog | None = None

    def marks(self) -> Marks:
        """Give how far its closings are settled."""
        return self._trail.save()

    def go_back(self, marks: Marks) -> None:
        """Have all sent again that these marks do not say is settled."""
        self._trail.rewind(marks)
        self._backlog = None

    def send_on(self, go_on: Callable[[], bool]) -> bool:
        """Send what is in the journal alone while `go_on` says so; return whether there is more.

        Raises StoreUnavailable.
        """
        gap = self._trail.gap
        if gap is None:
            return False
        if self._backlog is None:
            marks = replace(self._trail.marks, settled=gap)
            self._backlog = self._shipping.backlog(self.canaries, marks, self._trail)
        while self._trail.gap is not None:
            self._backlog.step(self._trail.end)
            if not go_on():
                return True
        if self.canaries.lost:
            _log.warning("%d closings were sent again, and all is as it was", self._backlog.sent)
        self._backlog = None
        self.canaries.lost.clear()
        return False

    def keep(self) -> None:
        """Say from where on it is needed; raises `OSError`."""
        if self._shipping.watched is not None:
            claim(self.canaries.estate, self._trail.save().settled)

    def leave(self, *, is_retained: bool) -> None:
        """Leave it to others, or to nobody where nothing of it is needed; raises as `keep` and `clear` do."""
        trail, register = self._trail, self.canaries.register
        is_settled = trail.gap is None and trail.save().settled == trail.end
        if is_settled and register.is_empty and not is_retained:
            unclaim(self.canaries.estate)
            register.drop()
            self._shipping.clear(self.canaries)


class Heir:
    """The estate of a dead process, from when it was found until nothing of it is needed."""

    def __init__(self, register: Register, shipping: Shipping) -> None:
        self.canaries = Canaries(register.path.parent, register, register.beats())
        self.reaped = False
        self._shipping = shipping
        self._progress: Inherited | None = None
        self._backlog: Backlog | None = None
        if shipping.watched is not None:
            self._begin(register.marks())

    def _begin(self, marks: Marks) -> None:
        self._progress = Inherited(self.canaries.register, marks, self._shipping.store.now_us)
        self._backlog = self._shipping.backlog(self.canaries, marks, self._progress)

    def marks(self) -> Marks:
        """Give how far its closings are settled."""
        return self.canaries.register.marks() if self._progress is None else self._progress.marks

    def go_back(self, marks: Marks) -> None:
        """Have all sent again that these marks do not say is settled."""
        self.canaries.register.mark(marks)
        self._begin(marks)

    def send_on(self, go_on: Callable[[], bool]) -> bool:
        """Send its closings while `go_on` says so; return whether there are more. Raises StoreUnavailable."""
        while self._backlog is not None and go_on():
            if not self._backlog.step():
                if self.canaries.lost:
                    _log.warning("%s: %d closings were sent again", self.canaries.estate, self._backlog.sent)
                self._backlog = None
                self.canaries.lost.clear()
        return self._backlog is not None

    def keep(self, retention_us: int) -> bool:
        """Say from where on it is needed, and whether it is at all; raises as `clear` does, and `OSError`."""
        estate, register = self.canaries.estate, self.canaries.register
        is_settled = self.reaped and self._backlog is None
        if is_settled and (self._progress is None or _is_old(estate, retention_us)):
            unclaim(estate)
            register.drop()
            self._shipping.clear(self.canaries)
            return False
        if self._progress is not None:
            claim(estate, self._progress.marks.settled)
        return True

    def leave(self) -> None:
        """Leave it to other processes."""
        self.canaries.register.disown()


def left_by_the_dead(journal: Journal, held: set[Path], shipping: Shipping) -> Iterator[Heir]:
    """Take over what the dead have left beside a journal, if nobody else does, and is not held already."""
    try:
        paths = estate_paths(journal.directory)
    except OSError as error:
        _log.warning("%s: no look for what is left: %s", journal.directory, error.strerror)
        return
    for path in paths:
        if path in held:
            continue
        with forks.GATE:
            register = Register.take(path)
            if register is None:
                continue
            if not _is_of(path, journal.source):
                register.disown()
                continue
            _log.info("%s: its process is dead, what it left is brought to an end", path)
            yield Heir(register, shipping)


def _is_of(path: Path, source: str) -> bool:
    try:
        return source_of(path) in (source, None)
    except OSError as error:
        _log.warning("%s: not recovered: %s", path, error.strerror)
        return False


def _is_old(estate: Path, retention_us: int) -> bool:
    """Whether nothing of an estate is retained for a replay any more."""
    try:
        written = [segment_path(estate, each).stat().st_mtime for each in segment_numbers(estate)]
    except OSError:
        return True
    return max(written, default=0.0) + retention_us / 1_000_000 <= time.time()
