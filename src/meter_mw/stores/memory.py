"""The reference store: one process's memory, and the definition of every store's answers."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from meter_mw.model import RequestId
from meter_mw.quota import (
    AT_REST,
    RATE_ID,
    Rate,
    Span,
    arrival,
    booked,
    charged,
    conforms,
    normal,
    recounted,
    standing_window,
    used_in,
)
from meter_mw.stores.port import (
    KEPT_US,
    NO_WINDOWS,
    REMEMBERED_US,
    Admit,
    Booking,
    Cancel,
    Outcome,
    Reading,
    Tally,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.port import Charge, Closing

_T = TypeVar("_T")

_SWEEP_AFTER = 1024
"""Calls between two looks at every subject, or as many as there are subjects if that is more."""


@dataclass(slots=True)
class _Entry:
    """The state of one quota, and when it no longer says anything."""

    state: Span
    until_us: int


@dataclass(slots=True, eq=False)
class _Pending:
    """A rid that was admitted: what it was charged, and in which windows."""

    charges: tuple[tuple[Charge, int], ...]


@dataclass(slots=True)
class _Subject:
    """All that is kept of one subject."""

    seen_us: int = 0
    entries: dict[str, _Entry] = field(default_factory=dict)
    pending: dict[RequestId, tuple[int, _Pending]] = field(default_factory=dict)
    closed: dict[RequestId, tuple[int, Literal["settled", "void"]]] = field(default_factory=dict)

    def close(self, rid: RequestId, fate: Literal["settled", "void"], now_us: int) -> None:
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
        self._subjects: dict[str, _Subject] = {}
        self._lock = threading.Lock()
        self._until_sweep = _SWEEP_AFTER

    def now_us(self) -> int:
        """Read the clock that this store decides by."""
        return self._clock()

    def close(self) -> None:
        """Nothing is held open."""

    def admit(self, command: Admit, *, patience_us: int = 0) -> Tally:  # noqa: ARG002 - it never waits
        """Decide at once; see `Store.admit`."""
        with self._lock:
            now_us = self._clock()
            if now_us > command.not_after_us:
                return Tally(Verdict.LATE, now_us)
            subject = self._subject(command.tag, now_us)
            known = self._remembered(subject, command.rid, now_us)
            if isinstance(known, _Pending):
                readings = tuple(Reading(_standing(subject, each, now_us)) for each in command.charges)
                return Tally(Verdict.ADMITTED, now_us, readings)
            if known is not None:
                return Tally(Verdict.VOID, now_us)
            if not all(_covers(each, now_us) for each in command.charges):
                return Tally(Verdict.REFRESH, now_us)
            return self._decide(subject, command, now_us)

    def _decide(self, subject: _Subject, command: Admit, now_us: int) -> Tally:
        standings = [_standing(subject, each, now_us) for each in command.charges]
        fits = [_fits(state, each, now_us) for state, each in zip(standings, command.charges, strict=True)]
        if not all(fits):
            return Tally(Verdict.DENIED, now_us, tuple(map(Reading, standings, fits)))
        windows: list[int] = []
        after: list[Reading] = []
        for standing, charge in zip(standings, command.charges, strict=True):
            state = _after(standing, charge, now_us)
            if charge.take:
                _write(subject, charge, state)
            windows.append(0 if isinstance(charge.quota, Rate) else state.whole)
            after.append(Reading(state))
        if any(charge.take for charge in command.charges):
            _prune(subject, now_us)
        pending = _Pending(tuple(zip(command.charges, windows, strict=True)))
        subject.pending[command.rid] = (now_us, pending)
        return Tally(Verdict.ADMITTED, now_us, tuple(after))

    def settle(self, closings: Sequence[Closing]) -> Sequence[Outcome]:
        """Apply each at most once; see `Store.settle`."""
        with self._lock:
            return tuple(self._close(each, self._clock()) for each in closings)

    def _close(self, closing: Closing, now_us: int) -> Outcome:
        subject = self._subject(closing.tag, now_us)
        known = self._remembered(subject, closing.rid, now_us)
        if known == "settled":
            return Outcome.ALREADY
        if known == "void":
            return Outcome.VOID
        if isinstance(closing, Cancel):
            subject.close(closing.rid, "void", now_us)
            if known is None:
                return Outcome.RECOVERED
            _book(
                subject,
                [(Booking(charge, 0, window), charge.take) for charge, window in known.charges],
                now_us,
            )
            return Outcome.APPLIED
        subject.close(closing.rid, "settled", now_us)
        _book(
            subject, [(each, 0 if known is None else each.charge.take) for each in closing.bookings], now_us
        )
        return Outcome.RECOVERED if known is None else Outcome.APPLIED

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything; see `Store.peek`."""
        with self._lock:
            now_us = self._clock()
            if not all(_covers(each, now_us) for each in charges):
                return Tally(Verdict.REFRESH, now_us)
            subject = _as_of(self._subjects.get(tag) or _Subject(), now_us)
            standings = [_standing(subject, each, now_us) for each in charges]
            fits = [_fits(state, each, now_us) for state, each in zip(standings, charges, strict=True)]
            readings = tuple(map(Reading, standings, fits))
            return Tally(Verdict.ADMITTED if all(fits) else Verdict.DENIED, now_us, readings)

    def _subject(self, tag: str, now_us: int) -> _Subject:
        self._until_sweep -= 1
        if self._until_sweep < 0:
            self._sweep(now_us)
        subject = self._subjects.get(tag)
        if subject is None:
            subject = self._subjects[tag] = _Subject()
        if now_us < subject.seen_us:
            _rewind(subject, now_us)
        return subject

    def _remembered(
        self, subject: _Subject, rid: RequestId, now_us: int
    ) -> _Pending | Literal["settled", "void"] | None:
        _forget(subject.pending, now_us - self._remembered_us)
        _forget(subject.closed, now_us - self._closed_us)
        return subject.pending.get(rid, (0, None))[1] or subject.closed.get(rid, (0, None))[1]

    def _sweep(self, now_us: int) -> None:
        for subject in self._subjects.values():
            _prune(subject, now_us)
            self._remembered(subject, RequestId(""), now_us)
        self._subjects = {
            tag: subject
            for tag, subject in self._subjects.items()
            if subject.entries or subject.pending or subject.closed
        }
        self._until_sweep = max(_SWEEP_AFTER, len(self._subjects))


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


def _rewind(subject: _Subject, now_us: int) -> None:
    """Take the rates' arrivals back with a clock that went back (Rule 4)."""
    back_us = subject.seen_us - now_us
    for id_, entry in subject.entries.items():
        if id_.startswith(RATE_ID):
            whole = entry.state.whole - back_us
            subject.entries[id_] = _Entry(Span(whole, entry.state.part), whole)
    subject.seen_us = now_us


def _as_of(subject: _Subject, now_us: int) -> _Subject:
    """Give the subject as a charge would find it now, without touching it."""
    if now_us >= subject.seen_us:
        return subject
    subject = _Subject(subject.seen_us, dict(subject.entries))
    _rewind(subject, now_us)
    return subject


def _standing(subject: _Subject, charge: Charge, now_us: int) -> Span:
    """The state of one quota as it counts now."""
    entry = subject.entries.get(charge.id)
    state = AT_REST if entry is None else entry.state
    if isinstance(charge.quota, Rate):
        return arrival(state, charge.quota, now_us)
    opening, _ = standing_window(state.whole, charge.windows or NO_WINDOWS, now_us)
    return Span(opening, used_in(state, opening))


def _fits(state: Span, charge: Charge, now_us: int) -> bool:
    if isinstance(charge.quota, Rate):
        return conforms(state, charge.quota, now_us, charge.need)
    return state.part + charge.need <= charge.quota.units


def _after(state: Span, charge: Charge, now_us: int) -> Span:
    if isinstance(charge.quota, Rate):
        return charged(state, charge.quota, now_us, charge.take)
    return Span(state.whole, state.part + charge.take)


def _write(subject: _Subject, charge: Charge, state: Span) -> None:
    """Keep a state until it says nothing more: its burst is back, or its window closed."""
    until_us = state.whole
    if charge.windows is not None:
        _, until_us = standing_window(state.whole, charge.windows, state.whole)
        before = subject.entries.get(charge.id)
        if before is not None and before.state.whole == state.whole:
            until_us = max(until_us, before.until_us)
    subject.entries[charge.id] = _Entry(state, until_us)


def _book(subject: _Subject, bookings: Sequence[tuple[Booking, int]], now_us: int) -> None:
    """Put what each booking is in place of what was taken; one that is right already changes nothing."""
    changed = False
    for booking, taken in bookings:
        charge = booking.charge
        entry = subject.entries.get(charge.id)
        before = AT_REST if entry is None else entry.state
        if booking.actual == taken:
            continue
        if isinstance(charge.quota, Rate):
            state = normal(before, charge.quota)
            state = booked(state, charge.quota, now_us, taken=taken, actual=booking.actual)
        else:
            state = recounted(before, booking.window_us, taken=taken, actual=booking.actual)
            if state == before:
                continue
        _write(subject, charge, state)
        changed = True
    if changed:
        _prune(subject, now_us)


def _prune(subject: _Subject, now_us: int) -> None:
    subject.seen_us = now_us
    for id_ in [id_ for id_, entry in subject.entries.items() if entry.until_us + KEPT_US < now_us]:
        del subject.entries[id_]
