"""The reference store: one process's memory, and the definition of every store's answers."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from meter_mw.model import RequestId
from meter_mw.quota import AT_REST, OnDeny
from meter_mw.stores.holder import Holder
from meter_mw.stores.port import (
    REMEMBERED_US,
    Admit,
    Closed,
    Note,
    Outcome,
    Reading,
    Settle,
    Tally,
    TopUp,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from meter_mw.stores.holder import Ask, Taken
    from meter_mw.stores.port import Booking, Charge, Closing, StoreUnavailable

_T = TypeVar("_T")

_SWEEP_AFTER = 1024
"""Calls between two looks at every subject, or as many as there are subjects if that is more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A rid that was admitted: what it was charged for good, and what its answer said."""

    taken: dict[str, Taken]
    said: dict[str, Reading]


@dataclass(frozen=True, slots=True)
class _Fate:
    """What became of a rid in the end, and what its answer said."""

    outcome: Outcome
    notes: tuple[Note, ...] = ()
    fits: tuple[bool, ...] = ()


@dataclass(slots=True)
class _Requests:
    """What became of the requests of one subject."""

    pending: dict[RequestId, tuple[int, _Pending]] = field(default_factory=dict)
    closed: dict[RequestId, tuple[int, _Fate]] = field(default_factory=dict)

    def close(self, rid: RequestId, fate: _Fate, now_us: int) -> None:
        """Note what became of a rid."""
        self.pending.pop(rid, None)
        self.closed[rid] = (now_us, fate)


def system_clock_us() -> int:
    """Read the machine's clock: µs since 1970."""
    return time.time_ns() // 1_000


class MemoryStore:
    """Quota state in this process alone: for one process, for tests, and as the law for other stores.

    A rid is remembered for `remembered_us`; for `closed_us`, where that is given, once it is settled or void.
    """

    def __init__(
        self,
        clock: Callable[[], int] = system_clock_us,
        *,
        remembered_us: int = REMEMBERED_US,
        closed_us: int | None = None,
    ) -> None:
        self._clock = clock
        self._remembered_us = remembered_us
        self._closed_us = remembered_us if closed_us is None else closed_us
        self._holders: dict[str, Holder] = {}
        self._requests: dict[str, _Requests] = {}
        self._lock = threading.Lock()
        self._until_sweep = _SWEEP_AFTER

    def now_us(self) -> int:
        """Read the clock that this store decides by."""
        return self._clock()

    def close(self) -> None:
        """Nothing is held open."""

    def admit(self, command: Admit | TopUp, *, patience_us: int = 0) -> Tally:  # noqa: ARG002 - it never waits
        """Decide at once; see `Store.admit`."""
        with self._lock:
            now_us = self._clock()
            if now_us > command.not_after_us:
                return Tally(Verdict.LATE, now_us)
            holders = self._held_by(command.tag, command.charges, now_us)
            tally = self._answer(command, holders, now_us)
            for holder in holders.values():
                holder.rest(now_us)
            return tally

    def admit_many(
        self, commands: Sequence[Admit | TopUp], *, patience_us: int = 0
    ) -> Sequence[Tally | StoreUnavailable]:
        """Decide one after the other; see `Store.admit_many`."""
        return [self.admit(each, patience_us=patience_us) for each in commands]

    def _answer(self, command: Admit | TopUp, holders: dict[str, Holder], now_us: int) -> Tally:
        known = self._remembered(command.tag, command.rid, now_us)
        if isinstance(known, _Fate):
            return _void(known, command, holders, now_us)
        if known is not None and isinstance(command, Admit):
            return Tally(Verdict.ADMITTED, now_us, _again(known, command, holders, now_us))
        if not all(_covers(each, now_us) for each in command.charges):
            return Tally(Verdict.REFRESH, now_us)
        if isinstance(command, TopUp):
            return self._top_up(command, holders, now_us)
        return self._decide(command, holders, now_us)

    def _decide(self, command: Admit, holders: dict[str, Holder], now_us: int) -> Tally:
        asks = [
            holders[each.holder or command.tag].ask(each, now_us, command.rid, command.after)
            for each in command.charges
        ]
        if not all(ask.fits for ask in asks if not ask.charge.shadow):
            return self._denied(command, asks, holders, now_us)
        shadows = all(ask.fits for ask in asks)
        until_us = now_us + command.lease_us
        readings: list[Reading] = []
        pending = _Pending({}, {})
        for ask in asks:
            if ask.charge.shadow and not shadows:
                readings.append(ask.reading())
                continue
            holder = holders[ask.charge.holder or command.tag]
            reading, taken = holder.charge(ask, command.rid, until_us, command.after)
            readings.append(reading)
            pending.said[ask.charge.id] = reading
            if not ask.charge.held and (taken.units or taken.span != AT_REST):
                pending.taken[ask.charge.id] = taken
        self._of(command.tag).pending[command.rid] = (now_us, pending)
        return Tally(Verdict.ADMITTED, now_us, tuple(readings))

    def _denied(self, command: Admit, asks: Sequence[Ask], holders: dict[str, Holder], now_us: int) -> Tally:
        if command.on_deny is OnDeny.NONE:
            return Tally(Verdict.DENIED, now_us, tuple(ask.reading() for ask in asks))
        readings = []
        for ask in asks:
            counts = not ask.charge.shadow and (command.on_deny is OnDeny.ALL or not ask.fits)
            holder = holders[ask.charge.holder or command.tag]
            readings.append(holder.penalise(ask, now_us) if counts else ask.reading())
        fate = _Fate(Outcome.VOID, fits=tuple(ask.fits for ask in asks))
        self._of(command.tag).close(command.rid, fate, now_us)
        return Tally(Verdict.DENIED, now_us, tuple(readings))

    def _top_up(self, command: TopUp, holders: dict[str, Holder], now_us: int) -> Tally:
        asks = [
            holders[each.holder or command.tag].ask(each, now_us, command.rid) for each in command.charges
        ]
        if not all(ask.fits for ask in asks if not ask.charge.shadow):
            return Tally(Verdict.DENIED, now_us, tuple(ask.reading() for ask in asks))
        until_us = now_us + command.lease_us
        readings = []
        for ask in asks:
            if ask.fits:
                holder = holders[ask.charge.holder or command.tag]
                reading, _ = holder.charge(ask, command.rid, until_us, None)
                readings.append(reading)
            else:
                readings.append(ask.reading())
        return Tally(Verdict.ADMITTED, now_us, tuple(readings))

    def settle(self, closings: Sequence[Closing], *, patience_us: int = 0) -> Sequence[Closed]:  # noqa: ARG002
        """Apply each at most once; see `Store.settle`."""
        with self._lock:
            return tuple(self._close(each, self._clock()) for each in closings)

    def _close(self, closing: Closing, now_us: int) -> Closed:
        bookings = closing.bookings
        holders = self._held_by(closing.tag, (each.charge for each in bookings), now_us)
        closed = self._book(closing, bookings, holders, now_us)
        for holder in holders.values():
            holder.rest(now_us)
        return closed

    def _book(
        self, closing: Closing, bookings: Sequence[Booking], holders: dict[str, Holder], now_us: int
    ) -> Closed:
        known = self._remembered(closing.tag, closing.rid, now_us)
        if isinstance(known, _Fate):
            return Closed(known.outcome, known.notes)
        notes = []
        for index, booking in enumerate(bookings):
            holder = holders[booking.charge.holder or closing.tag]
            taken = None if known is None else known.taken.get(booking.charge.id)
            note = holder.settle(closing.rid, booking, taken, now_us)
            if note is not None and isinstance(closing, Settle):
                notes.append(note._replace(booking=index))
        ended = Outcome.ALREADY if isinstance(closing, Settle) else Outcome.VOID
        self._of(closing.tag).close(closing.rid, _Fate(ended, tuple(notes)), now_us)
        return Closed(Outcome.RECOVERED if known is None else Outcome.APPLIED, tuple(notes))

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything; see `Store.peek`."""
        with self._lock:
            now_us = self._clock()
            if not all(_covers(each, now_us) for each in charges):
                return Tally(Verdict.REFRESH, now_us)
            asks = []
            for each in charges:
                holder = self._holders.get(each.holder or tag, Holder()).copy()
                holder.wake(now_us)
                asks.append(holder.ask(each, now_us))
            fits = all(ask.fits for ask in asks if not ask.charge.shadow)
            readings = tuple(ask.reading() for ask in asks)
            return Tally(Verdict.ADMITTED if fits else Verdict.DENIED, now_us, readings)

    def _held_by(self, tag: str, charges: Iterable[Charge], now_us: int) -> dict[str, Holder]:
        """Give the holders that a command is about, as of now."""
        self._until_sweep -= 1
        if self._until_sweep < 0:
            self._sweep(now_us)
        holders = {}
        for name in {tag, *(each.holder or tag for each in charges)}:
            holder = self._holders.get(name)
            if holder is None:
                holder = self._holders[name] = Holder()
            holder.wake(now_us)
            holders[name] = holder
        return holders

    def _of(self, tag: str) -> _Requests:
        return self._requests.setdefault(tag, _Requests())

    def _remembered(self, tag: str, rid: RequestId, now_us: int) -> _Pending | _Fate | None:
        requests = self._requests.get(tag)
        if requests is None:
            return None
        _forget(requests.pending, now_us - self._remembered_us)
        _forget(requests.closed, now_us - self._closed_us)
        return requests.pending.get(rid, (0, None))[1] or requests.closed.get(rid, (0, None))[1]

    def _sweep(self, now_us: int) -> None:
        for holder in self._holders.values():
            holder.wake(now_us)
            holder.rest(now_us)
            holder.forget(now_us)
        self._holders = {
            name: each for name, each in self._holders.items() if each.rates or each.counts or each.holds
        }
        for tag in self._requests:
            self._remembered(tag, RequestId(""), now_us)
        self._requests = {tag: each for tag, each in self._requests.items() if each.pending or each.closed}
        self._until_sweep = max(_SWEEP_AFTER, len(self._holders))


def _void(known: _Fate, command: Admit | TopUp, holders: dict[str, Holder], now_us: int) -> Tally:
    """Answer a command whose request is over; one that was denied and counted is denied again."""
    if not known.fits or isinstance(command, TopUp):
        return Tally(Verdict.VOID, now_us)
    readings = [
        holders[each.holder or command.tag].ask(each, now_us).reading()._replace(fits=fit)
        for each, fit in zip(command.charges, known.fits, strict=True)
    ]
    return Tally(Verdict.DENIED, now_us, tuple(readings))


def _again(known: _Pending, command: Admit, holders: dict[str, Holder], now_us: int) -> tuple[Reading, ...]:
    """Answer a repeated command: how its quotas stand, and what the first answer said."""
    readings = []
    for each in command.charges:
        reading = holders[each.holder or command.tag].ask(each, now_us).reading()
        said = known.said.get(each.id)
        if said is None:
            readings.append(reading)
        else:
            readings.append(
                reading._replace(fits=True, granted=said.granted, overage=said.overage, warned=said.warned)
            )
    return tuple(readings)


def _forget(rids: dict[RequestId, tuple[int, _T]], until_us: int) -> None:
    """Drop the rids that were noted by then; they stand in the order of their notes."""
    while rids:
        oldest, (since_us, _) = next(iter(rids.items()))
        if since_us > until_us:
            return
        del rids[oldest]


def _covers(charge: Charge, now_us: int) -> bool:
    """Whether the windows that were sent reach around the store's now."""
    return charge.windows is None or charge.windows[0] <= now_us < charge.windows[-1]
