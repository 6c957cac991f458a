"""The closings of one estate that the store may not have: sent from the journal, batch by batch.

Rule 1: what may not be sent again any more, and what the store cannot digest, is parked with the reason and
passed; nothing else is held up by it.
Rule 2: how far it has come is noted before a batch leaves and after it is confirmed, so who takes the estate
over goes on there.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meter_mw.journal import Position, read_closings
from meter_mw.stores.kept import due, unpack
from meter_mw.stores.port import NotAsked, Refusal, StoreUnavailable
from meter_mw.stores.settler import BATCH, IN_DOUBT, MOST_REFUSALS, cannot_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meter_mw.recovery.marks import Marks
    from meter_mw.recovery.register import Register
    from meter_mw.stores.port import Closing, Store

_log = logging.getLogger(__name__)

_START = Position(0, 0)


class Progress(Protocol):
    """Where it is noted how far the closings of an estate are settled."""

    def sending(self, *, to: Position) -> object:
        """Be told, before they are sent, that the store may soon have all closings up to a place."""

    def unsent(self, noted: object) -> None:
        """Be told that nothing reached the store of what `sending` returned this for."""

    def passed(self, position: Position) -> object:
        """Be told that all before a place is settled."""


class Inherited:
    """The progress of a dead process's estate, kept in its register."""

    def __init__(self, register: Register, marks: Marks, clock: Callable[[], int]) -> None:
        self._register = register
        self._clock = clock
        self.marks = marks

    def sending(self, *, to: Position) -> Marks:
        """Note that the store may soon have all up to a place."""
        before = self.marks
        if to > before.sent:
            since = before.since_us if before.settled < before.sent else None
            self._note(replace(before, sent=to, since_us=since or self._clock()))
        return before

    def unsent(self, noted: object) -> None:
        """Take back what was noted."""
        if type(noted) is type(self.marks):
            self._note(replace(self.marks, sent=noted.sent, since_us=noted.since_us))

    def passed(self, position: Position) -> None:
        """Note how far all is settled."""
        self._note(replace(self.marks, settled=position))

    def _note(self, marks: Marks) -> None:
        self.marks = marks
        self._register.mark(marks)


class _Ready(NamedTuple):
    """A closing that is read, and what of it may be sent."""

    end: Position
    packed: bytes
    closing: Closing


class Backlog:
    """What is still to be sent of an estate, from `marks` on. Used by one thread at a time.

    `lost` says whether what the store has lost concerns a closing; where it does not, it is sent with care.
    """

    def __init__(
        self,
        estate: Path,
        marks: Marks,
        progress: Progress,
        *,
        store: Store,
        park: Callable[[bytes, str], None],
        lost: Callable[[Closing], bool],
    ) -> None:
        self._estate = estate
        self._marks = marks
        self._progress = progress
        self._store = store
        self._park = park
        self._lost = lost
        self._at = marks.settled
        self._most = BATCH
        self._refusals = 0
        self._tried: tuple[Position, int] = (_START, 0)
        self.sent = 0

    def step(self, tail: Position = _START) -> bool:
        """Send the next batch, or raise StoreUnavailable; return whether there was one.

        `tail` is where the last closing ended that was written before this call, where that is known.
        """
        found = list(islice(read_closings(self._estate, self._at), self._most))
        if not found:
            self._at = max(self._at, tail)
            self._progress.passed(self._at)
            return False
        now_us = self._store.now_us()
        ready = [each for each in (self._ready(end, packed, now_us) for end, packed in found) if each]
        end = found[-1][0]
        if ready:
            self._send(ready, end, now_us)
        self._at, self._refusals = end, 0
        self._most = min(BATCH, self._most * 2)
        self._progress.passed(end)
        self.sent += len(ready)
        return True

    def _ready(self, end: Position, packed: bytes, now_us: int) -> _Ready | None:
        try:
            kept = unpack(packed)
        except ValueError as error:
            self._put_aside(packed, str(error))
            return None
        marks, tried_us = self._marks, None
        if marks.lost_after_us is not None and not self._lost(kept.closing):
            marks = replace(marks, lost_after_us=None, lost_since_us=None)
            tried_us = kept.made_us or None
        else:
            tried_us = marks.tried_us(end, kept.made_us)
        if end <= self._tried[0]:
            tried_us = min(self._tried[1], tried_us or self._tried[1])
        closing = due(kept, now_us, tried_us=tried_us, lost_after_us=marks.lost_after_us)
        if closing is None:
            self._put_aside(packed, IN_DOUBT)
        return None if closing is None or not closing.bookings else _Ready(end, packed, closing)

    def _send(self, ready: Sequence[_Ready], end: Position, now_us: int) -> None:
        noted = self._progress.sending(to=end)
        try:
            self._store.settle([each.closing for each in ready])
        except Refusal as refusal:
            self._refused(ready, refusal)
        except NotAsked:
            self._progress.unsent(noted)
            raise
        except StoreUnavailable:
            if end > self._tried[0]:
                self._tried = (end, now_us)
            raise

    def _refused(self, ready: Sequence[_Ready], refusal: Refusal) -> None:
        """Find out which one it is that the store cannot digest, and put that aside."""
        self._refusals += 1
        alone = len(ready) == 1 and self._most == 1
        self._most = 1
        if not (alone and cannot_digest(refusal) and self._refusals >= MOST_REFUSALS):
            raise refusal
        self._put_aside(ready[0].packed, str(refusal))

    def _put_aside(self, packed: bytes, reason: str) -> None:
        _log.error("%s: a closing is put aside, its counts will be off: %s", self._estate, reason)
        self._park(packed, reason)
