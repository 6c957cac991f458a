"""The journal: where a request's usage event is safe before the response ends.

Rule 1: what `append` returned for survives the death of the process (page cache), and after at
        most one sync interval the death of the machine (group fdatasync).
Rule 2: what `append` raised for left nothing, and hides nothing that is appended later.
Rule 3: after a fork the same journal writes segments of the child's own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.durable import Durable
from meter_mw.journal.estates import SPARE, Estate, estate_paths, is_held, owner_of
from meter_mw.journal.pulse import Pulse
from meter_mw.journal.segments import (
    JournalError,
    Position,
    Segment,
    check_size,
    first_header,
    frames_size,
    preallocate,
    segment_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger("meter_mw.journal")


class Journal:
    """Appends events to segments of this process under `directory`, which services do not share.

    Nothing is opened before the first append. `source` is the CloudEvents source of the events;
    only a journal of the same source adopts what this one leaves. `sync_interval` is in seconds.
    `seal` gives the footer of a segment that is finished, in the journal's thread; empty for none.
    """

    def __init__(
        self,
        directory: Path,
        source: str,
        *,
        segment_bytes: int = 8 << 20,
        sync_interval: float = 0.02,
        seal: Callable[[Segment], bytes] | None = None,
    ) -> None:
        self.directory = directory
        self.source = source
        self._seal = seal
        self._segment_bytes = segment_bytes
        self._sync_interval = sync_interval
        self._listeners: list[Callable[[], None]] = []
        self._start_afresh()
        forks.register(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._pulse = self._new_pulse()
        self._durable = Durable()
        self._sequence = 0
        self._reset_files()

    def _reset_files(self) -> None:
        self._estate: Estate | None = None
        self._segment: Segment | None = None
        self._retired: list[Segment] = []
        self._spare: int | None = None
        self._settled: tuple[Estate, Position] | None = None
        self._nameless = False

    def __repr__(self) -> str:
        return f"Journal({str(self.directory)!r}, {self.source!r})"

    def append(self, payload: bytes, closing: bytes = b"") -> Position:
        """Keep one event, the UTF-8 JSON of a CloudEvents object, and its closing; return where they end.

        Each takes at most 1 MiB. The two are kept by one write: there is never one without the other.
        Thread-safe, and quick enough for the request path. Raises `JournalError` when the disk
        does not take it; the next call tries anew.
        """
        check_size("an event", payload)
        if closing:
            check_size("a closing", closing)
        return self._append(payload, closing)

    def note(self, closing: bytes) -> Position:
        """Keep a closing alone, where there is no event; return where it ends. Else like `append`."""
        check_size("a closing", closing)
        return self._append(b"", closing)

    def _append(self, payload: bytes, closing: bytes) -> Position:
        with self._lock:
            segment = self._segment
            if segment is None or not segment.fits(payload, closing):
                segment = self._next_segment(frames_size(payload, closing))
            segment.append(payload, closing)
            self._pulse.nudge()
            return segment.end

    def wait(self, position: Position, timeout: float) -> bool:
        """Have all up to the position on the disk; return whether it is within `timeout` seconds.

        The position is one that this process was given by `append` or `note`. Those who wait at the
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
                segment, retired = self._segment, self._retired
                end = self._tail()
                estate = self._estate if self._nameless else None
                self._retired, self._nameless = [], False
            errors = _attempt_each(*(self._finishing(old) for old in retired))
            if segment is not None:
                errors += _attempt_each(lambda: os.fdatasync(segment.fd))
            if estate is not None:
                errors += _attempt_each(estate.sync)
            if segment is not None and end is not None:
                if errors:
                    # Linux forgets the pages that it failed to write: what follows goes elsewhere.
                    segment.broken = True
                if errors or self._replace_deleted(segment):
                    self._durable.failed(end)
                else:
                    self._durable.reached(end, held=False)
            if errors:
                raise JournalError(f"{self.directory}: {errors[0].strerror}") from errors[0]

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
            segments = self._retired if self._segment is None else [*self._retired, self._segment]
            estate, spare, tail = self._estate, self._spare, self._tail()
            nameless = self._nameless
            settled = estate is not None and tail is not None and self._settled == (estate, tail)
            self._reset_files()
        if spare is not None:
            os.close(spare)
        errors = _attempt_each(*(self._finishing(segment) for segment in segments))
        if estate is not None and nameless:
            errors += _attempt_each(estate.sync)
        if tail is not None and errors:
            self._durable.failed(tail)
        elif tail is not None:
            self._durable.reached(tail, held=False)
        if estate is not None:
            with contextlib.suppress(OSError):
                if settled:
                    estate.remove()
                else:
                    (estate.path / SPARE).unlink(missing_ok=True)
            estate.release()
        for error in errors:
            _log.error("%r: a segment was not closed well: %s", self, error.strerror)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, in the journal's thread, after each sync."""
        self._listeners.append(listener)

    def tail(self) -> tuple[Estate, Position] | None:
        """Return the estate being written and where its last event ends; `None` when there is none."""
        with self._lock:
            end = self._tail()
            return None if self._estate is None or end is None else (self._estate, end)

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
            if estate is self._estate:
                self._settled = (estate, position)

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        segments = self._retired if self._segment is None else [*self._retired, self._segment]
        for fd in (*(segment.fd for segment in segments), self._spare):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)
        if self._estate is not None:
            self._estate.disown()
        self._start_afresh()

    def _new_pulse(self) -> Pulse:
        return Pulse(self._beat, self._sync_interval)

    def _tail(self) -> Position | None:
        return self._segment.end if self._segment else None

    def _finishing(self, segment: Segment) -> Callable[[], None]:
        seal = self._seal
        return lambda: segment.finish(seal(segment) if seal else b"")

    def _next_segment(self, frames: int) -> Segment:
        try:
            if self._estate is None:
                with forks.GATE:
                    self._estate = Estate.create(self.directory, time.time_ns() // 1000)
            segment = self._open_segment(self._estate, frames)
        except OSError as error:
            raise JournalError(f"{self.directory}: no new segment: {error.strerror}") from error
        if self._segment is not None:
            self._retired.append(self._segment)
        self._segment = segment
        self._sequence = segment.header.sequence
        self._nameless = True
        return segment

    def _open_segment(self, estate: Estate, frames: int) -> Segment:
        before, sequence = self._segment, self._sequence + 1
        if before is None:
            header = first_header(self.source, time.time_ns() // 1000, sequence)
        else:
            header = replace(before.header, sequence=sequence, previous=before.chain.hex())
        path = estate.segment_path(header.sequence)
        size = segment_size(self._segment_bytes, frames, header)
        if self._spare is not None and size == self._segment_bytes:
            (estate.path / SPARE).rename(path)
            fd, self._spare = self._spare, None
        else:
            fd = preallocate(path, size)
        try:
            return Segment(fd, size, header)
        except JournalError:
            os.close(fd)
            path.unlink()
            raise

    def _beat(self) -> None:
        try:
            self.sync()
        except JournalError:
            _log.exception("the journal was not synced")
        self._prepare_spare()
        for listener in self._listeners:
            listener()

    def _replace_deleted(self, segment: Segment) -> bool:
        """Have the next append begin anew where someone deleted the files that are being written."""
        if os.fstat(segment.fd).st_nlink:
            return False
        _log.error("%r: the journal was deleted while in use, with what it held", self)
        with self._lock:
            if self._segment is segment and self._estate is not None:
                self._retired.append(segment)
                self._estate.release()
                if self._spare is not None:
                    os.close(self._spare)
                self._segment = self._estate = self._spare = None
        return True

    def _prepare_spare(self) -> None:
        with self._lock:
            estate, segment = self._estate, self._segment
            if estate is None or segment is None or self._spare is not None:
                return
            if segment.offset < segment.size // 2:
                return
        with contextlib.suppress(OSError):
            fd = preallocate(estate.path / SPARE, self._segment_bytes)
            with self._lock:
                self._spare = fd


def _attempt_each(*actions: Callable[[], None]) -> list[OSError]:
    errors: list[OSError] = []
    for action in actions:
        try:
            action()
        except OSError as error:
            errors.append(error)
    return errors
