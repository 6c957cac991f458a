"""Repairing an estate that no process holds: what is intact stays where it is, and reads without a flaw.

Rule 1: every intact frame keeps its place, as cursors and the store's recovery go by places.
Rule 2: where nothing intact was, a frame of that length says so, at an end a short one; what follows is
        linked to nothing.
Rule 3: the damaged file is moved aside, never deleted. What shows a frame or a segment removed stays shown.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.journal.estates import Estate, opened, segment_numbers, segment_path
from meter_mw.journal.frames import CHAIN_START, MAX_PAYLOAD, Flaw, Gap, Kind, encode, frame_size, scan
from meter_mw.journal.reading import Damage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ASIDE = "damaged"
"""The directory beside the estates to which damaged files are moved."""

_NEW = "repaired"


class Busy(Exception):
    """A process holds the estate."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A segment that was repaired: what was not intact in it, and where the damaged file is now."""

    damages: tuple[Damage, ...]
    aside: Path


def repair(path: Path) -> list[Repair]:
    """Repair the segments of an estate; raises `Busy` or `OSError`, and then has repaired those before."""
    estate = Estate.lock(path)
    if estate is None:
        raise Busy
    try:
        found = [_repaired(estate, sequence) for sequence in segment_numbers(path)]
    finally:
        estate.release()
    return [each for each in found if each is not None]


def _repaired(estate: Estate, sequence: int) -> Repair | None:
    path = segment_path(estate.path, sequence)
    if path.is_symlink() or not path.is_file():
        aside = _aside(path)
        path.rename(aside)
        return Repair((Damage(path, Flaw.REFUSED, 0, 0),), aside)
    with opened(path) as fd:
        gaps = [each for each in scan(fd) if isinstance(each, Gap) and _is_mendable(each)]
        if not gaps:
            return None
        found = os.fstat(fd)
        content = os.pread(fd, found.st_size, 0)
    new = estate.path / _NEW
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, _mended(content, gaps))
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))  # retention goes by it
        os.fsync(fd)
    finally:
        os.close(fd)
    aside = _aside(path)
    os.link(path, aside)
    new.rename(path)
    estate.sync()
    return Repair(tuple(Damage(path, gap.flaw, gap.start, gap.end) for gap in gaps), aside)


def _is_mendable(gap: Gap) -> bool:
    return gap.flaw is Flaw.TORN or (gap.flaw is Flaw.BROKEN and gap.end - gap.start >= frame_size(0))


def _write(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _aside(path: Path) -> Path:
    """Return a place for a damaged file that nothing has."""
    home = path.parent.parent / ASIDE / path.parent.name
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = 1
    while os.path.lexists(home / f"{path.name}.{number}"):
        number += 1
    return home / f"{path.name}.{number}"


def _mended(content: bytes, gaps: Sequence[Gap]) -> bytes:
    """Give a segment's content with its gaps filled; what is torn at its end is cut."""
    mended = bytearray(content)
    for gap in gaps:
        if gap.flaw is Flaw.TORN:
            mended[gap.start :] = encode(Kind.LOST, CHAIN_START, _note(gap.end - gap.start))[0]
        else:
            mended[gap.start : gap.end] = _filling(gap.end - gap.start)
    return bytes(mended)


def _filling(size: int) -> bytes:
    """Give frames of a size altogether, at least that of an empty one."""
    filling = b""
    least = frame_size(0)
    while len(filling) < size:
        room = size - len(filling)
        length = min(room - least, MAX_PAYLOAD)
        if 0 < room - frame_size(length) < least:  # leave room for a frame, or nothing
            length -= least
        note = _note(size).ljust(length)
        filling += encode(Kind.LOST, CHAIN_START, note if len(note) == length else bytes(length))[0]
    return filling


def _note(lost: int) -> bytes:
    return json.dumps({"lost": lost}).encode()
