"""Following a living writer: its events up to the last whole frame, and how many lie ahead.

Rule 1: a writer finishes each frame before the next one, and each segment before the next one. What
        lies before a frame that was seen whole is therefore whole at a second look, or damaged.
Rule 2: what follows the last whole frame of the last segment is being written: no damage.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING

from meter_mw.journal.estates import opened, segment_numbers, segment_path
from meter_mw.journal.frames import Kind, frame_size
from meter_mw.journal.reading import Run, read_run
from meter_mw.journal.segments import Position

if TYPE_CHECKING:
    from pathlib import Path

_END = 1 << 62
_WINDOW = 1 << 18
_PREFIX = struct.Struct("<4sI")
_OVERHEAD = frame_size(0)
_KINDS = frozenset(kind.value for kind in Kind)


def read_living(estate: Path, start: Position, *, count: int, size: int) -> Run:
    """Read like `read_run`, from an estate whose writer goes on; raises `OSError`."""
    numbers = segment_numbers(estate)
    if not numbers:
        return Run((), (), start)
    last = numbers[-1]
    begin = start.offset if start.sequence == last else 0
    stop = Position(last, step_over(segment_path(estate, last), begin)[1])
    run = read_run(estate, start, stop, count=count, size=size)
    if not run.damages and (run.after > start or _is_blank(segment_path(estate, last), begin)):
        return run
    # Damaged, or being written: which of the two shows by whether a whole frame follows.
    run = read_run(estate, start, Position(last, _END), count=count, size=size)
    after = run.after if run.after.offset != _END else _last_whole(run, start, last)
    return read_run(estate, start, after, count=count, size=size) if after > start else Run((), (), start)


def tail_of(estate: Path) -> Position:
    """Return where the last frame of an estate ends now; raises `OSError`."""
    numbers = segment_numbers(estate)
    if not numbers:
        return Position(0, 0)
    return Position(numbers[-1], step_over(segment_path(estate, numbers[-1]), 0)[1])


def step_over(path: Path, begin: int, stop: int = _END) -> tuple[int, int]:
    """Return how many events lie between two offsets of a segment, and where the last frame ends.

    Goes by the lengths that the frames declare, from the frame at `begin` to the first place where none
    begins. (0, `begin`) for a file that is not there. Raises `OSError`.
    """
    with contextlib.suppress(FileNotFoundError), opened(path) as fd:
        size = min(stop, os.fstat(fd).st_size)
        if size > begin:
            return _step_over(fd, begin, size)
    return 0, begin


def _step_over(fd: int, begin: int, size: int) -> tuple[int, int]:
    # Not mapped: the writer may cut the file meanwhile, and a page behind its end kills who looks at it.
    events, at, event = 0, begin, Kind.EVENT.value
    base, data = begin, b""
    while at + _OVERHEAD <= size:
        if at - base + _PREFIX.size > len(data):
            base, data = at, os.pread(fd, _WINDOW, at)
            if len(data) < _PREFIX.size:
                break
        magic, length = _PREFIX.unpack_from(data, at - base)
        following = at + _OVERHEAD + length
        if magic not in _KINDS or following > size:
            break
        events += magic == event
        at = following
    return events, at


def _last_whole(run: Run, start: Position, last: int) -> Position:
    """Return where the last event of the last segment ends."""
    if run.entries and run.entries[-1].sequence == last:
        return run.entries[-1].after
    return max(start, Position(last, 0))


def _is_blank(path: Path, at: int) -> bool:
    with contextlib.suppress(FileNotFoundError), opened(path) as fd:
        return not os.pread(fd, 4, at).strip(b"\0")
    return True
