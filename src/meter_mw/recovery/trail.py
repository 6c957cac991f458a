"""The trail of one process: which of its closings the store has confirmed, in the order of the journal.

Rule 1: a closing is on the trail from the moment it is in the journal: both are one step.
Rule 2: `settled` never passes a closing that the store has not confirmed.
Rule 3: closings that memory has no room for are a gap: from its beginning on they are read from the journal,
until that has caught up with what is written. So is everything after a loss of the store's data.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw.journal import HELD, Position
from meter_mw.recovery.register import Marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meter_mw.journal import Journal
    from meter_mw.model import RequestId
    from meter_mw.recovery.register import Register

_START = Position(0, 0)


class Trail:
    """Follows the closings of this process; what it knows is kept in the register, where there is one."""

    def __init__(self, journal: Journal, clock: Callable[[], int]) -> None:
        self._journal = journal
        self._clock = clock
        self.begin(None)

    def begin(self, register: Register | None) -> None:
        """Begin with nothing, in a new register or none."""
        self._lock = threading.Lock()
        self._register = register
        self._marks = Marks()
        self._order: deque[tuple[RequestId, Position]] = deque()
        self._ends: dict[RequestId, Position] = {}
        self._confirmed: dict[RequestId, int] = {}
        self._end = self._low = _START
        self._gap: Position | None = None

    def keep(self, rid: RequestId, event: bytes, packed: bytes) -> Position:
        """Put an event and its closing, or a closing alone, into the journal; raises `JournalError`."""
        with self._lock:
            position = self._journal.append(event, packed) if event else self._journal.note(packed)
            if position < HELD:
                self._end = position
                if self._gap is None:
                    self._order.append((rid, position))
                    self._ends[rid] = position
            return position

    @property
    def marks(self) -> Marks:
        """How far the closings are settled."""
        return self._marks

    @property
    def gap(self) -> Position | None:
        """From where on closings are to be read from the journal; None where memory has them all."""
        return self._gap

    def leaves_out(self, rid: RequestId) -> bool:
        """Be told that memory has no room for a closing; return whether the journal has it."""
        with self._lock:
            if self._gap is None:
                if rid not in self._ends:
                    return False
                self._open_gap(self._settled())
            return True

    def rewind(self, marks: Marks) -> None:
        """Read all from the journal that is not settled by these marks: the store has lost it."""
        with self._lock:
            gap = self._gap
            self._marks = marks
            self._open_gap(marks.settled if gap is None else min(gap, marks.settled))
            self._note(self._marks)

    def _open_gap(self, start: Position) -> None:
        self._gap = start
        self._order.clear()
        self._ends.clear()
        self._confirmed.clear()

    def passed(self, position: Position) -> bool:
        """Be told that all before a place in the gap is settled; return whether that closes the gap."""
        with self._lock:
            self._gap = position
            self._low = position
            closed = position >= self._end
            lost = (None, None) if closed else (self._marks.lost_after_us, self._marks.lost_since_us)
            if closed:
                self._gap = None
            self._note(replace(self._marks, settled=position, lost_after_us=lost[0], lost_since_us=lost[1]))
            return closed

    def sending(self, rids: Iterable[RequestId] = (), to: Position = _START) -> tuple[Marks, Marks]:
        """Note, before they are sent, that the store may soon have these closings, or all up to a place.

        Returns what `unsent` takes where nothing reached the store.
        """
        with self._lock:
            before = self._marks
            end = max((self._ends.get(rid, _START) for rid in rids), default=to)
            settled = self._settled()
            if end > before.sent or settled > before.settled:
                since = before.since_us if settled < before.sent else None
                sent = max(end, before.sent)
                self._note(replace(before, settled=settled, sent=sent, since_us=since or self._clock()))
            return before, self._marks

    def unsent(self, noted: tuple[Marks, Marks]) -> None:
        """Take back what `sending` noted, unless more was sent meanwhile: nothing reached the store."""
        before, after = noted
        with self._lock:
            if self._marks.sent == after.sent and self._marks.since_us == after.since_us:
                self._note(replace(self._marks, sent=before.sent, since_us=before.since_us))

    def confirmed(self, rids: Iterable[RequestId]) -> None:
        """Be told that the store has these closings."""
        with self._lock:
            for rid in rids:
                if rid in self._ends:
                    self._confirmed[rid] = self._confirmed.get(rid, 0) + 1

    def save(self) -> Marks:
        """Keep how far all is settled by now, and give it."""
        with self._lock:
            settled = self._settled()
            if settled != self._marks.settled:
                self._note(replace(self._marks, settled=settled))
            return self._marks

    def _settled(self) -> Position:
        """Give the place before which the store has all: where the last confirmed in a row ends."""
        if self._gap is not None:
            return self._gap
        order, confirmed = self._order, self._confirmed
        while order and order[0][0] in confirmed:
            rid, end = order.popleft()
            self._low = end
            confirmed[rid] -= 1
            if not confirmed[rid]:
                del confirmed[rid]
            if self._ends.get(rid) == end:
                del self._ends[rid]
        return self._low

    def _note(self, marks: Marks) -> None:
        self._marks = marks
        if self._register is not None:
            self._register.mark(marks)
