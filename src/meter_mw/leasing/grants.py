"""Slices as the store knows them: an ordinary admission of several requests, and an ordinary settlement.

Rule 1: a slice is in the register from before the store is asked until its settlement is in the journal, so
that a successor of this process can settle it with what was used. Where it cannot be entered, there is none.
Rule 2: a slice whose admission got no answer is cancelled, and the cancellation wins.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meter_mw.journal import JournalError
from meter_mw.leasing.lease import Grant, settled
from meter_mw.leasing.sizes import told
from meter_mw.quota import Cap
from meter_mw.rids import new_rid
from meter_mw.stores.kept import pack
from meter_mw.stores.port import Admit, Booking, Cancel, NotAsked, Settle, Tally, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.model import RequestId
    from meter_mw.stores.access import Stores
    from meter_mw.stores.port import Charge, Closing, StoreUnavailable

_log = logging.getLogger(__name__)

PATIENCE_US = 250_000
"""How long the store may take for a slice (µs); nobody waits for it."""

FENCE = 2
"""Patiences until the store refuses a slice as late."""


class Trail(Protocol):
    """Where a successor of this process finds its leases, and the journal.

    `leaving` is called before what is entered is left to others, though this process lives.
    """

    leaving: Callable[[], None] | None

    def lend(self, rid: RequestId, packed: bytes) -> memoryview | None:
        """Enter a lease, with what one of its requests comes to; give where its counts go."""

    def leave(self, rid: RequestId) -> None:
        """Cross a lease out."""

    def packed(self, closing: Closing | None, admitted_us: int) -> bytes:
        """Give a closing as it is kept in the journal; nothing where it is not."""

    def keep(self, rid: RequestId, event: bytes, packed: bytes) -> object:
        """Put a closing into the journal; raises `JournalError`."""


class Asked(NamedTuple):
    """What is asked of the store: `slices` are the charges of so many `requests`, `one` those of each."""

    tag: str
    one: tuple[Charge, ...]
    slices: tuple[Charge, ...]
    requests: int


class _Entered(NamedTuple):
    """A command that is in the register, where it has to be."""

    asked: Asked
    command: Admit
    counts: memoryview | None


class Grants:
    """Has slices granted by the store, and ended. `keeps` says that the store outlives this process."""

    def __init__(self, stores: Stores, trail: Trail, *, keeps: bool) -> None:
        self._stores = stores
        self._trail = trail
        self._keeps = keeps

    def now_us(self) -> int:
        """Give the best guess at the store's time."""
        return self._stores.blocking.now_us()

    def ask(self, asked: Sequence[Asked]) -> list[Grant | None]:
        """Ask the store for all of them in one go; give what it granted, None for what it did not."""
        now_us = self.now_us()
        entered = [self._entered(each, now_us) for each in asked]
        commands = [each.command for each in entered if each is not None]
        if not commands:
            return [None] * len(asked)
        answers = iter(self._stores.blocking.admit_many(commands, patience_us=PATIENCE_US))
        return [None if each is None else self._answered(each, next(answers)) for each in entered]

    def _entered(self, asked: Asked, now_us: int) -> _Entered | None:
        rid = new_rid(now_us)
        counts = None
        if self._keeps and any(isinstance(each.quota, Cap) for each in asked.one):
            bookings = tuple(Booking(told(each), each.take, _opening(each, now_us)) for each in asked.one)
            counts = self._trail.lend(rid, pack(Settle(rid, asked.tag, bookings), now_us, now_us))
            if counts is None:
                return None
        command = Admit(rid, asked.tag, now_us + FENCE * PATIENCE_US, asked.slices)
        return _Entered(asked, command, counts)

    def _answered(self, entered: _Entered, answer: Tally | StoreUnavailable) -> Grant | None:
        asked, command, counts = entered
        if isinstance(answer, Tally) and answer.verdict is Verdict.ADMITTED:
            granted = (asked.one, asked.requests, answer.readings, answer.now_us)
            return self._placed(Grant(command.rid, asked.tag, *granted, counts))
        if isinstance(answer, NotAsked | Tally):
            self._trail.leave(command.rid)
        else:
            self.end(Cancel(command.rid, asked.tag, command.charges), 0)
        return None

    def _placed(self, grant: Grant) -> Grant:
        """Enter a grant anew where the store has counted it in another window than was thought."""
        thought = [_opening(each, grant.admitted_us) for each in grant.charges if isinstance(each.quota, Cap)]
        if grant.counts is None or thought == windows_of(grant):
            return grant
        packed = pack(settled(grant, 1, 1), grant.admitted_us, grant.admitted_us)
        return grant._replace(counts=self._trail.lend(grant.rid, packed))

    def end(self, closing: Closing, admitted_us: int) -> None:
        """Have a slice ended: in the journal first, then in the store, then out of the register."""
        packed = self._trail.packed(closing, admitted_us)
        if packed:
            try:
                self._trail.keep(closing.rid, b"", packed)
            except JournalError as failure:
                _log.debug("the end of a lease is not journaled, and is sent all the same: %s", failure)
        self._stores.settler.put(closing, admitted_us=admitted_us)
        self._trail.leave(closing.rid)


def windows_of(grant: Grant) -> list[int]:
    """Give where the windows opened that the caps of a grant were counted in."""
    return [
        reading.state.whole
        for charge, reading in zip(grant.charges, grant.readings, strict=True)
        if isinstance(charge.quota, Cap)
    ]


def _opening(charge: Charge, now_us: int) -> int:
    """Give where the window opens that counts now; 0 where there is none."""
    return max((each for each in charge.windows or () if each <= now_us), default=0)
