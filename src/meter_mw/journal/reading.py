"""Reading back: a run of events for the forwarder, the closings for the store, all events for tools."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.journal.estates import estate_paths, opened, segment_numbers, segment_path
from meter_mw.journal.frames import Flaw, Frame, Gap, Kind, scan, sound
from meter_mw.journal.segments import Position

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Entry(NamedTuple):
    """An intact event: its payload, and where in its segment it begins and ends."""

    path: Path
    sequence: int
    start: int
    end: int
    payload: bytes

    @property
    def position(self) -> Position:
        """Where it begins."""
        return Position(self.sequence, self.start)

    @property
    def after(self) -> Position:
        """Where it ends."""
        return Position(self.sequence, self.end)


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a segment that holds no intact event, or one whose place is in doubt."""

    path: Path
    flaw: Flaw
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.path}: bytes {self.start} to {self.end}: {self.flaw.value}"


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive events of an estate, what was damaged between them, and where the next one begins."""

    entries: tuple[Entry, ...]
    damages: tuple[Damage, ...]
    after: Position


def read_journal(directory: Path) -> Iterator[Entry | Damage]:
    """Read every event that a journal's directory holds, and report what is damaged.

    Delivered events are among them until their segment is deleted. Safe beside writers: an event
    that is being written shows as a torn end.
    """
    for estate in estate_paths(directory):
        yield from read_estate(estate)


def read_run(estate: Path, start: Position, stop: Position | None, *, count: int, size: int) -> Run:
    """Read up to `count` events, or a little over `size` bytes of them, from a position on.

    `stop` is where the process that writes the estate stands, `None` when it writes no more.
    A segment that is a symbolic link is reported and passed over. Raises `OSError` for one that
    cannot be read now.
    """
    entries: list[Entry] = []
    damages: list[Damage] = []
    at = start
    for sequence in segment_numbers(estate):
        if sequence < at.sequence or (stop is not None and sequence > stop.sequence):
            continue
        last = stop if stop is not None and sequence == stop.sequence else None
        if sequence > at.sequence:
            at = Position(sequence, 0)
        found, damaged = _read_segment(
            segment_path(estate, sequence), at, last, count=count - len(entries), size=size
        )
        entries += found
        damages += damaged
        size -= _size_of(found)
        if len(entries) == count or size <= 0:
            return Run(tuple(entries), tuple(damages), entries[-1].after)
        at = last or Position(sequence + 1, 0)
    return Run(tuple(entries), tuple(damages), at)


def read_closings(estate: Path, start: Position | None = None) -> Iterator[tuple[Position, bytes]]:
    """Read the intact closings of an estate from a position on, each with the place where it ends.

    That is the position that `Journal.append` returned, and where a later reading goes on.
    What is damaged is passed over. Raises `OSError` for a segment that cannot be read now.
    """
    begin = start or Position(0, 0)
    for sequence in segment_numbers(estate):
        if sequence < begin.sequence:
            continue
        offset = begin.offset if sequence == begin.sequence else 0
        for found in _scan_segment(segment_path(estate, sequence), offset, None, None):
            if isinstance(found, Frame) and found.kind is Kind.CLOSING:
                yield Position(sequence, found.end), found.payload


def read_estate(estate: Path) -> Iterator[Entry | Damage]:
    """Read every event of one estate; see `read_journal`."""
    chain: bytes | None = None
    before: int | None = None
    for sequence in segment_numbers(estate):
        path = segment_path(estate, sequence)
        if before is not None and sequence != before + 1:
            yield Damage(path, Flaw.MISSING, 0, 0)
            chain = None
        before, begun = sequence, False
        for found in _scan_segment(path, 0, None, chain):
            begun = True
            if isinstance(found, Gap):
                chain = None
                yield Damage(path, found.flaw, found.start, found.end)
            elif found.kind is not Kind.SEAL:  # the next segment follows from the frame before that
                chain = None if found.kind is Kind.LOST else found.chain
                if found.kind is Kind.EVENT:
                    yield Entry(path, sequence, found.start, found.end, found.payload)
        if not begun:  # deleted since it was listed, as delivered
            chain = None


def _read_segment(
    path: Path, at: Position, stop: Position | None, *, count: int, size: int
) -> tuple[list[Entry], list[Damage]]:
    """Read a segment's events: quickly while all is sound, then with care."""
    end = None if stop is None else stop.offset
    entries, offset, chain = _read_sound(path, at, end, count=count, size=size)
    damages: list[Damage] = []
    size -= _size_of(entries)
    if len(entries) == count or size <= 0:
        return entries, damages
    for found in _scan_segment(path, offset, end, chain):
        if isinstance(found, Gap):
            damages.append(Damage(path, found.flaw, found.start, found.end))
        elif found.kind is Kind.EVENT:
            entries.append(Entry(path, at.sequence, found.start, found.end, found.payload))
            size -= len(found.payload)
            if len(entries) == count or size <= 0:
                break
    return entries, damages


def _read_sound(
    path: Path, at: Position, end: int | None, *, count: int, size: int
) -> tuple[list[Entry], int, bytes | None]:
    try:
        with opened(path) as fd:
            events, offset, chain = sound(fd, at.offset, end, count=count, size=size)
    except OSError:  # told by the scan that follows
        return [], at.offset, None
    return [Entry(path, at.sequence, *each) for each in events], offset, chain


def _size_of(entries: list[Entry]) -> int:
    return sum([len(entry.payload) for entry in entries])


def _scan_segment(path: Path, start: int, stop: int | None, chain: bytes | None) -> Iterator[Frame | Gap]:
    try:
        with opened(path) as fd:
            yield from scan(fd, start=start, stop=stop, chain=chain)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        yield Gap(Flaw.REFUSED, 0, 0)
