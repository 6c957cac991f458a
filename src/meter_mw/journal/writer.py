"""The segments that this process writes: opens the next one when it is needed, and keeps a spare ready."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw import forks
from meter_mw.journal.estates import SPARE, Estate
from meter_mw.journal.segments import (
    JournalError,
    Position,
    Segment,
    first_header,
    frames_size,
    preallocate,
    segment_size,
)
from meter_mw.journal.syncing import Unsynced

if TYPE_CHECKING:
    from pathlib import Path

    from meter_mw.journal.space import Space


class Writer:
    """Writes one frame after another into segments of this process; used by one thread at a time.

    Segments are numbered through, whatever becomes of their directories, so that a position is never
    met twice.
    """

    def __init__(self, directory: Path, source: str, segment_bytes: int, space: Space) -> None:
        self._directory = directory
        self._source = source
        self._segment_bytes = space.segment_size(segment_bytes)
        self._space = space
        self._sequence = 0
        self._drop()

    def _drop(self) -> None:
        self.estate: Estate | None = None
        self._segment: Segment | None = None
        self._retired: list[Segment] = []
        self._spare: int | None = None
        self._nameless = False

    @property
    def end(self) -> Position | None:
        """Where the last frame ends; `None` when nothing is being written."""
        return self._segment.end if self._segment else None

    def append(self, payload: bytes, closing: bytes) -> Position:
        """Write an event, a closing or both after the last, and return where they end.

        Raises `JournalError` when the disk does not take them; the next call tries anew.
        """
        end = None if self._segment is None else self._segment.append(payload, closing)
        while end is None:
            end = self._next_segment(frames_size(payload, closing)).append(payload, closing)
        return end

    def prove(self) -> None:
        """Have a segment that takes events, or raise `JournalError`."""
        if self._segment is None or self._segment.broken:
            self._next_segment(0)

    def take_unsynced(self) -> Unsynced:
        """Hand over what is not on the disk yet."""
        unsynced = Unsynced(self.estate, self._segment, self._retired, self._nameless)
        self._retired, self._nameless = [], False
        return unsynced

    def leave(self) -> Unsynced:
        """Hand over all there is; what follows begins anew."""
        left = self.take_unsynced()
        self._close_spare()
        self._drop()
        return left

    def wants_spare(self) -> Path | None:
        """Return where a spare segment is to be made; `None` when none is needed yet."""
        segment = self._segment
        if self.estate is None or segment is None or self._spare is not None:
            return None
        return self.estate.path / SPARE if segment.offset >= segment.size // 2 else None

    def make_spare(self, path: Path) -> int:
        """Make a spare segment; raises `OSError` or `JournalError`. Takes long, and touches nothing else."""
        self._space.take(self._segment_bytes)
        return preallocate(path, self._segment_bytes)

    def keep_spare(self, path: Path, fd: int) -> None:
        """Keep the spare for later, where its estate is still written to."""
        if self.estate is not None and self.estate.path == path.parent:
            self._spare = fd
        else:
            os.close(fd)

    def abandon(self, segment: Segment) -> bool:
        """Begin anew where someone deleted the files that are being written; return whether they are."""
        if self._segment is not segment or self.estate is None:
            return False
        self.estate.release()
        self._close_spare()
        retired = [*self._retired, segment]
        self._drop()
        self._retired = retired
        return True

    def disown(self) -> None:
        """Drop, in a child, what belongs to the parent."""
        for segment in self._segments():
            with contextlib.suppress(OSError):
                os.close(segment.fd)
        with contextlib.suppress(OSError):
            self._close_spare()
        if self.estate is not None:
            self.estate.disown()

    def _segments(self) -> list[Segment]:
        return self._retired if self._segment is None else [*self._retired, self._segment]

    def _close_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)

    def _next_segment(self, frames: int) -> Segment:
        try:
            if self.estate is None:
                with forks.GATE:
                    self.estate = Estate.create(self._directory, time.time_ns() // 1000)
            segment = self._open_segment(self.estate, frames)
        except OSError as error:
            raise JournalError(f"no new segment: {error.strerror}") from error
        if self._segment is not None:
            self._retired.append(self._segment)
        self._segment = segment
        self._sequence = segment.header.sequence
        self._nameless = True
        return segment

    def _open_segment(self, estate: Estate, frames: int) -> Segment:
        before, sequence = self._segment, self._sequence + 1
        if before is None:
            header = first_header(self._source, time.time_ns() // 1000, sequence)
        else:
            header = replace(before.header, sequence=sequence, previous=before.chain.hex())
        path = estate.segment_path(header.sequence)
        size = segment_size(self._segment_bytes, frames, header)
        if self._spare is not None and size == self._segment_bytes:
            (estate.path / SPARE).rename(path)
            fd, self._spare = self._spare, None
        else:
            self._space.take(size)
            fd = preallocate(path, size)
        try:
            return Segment(fd, size, header)
        except JournalError:
            os.close(fd)
            path.unlink()
            raise
