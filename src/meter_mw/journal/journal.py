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
from meter_mw.journal.estates import SPARE, Estate, estate_paths, is_held, owner_of
from meter_mw.journal.pulse import Pulse
from meter_mw.journal.segments import (
    JournalError,
    Position,
    Segment,
    check_payload,
    first_header,
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
    """

    def __init__(
        self, directory: Path, source: str, *, segment_bytes: int = 8 << 20, sync_interval: float = 0.02
    ) -> None:
        self.directory = directory
        self.source = source
        self._segment_bytes = segment_bytes
        self._sync_interval = sync_interval
        self._listeners: list[Callable[[], None]] = []
        self._start_afresh()
        forks.register(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._pulse = self._new_pulse()
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

    def append(self, payload: bytes) -> None:
        """Keep one event, the UTF-8 JSON of a CloudEvents object of at most 1 MiB.

        Thread-safe, and quick enough for the request path. Raises `JournalError` when the disk
        does not take it; the next call tries anew.
        """
        check_payload(payload)
        with self._lock:
            segment = self._segment
            if segment is None or not segment.fits(payload):
                segment = self._next_segment(payload)
            segment.append(payload)
            self._pulse.nudge()

    def sync(self) -> None:
        """Have all that was appended on the disk; raises `JournalError`."""
        with self._syncing:
            with self._lock:
                segment, retired = self._segment, self._retired
                estate = self._estate if self._nameless else None
                self._retired, self._nameless = [], False
            errors = _attempt_each(*(old.finish for old in retired))
            if segment is not None:
                errors += _attempt_each(lambda: os.fdatasync(segment.fd))
            if estate is not None:
                errors += _attempt_each(estate.sync)
            self._replace_deleted(segment)
            if errors:
                # Linux forgets the pages that it failed to write: what follows goes elsewhere.
                if segment is not None:
                    segment.broken = True
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
            settled = estate is not None and tail is not None and self._settled == (estate, tail)
            self._reset_files()
        if spare is not None:
            os.close(spare)
        errors = _attempt_each(*(segment.finish for segment in segments))
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
        return Position(self._segment.header.sequence, self._segment.offset) if self._segment else None

    def _next_segment(self, payload: bytes) -> Segment:
        try:
            if self._estate is None:
                with forks.GATE:
                    self._estate = Estate.create(self.directory, time.time_ns() // 1000)
            segment = self._open_segment(self._estate, payload)
        except OSError as error:
            raise JournalError(f"{self.directory}: no new segment: {error.strerror}") from error
        if self._segment is not None:
            self._retired.append(self._segment)
        self._segment = segment
        self._nameless = True
        return segment

    def _open_segment(self, estate: Estate, payload: bytes) -> Segment:
        before = self._segment
        if before is None:
            header = first_header(self.source, time.time_ns() // 1000)
        else:
            sequence = before.header.sequence + 1
            header = replace(before.header, sequence=sequence, previous=before.chain.hex())
        path = estate.segment_path(header.sequence)
        size = segment_size(self._segment_bytes, payload, header)
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

    def _replace_deleted(self, segment: Segment | None) -> None:
        """Have the next append begin anew where someone deleted the files that are being written."""
        if segment is None or os.fstat(segment.fd).st_nlink:
            return
        _log.error("%r: the journal was deleted while in use, with what it held", self)
        with self._lock:
            if self._segment is segment and self._estate is not None:
                self._retired.append(segment)
                self._estate.release()
                if self._spare is not None:
                    os.close(self._spare)
                self._segment = self._estate = self._spare = None

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
