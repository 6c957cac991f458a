"""The journal: where a request's usage event is safe before the response ends.

Rule 1: what `append` returned for survives the death of the process (page cache), and after at
        most one sync interval the death of the machine (group fdatasync).
Rule 2: while the disk takes nothing, events wait in memory, within a bound and in order; they have
        a place of their own then (`Position.is_held`), and rule 1 begins when they are written.
Rule 3: what `append` raised for left nothing, and hides nothing that is appended later.
Rule 4: after a fork the same journal writes segments of the child's own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.durable import Durable
from meter_mw.journal.estates import estate_paths, is_held, owner_of
from meter_mw.journal.frames import MAX_PAYLOAD
from meter_mw.journal.overflow import Overflow
from meter_mw.journal.pulse import Pulse
from meter_mw.journal.segments import JournalError, check_sizes
from meter_mw.journal.space import Space
from meter_mw.journal.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meter_mw.journal.estates import Estate
    from meter_mw.journal.sealing import Sealing
    from meter_mw.journal.segments import Position, Segment

_log = logging.getLogger("meter_mw.journal")

OVERFLOW = 4 << 20
"""Bytes of events that wait in memory while the disk takes none."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between two attempts to write what waits."""

_STEP = 256
"""Events that are written before others may append again."""


class Journal:
    """Appends events to segments of this process under `directory`, which services do not share.

    Nothing is opened before the first append. `source` is the CloudEvents source of the events;
    only a journal of the same source adopts what this one leaves. `sync_interval` is in seconds.
    `max_bytes` bounds the directory, with what other processes keep there. `overflow_bytes` are kept in
    memory while the disk takes nothing. `sealing` is told of segments that are finished, in the journal's
    thread, after all that waits for the disk.
    """

    def __init__(
        self,
        directory: Path,
        source: str,
        *,
        segment_bytes: int = 8 << 20,
        sync_interval: float = 0.02,
        max_bytes: int | None = None,
        overflow_bytes: int = OVERFLOW,
        sealing: Sealing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = directory
        self.source = source
        self._segment_bytes = segment_bytes
        self._sync_interval = sync_interval
        self._max_bytes = max_bytes
        self._overflow_bytes = overflow_bytes
        self.sealing = sealing
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []
        self._start_afresh()
        forks.register(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._pulse = self._new_pulse()
        self._durable = Durable()
        self._space = Space(self.directory, self._max_bytes, self._clock)
        self._writer = Writer(self.directory, self.source, self._segment_bytes, self._space)
        self._overflow = Overflow(self._overflow_bytes, self._clock, repr(self))
        self._settled: tuple[Estate, Position] | None = None
        self._pause, self._retry_at = _FIRST_PAUSE, self._clock()

    def __repr__(self) -> str:
        return f"Journal({str(self.directory)!r}, {self.source!r})"

    @property
    def takes_events(self) -> bool:
        """Whether the disk takes events, and there is room for those of new requests. Costs one look."""
        return self._overflow.trouble is None

    @property
    def is_pressed(self) -> bool:
        """Whether the bound is near: some of what every sink has should go, whatever its retention."""
        return self._space.is_pressed

    @property
    def lost(self) -> int:
        """How many events and closings the overflow had no room for, since this process began."""
        return self._overflow.lost

    def append(self, payload: bytes, closing: bytes = b"") -> Position:
        """Keep one event, the UTF-8 JSON of a CloudEvents object, and its closing; return where they end.

        Each takes at most 1 MiB; a closing may stand alone. The two are kept by one write: there is never
        one without the other. Thread-safe, and quick enough for the request path. Raises `JournalFull` when
        neither the disk nor the overflow takes it, `JournalError` for what is too large.
        """
        if not (payload or closing) or len(payload) > MAX_PAYLOAD or len(closing) > MAX_PAYLOAD:
            check_sizes(payload, closing)
        with self._lock:
            if self._overflow.trouble is None:
                try:
                    end = self._writer.append(payload, closing)
                except JournalError as error:
                    self._overflow.begin(str(error))
                else:
                    self._pulse.nudge()
                    return end
            self._pulse.nudge()
            return self._overflow.hold(payload, closing)

    def wait(self, position: Position, timeout: float) -> bool:
        """Have all up to the position on the disk; return whether it is within `timeout` seconds.

        The position is one that this process was given by `append`. Those who wait at the
        same time share one sync.
        """
        known: list[bool] = []
        told = threading.Lock()
        told.acquire()

        def tell(durable: bool) -> None:  # noqa: FBT001 - the answer itself
            known.append(durable)
            told.release()

        self.when_synced(position, tell)
        return told.acquire(timeout=max(0.0, timeout)) and known[0]

    def when_synced(self, position: Position, tell: Callable[[bool], None]) -> None:
        """Have `tell` called with whether all up to the position is on the disk; see `wait`.

        The journal's thread calls it, or this one where the answer is known.
        """
        if not self._durable.when(position, tell) and not self._pulse.hurry():
            with contextlib.suppress(JournalError):
                self.sync()

    def sync(self) -> None:
        """Have all that was appended on the disk; raises `JournalError`."""
        with self._syncing:
            with self._lock:
                unsynced = self._writer.take_unsynced()
                end, written = self._writer.end, self._overflow.written
            errors = unsynced.sync()
            gone = unsynced.segment is not None and self._is_deleted(unsynced.segment)
            if end is not None:
                (self._durable.failed if errors or gone else self._durable.reached)(end, written)
        if self.sealing is not None:
            unsynced.seal(self.sealing)
        if errors:
            raise JournalError(f"not synced: {errors[0].strerror}") from errors[0]

    def close(self, timeout: float = 1.0) -> None:
        """Sync, and leave the segments to whichever process adopts them; delete them if all is settled.

        Waits at most `timeout` seconds for a sync under way. A later append begins new segments.
        """
        with self._lock:
            pulse, self._pulse = self._pulse, self._new_pulse()
        if not pulse.close(timeout):
            _log.error("the journal's thread is still syncing; its segments stay as they are")
            return
        with self._syncing, self._lock:
            self._give_up_overflow()
            end, written = self._writer.end, self._overflow.written
            is_settled = self._settled is not None and self._settled == (self._writer.estate, end)
            left = self._writer.leave()
        errors = left.leave(self.sealing, remove=is_settled)
        if end is not None:
            (self._durable.failed if errors else self._durable.reached)(end, written)
        for error in errors:
            _log.error("%r: a segment was not closed well: %s", self, error.strerror)

    def _give_up_overflow(self) -> None:
        """Write what waits in memory, this last time."""
        with contextlib.suppress(JournalError):
            while self._write_first():
                pass
        if self._overflow:
            _log.error("%r: %d events were in memory alone, and are lost", self, len(self._overflow))
            self._overflow.give_up()
            self._overflow.end()
        elif told := self._overflow.end():
            _log.warning(told)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, in the journal's thread, after each sync."""
        self._listeners.append(listener)

    def tail(self) -> tuple[Estate, Position] | None:
        """Return the estate being written and where its last event ends; `None` when there is none."""
        with self._lock:
            estate, end = self._writer.estate, self._writer.end
            return None if estate is None or end is None else (estate, end)

    def home(self) -> Path | None:
        """Return the directory of this process' estate, made if need be; `None` where the disk takes none."""
        with self._lock:
            with contextlib.suppress(JournalError):
                self._writer.prove()
            return self._writer.estate.path if self._writer.estate else None

    def neighbours(self) -> int:
        """Return how many estates other processes write to now."""
        try:
            paths = estate_paths(self.directory)
        except OSError:
            return 0
        return sum(is_held(path) for path in paths if owner_of(path) != os.getpid())

    def settle(self, estate: Estate, position: Position) -> None:
        """Be told that no event before the position is needed any more."""
        with self._lock:
            if estate is self._writer.estate:
                self._settled = (estate, position)

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        self._writer.disown()
        self._start_afresh()

    def _new_pulse(self) -> Pulse:
        return Pulse(self._beat, self._sync_interval)

    def _beat(self) -> float | None:
        """Sync, and see to what comes after; return the seconds to the next attempt where one is due."""
        self._space.look()
        takes = self._write_overflow()
        try:
            self.sync()
        except JournalError as error:
            takes = False
            self._failed(error)
        if takes:
            self._end_trouble()
        self._prepare_spare()
        if complaint := self._overflow.complaint():
            _log.error(complaint)
        for listener in self._listeners:
            listener()
        return None if self._overflow.trouble is None else self._pause

    def _write_overflow(self) -> bool:
        """Write what waits in memory; return whether the disk takes all, and there is room for more."""
        if self._space.is_full:
            with self._lock:
                self._overflow.begin(str(self._space))
        if self._overflow.trouble is None or self._clock() < self._retry_at:
            return False
        try:
            wrote = True
            while wrote:
                with self._lock:
                    self._writer.prove()
                    wrote = all(self._write_first() for _ in range(_STEP))
        except JournalError as error:
            self._failed(error)
            return False
        return not self._space.is_full

    def _write_first(self) -> bool:
        """Write what has waited longest in memory; return whether there was anything."""
        first = self._overflow.first()
        if first is not None:
            self._writer.append(*first)
            self._overflow.wrote_first()
        return first is not None

    def _failed(self, error: JournalError) -> None:
        with self._lock:
            self._overflow.begin(str(error))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._retry_at = self._clock() + self._pause

    def _end_trouble(self) -> None:
        with self._lock:
            if self._overflow:  # more came meanwhile
                return
            told = self._overflow.end()
            self._pause = _FIRST_PAUSE
        if told:
            _log.warning(told)

    def _is_deleted(self, segment: Segment) -> bool:
        """Have the next append begin anew where someone deleted the files that are being written.

        A segment that was written to its end meanwhile may be gone because every sink has it.
        """
        if os.fstat(segment.fd).st_nlink:
            return False
        with self._lock:
            is_deleted = self._writer.abandon(segment)
        if is_deleted:
            _log.error("%r: the journal was deleted while in use, with what it held", self)
        return is_deleted

    def _prepare_spare(self) -> None:
        with self._lock:
            path = self._writer.wants_spare()
        if path is not None:
            with contextlib.suppress(OSError, JournalError):
                fd = self._writer.make_spare(path)
                with self._lock:
                    self._writer.keep_spare(path, fd)
