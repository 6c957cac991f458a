"""The trail of one process: what it has on its way, and which of its closings the store has confirmed.

Rule 1: a closing is on the trail from the moment it is in the journal: both are one step.
Rule 2: `settled` never passes a closing that the store has not confirmed.
Rule 3: closings that memory has no room for are a gap: from its beginning on they are read from the journal,
until that has caught up with what is written. So is everything after a loss of the store's data.
Rule 4: a request is in the register from before the store is asked until its end is in the journal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from meter_mw import forks
from meter_mw.journal import HELD, JournalError, Position
from meter_mw.journal.claims import LATER, claim
from meter_mw.journal.parked import park
from meter_mw.recovery.marks import Marks
from meter_mw.recovery.register import Register
from meter_mw.stores.kept import pack, pack_cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from meter_mw.journal import Journal
    from meter_mw.model import RequestId
    from meter_mw.stores.access import Stores
    from meter_mw.stores.kept import Kept
    from meter_mw.stores.port import Admit, Cancel, Closing

_log = logging.getLogger(__name__)

STORE = "store"
"""The name under which closings are parked that the store does not get."""

_START = Position(0, 0)

OVERDUE_S = 60.0
"""Seconds after which a closing that nothing is done about is sent from the journal."""

_RETRY_S = 1.0
"""Seconds between two attempts to make a register where the disk takes none."""


class _Sending(NamedTuple):
    """The marks before and after something was sent."""

    before: Marks
    after: Marks


class Trail:
    """Follows the requests and the closings of this process; what it knows is kept in its register.

    `clock` is the store's (µs). With `keeps` closings are kept in the journal, and requests in the register
    until they end; with `bills` those are kept too that no cap or slots are charged for.
    """

    def __init__(
        self, journal: Journal, clock: Callable[[], int], *, keeps: bool = True, bills: bool = False
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._keeps = keeps
        self.bills = bills
        self.made: Callable[[], None] | None = None
        """Is called when there is a register."""
        self.leaving: Callable[[], None] | None = None
        """Is called before the register is left to whoever takes it next."""
        self._register: Register | None = None
        self._begin(None)
        forks.register(self)

    def _begin(self, register: Register | None) -> None:
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._register = register
        self._retry_at = 0.0
        self._marks = Marks()
        self._order: deque[tuple[RequestId, Position]] = deque()
        self._ends: dict[RequestId, Position] = {}
        self._confirmed: dict[RequestId, int] = {}
        self._unkept: set[RequestId] = set()
        self._seen = (_START, time.monotonic())
        self._complained = False
        self._end = self._low = _START
        self._gap: Position | None = None

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        if self._register is not None:
            self._register.disown()
        self._begin(None)

    @property
    def register(self) -> Register | None:
        """The register of this process, where it has one."""
        return self._register

    def ready(self) -> Register | None:
        """Have a register in the journal's home, if the disk has room for one."""
        if self._register is not None or not (self._keeps or self.bills):
            return self._register
        with self._making:
            if not self._has_register() and time.monotonic() >= self._retry_at:
                self._retry_at = time.monotonic() + _RETRY_S
                home = self._journal.home()
                try:
                    if home is not None:
                        with forks.GATE:
                            claim(home, self._low if self._keeps else LATER)
                            self._register = Register.create(home)
                        self._register.mark(self._marks)
                        if self.made is not None:
                            self.made()
                        self._complained = False
                except OSError as error:
                    if not self._complained:
                        _log.error("no register, so what a killed process leaves is not ended: %s", error)
                    self._complained = True
        return self._register

    def _has_register(self) -> bool:
        return self._register is not None

    def moved(self) -> bool:
        """Whether the journal was begun anew in another place, so that a new register is needed."""
        tail = self._journal.tail()
        register = self._register
        if register is None or (tail is not None and tail[0].path == register.path.parent):
            return False
        if self.leaving is not None:
            self.leaving()
        with self._lock:
            self._register = None
            self._open_gap(self._end)
            self._gap = None
        register.disown()
        return True

    # Requests on their way

    def enter(self, command: Admit) -> None:
        """Enter a request before the store is asked for it."""
        if not (self._keeps or self.bills):
            return
        now_us = self._clock()
        packed = pack_cancel(command.rid, command.tag, command.charges, now_us, now_us)
        register = self._register or self.ready()
        if packed and register is not None:
            register.open(command.rid, packed)

    def hand_over(self, rid: RequestId, facts: bytes) -> None:
        """Note that a request is handed to the app, and what its event will say."""
        register = self._register or self.ready()
        if register is not None:
            if rid not in register:
                register.open(rid, b"")
            register.serve(rid, facts)

    def passed_so_far(self, rid: RequestId, request_bytes: int, response_bytes: int) -> None:
        """Note how much of a request and its response has passed."""
        if self._register is not None:
            self._register.passed(rid, request_bytes, response_bytes)

    def lend(self, rid: RequestId, packed: bytes) -> memoryview | None:
        """Enter a lease, with what one of its requests comes to; give where its counts go.

        None where there is no room for it, or no register: its process is not to have that lease.
        """
        register = self._register or self.ready()
        return register.lend(rid, packed) if packed and register is not None else None

    def leave(self, rid: RequestId) -> None:
        """Cross a request out: its end is in the journal, or it was charged nothing."""
        if self._register is not None:
            self._register.close(rid)

    @property
    def end(self) -> Position:
        """Where the last closing ends that is in the journal."""
        return self._end

    # Closings

    def packed(self, closing: Closing | None, admitted_us: int) -> bytes:
        """Give a closing as it is kept in the journal; nothing where it is not."""
        return pack(closing, self._clock(), admitted_us) if closing is not None and self._keeps else b""

    def keep(self, rid: RequestId, event: bytes, packed: bytes, *, settled: bool = False) -> Position:
        """Put an event and its closing, or a closing alone, into the journal; raises `JournalError`.

        A closing is `settled` where its admission has charged all of it for good, and nobody sends it: it is
        there to be sent again after a loss.
        """
        if self._register is None:
            self.ready()
        with self._lock:
            if not settled:
                self._unkept.add(rid)
            position = self._journal.append(event, packed)
            if position < HELD:
                self._unkept.discard(rid)
                self._end = position
                if self._gap is None:
                    self._follow(rid, position, settled=settled)
            if settled and self._gap is not None:
                self._doubt()
            return position

    def _follow(self, rid: RequestId, end: Position, *, settled: bool) -> None:
        """Have a closing on the trail, behind those before it that are not confirmed (Rule 2)."""
        if settled and not self._order:
            self._low = end
            return
        self._order.append((rid, end))
        self._ends[rid] = end
        if settled:
            self._confirmed[rid] = self._confirmed.get(rid, 0) + 1

    def _doubt(self) -> None:
        """Note that of what is read from the journal the store may have some from now on."""
        if self._marks.beyond_us is None:
            self._note(replace(self._marks, beyond_us=self._clock()))

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
            unread = self._register is None or (self._gap is None and rid not in self._ends)
            if unread or rid in self._unkept:
                return False
            if self._gap is None:
                self._open_gap(self._settled())
            return True

    def look(self, *, is_idle: bool) -> None:
        """Have sent from the journal what nobody has had sent: see to it that nothing stays for ever.

        `is_idle` says that nothing waits in memory.
        """
        with self._lock:
            settled, now = self._settled(), time.monotonic()
            if not is_idle or not self._order or settled != self._seen[0] or self._register is None:
                self._seen = (settled, now)
            elif now - self._seen[1] >= OVERDUE_S:
                _log.warning(
                    "%d closings were sent by nobody, and are sent from the journal", len(self._order)
                )
                self._open_gap(settled)

    def rewind(self, marks: Marks) -> None:
        """Read all from the journal that is not settled by these marks: the store has lost it."""
        with self._lock:
            gap = self._gap
            self._marks = marks
            self._open_gap(marks.settled if gap is None else min(gap, marks.settled))
            self._note(self._marks)

    def _open_gap(self, start: Position) -> None:
        self._gap = self._low = start
        self._order.clear()
        self._ends.clear()
        self._confirmed.clear()

    def passed(self, position: Position) -> bool:
        """Be told that all before a place in the gap is settled; return whether that closes the gap."""
        with self._lock:
            self._gap = self._low = position
            closed = position >= self._end
            marks = replace(self._marks, settled=position)
            if closed:
                self._gap = None
                marks = replace(marks, lost_after_us=None, lost_since_us=None, beyond_us=None)
            self._note(marks)
            return closed

    def sending(self, rids: Sequence[RequestId] = (), to: Position = _START) -> object:
        """Note, before they are sent, that the store may soon have these closings, or all up to a place.

        Returns what `unsent` takes where nothing reached the store.
        """
        with self._lock:
            before = self._marks
            end = max((self._ends.get(rid, _START) for rid in rids), default=to)
            settled = self._settled()
            if self._gap is not None and rids and before.beyond_us is None:
                self._doubt()
            elif end > before.sent or settled > before.settled:
                since = before.since_us if settled < before.sent else None
                sent = max(end, before.sent)
                self._note(replace(before, settled=settled, sent=sent, since_us=since or self._clock()))
            return _Sending(before, self._marks)

    def unsent(self, noted: object) -> None:
        """Take back what `sending` noted, unless more was sent meanwhile: nothing reached the store."""
        if not isinstance(noted, _Sending):
            return
        before, after = noted
        with self._lock:
            now = self._marks
            if (now.sent, now.since_us, now.beyond_us) == (after.sent, after.since_us, after.beyond_us):
                self._note(
                    replace(now, sent=before.sent, since_us=before.since_us, beyond_us=before.beyond_us)
                )

    def confirmed(self, rids: Iterable[RequestId]) -> None:
        """Be told that the store has these closings."""
        with self._lock:
            for rid in rids:
                self._unkept.discard(rid)
                if rid in self._ends:
                    self._confirmed[rid] = self._confirmed.get(rid, 0) + 1

    def save(self) -> Marks:
        """Keep how far all is settled by now, and give it."""
        with self._lock:
            settled = self._settled()
            if settled != self._marks.settled:
                self._note(replace(self._marks, settled=settled))
            return self._marks

    def put_aside(self, kept: Kept, reason: str) -> None:
        """Keep a closing that will not be sent, with the reason."""
        packed = pack(kept.closing, kept.made_us, kept.admitted_us)
        if packed:
            self.park(packed, reason)

    def park(self, packed: bytes, reason: str) -> None:
        """Keep a packed closing that will not be sent, with the reason."""
        try:
            park(self._journal.directory, STORE, reason, packed)
        except OSError as error:
            _log.error("a closing could not be parked: %s", error.strerror)

    def _settled(self) -> Position:
        """Give the place before which the store has all: where the last confirmed in a row ends."""
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


def cancel(trail: Trail, stores: Stores, cancellation: Cancel) -> None:
    """Have what a request was charged given back, whatever becomes of this process."""
    packed = trail.packed(cancellation, 0)
    if packed:
        try:
            trail.keep(cancellation.rid, b"", packed)
        except JournalError as failure:
            _log.debug("a cancellation is not journaled, and is sent all the same: %s", failure)
    stores.settler.put(cancellation)
    trail.leave(cancellation.rid)
