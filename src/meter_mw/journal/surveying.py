"""A survey: what each estate of a journal holds, and how far each sink is in it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from meter_mw.journal.bookmarks import bookmarks_in
from meter_mw.journal.estates import estate_paths, is_held, opened, owner_of, segment_numbers, segment_path
from meter_mw.journal.following import step_over
from meter_mw.journal.frames import Frame, Kind, scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from meter_mw.journal.segments import Position


class Owner(Enum):
    """Who has an estate."""

    WRITER = "writer"
    """The process that began it, which lives."""

    ADOPTER = "adopter"
    """Another process: its writer is dead."""

    NOBODY = "nobody"
    """The next process that looks adopts it."""


@dataclass(frozen=True, slots=True)
class Survey:
    """An estate. `size` is in bytes, with what is allocated and not written yet.

    `first` and `last` are the times of its events, as these say. `lags` are the events that each sink that
    has begun does not have.
    """

    path: Path
    pid: int
    owner: Owner
    segments: int
    events: int
    size: int
    first: str | None
    last: str | None
    cursors: Mapping[str, Position]
    lags: Mapping[str, int]


def survey(directory: Path) -> Iterator[Survey]:
    """Look at each estate of a journal; safe beside writers. Raises `OSError`."""
    for path in estate_paths(directory):
        with contextlib.suppress(FileNotFoundError):  # delivered, and removed since
            yield _survey(path)


def _survey(path: Path) -> Survey:
    numbers = segment_numbers(path)
    counts = {number: step_over(segment_path(path, number), 0)[0] for number in numbers}
    cursors = {sink: bookmark.cursor for sink, bookmark in bookmarks_in(path).items()}
    return Survey(
        path,
        owner_of(path),
        _owner(path),
        len(numbers),
        sum(counts.values()),
        sum(each.lstat().st_size for each in path.iterdir()),
        next((moment for number in numbers for moment in _times(path, number)), None),
        next((moments[-1] for number in reversed(numbers) if (moments := list(_times(path, number)))), None),
        cursors,
        {sink: _lag(path, counts, cursor) for sink, cursor in cursors.items()},
    )


def _owner(path: Path) -> Owner:
    if not is_held(path):
        return Owner.NOBODY
    try:
        os.kill(owner_of(path), 0)
    except ProcessLookupError:
        return Owner.ADOPTER
    except PermissionError:
        pass  # it lives, as somebody else
    return Owner.WRITER


def _times(estate: Path, number: int) -> Iterator[str]:
    """Give the times of a segment's events, as far as they say one."""
    with contextlib.suppress(FileNotFoundError), opened(segment_path(estate, number)) as fd:
        for found in scan(fd):
            if isinstance(found, Frame) and found.kind is Kind.EVENT:
                moment = field(found.payload, "time")
                if isinstance(moment, str):
                    yield moment


def field(payload: bytes, name: str) -> object:
    """Return a field of an event; None where it has none, or is no event."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return document.get(name) if isinstance(document, dict) else None


def _lag(estate: Path, counts: Mapping[int, int], cursor: Position) -> int:
    ahead = sum(count for number, count in counts.items() if number > cursor.sequence)
    if cursor.sequence in counts:
        ahead += step_over(segment_path(estate, cursor.sequence), cursor.offset)[0]
    return ahead
