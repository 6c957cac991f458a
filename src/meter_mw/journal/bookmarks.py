"""A bookmark: where a sink stands in an estate, and what of it is in hand.

It is written twice a batch, before the sink is sent anything and after it has answered, so that
`kill -9` at any moment leaves it known what may be at the destination. Two files take turns:
a write that is torn leaves the one before it.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

import msgspec

from meter_mw.journal.estates import opened, sync_names
from meter_mw.journal.segments import Position

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST = 1 << 24
_BEGINNING = Position(0, 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

_Place: TypeAlias = tuple[int, int]
_Record: TypeAlias = tuple[int, _Place, list[list[tuple[_Place, _Place, float | None]]]]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive events in hand, from where the first begins to where the last ends.

    `sent` is when they were first sent with an unknown outcome, in seconds since 1970.
    """

    start: Position
    end: Position
    sent: float | None


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Up to where events were handed out, and the consignments that are in hand, each by its spans."""

    read_to: Position = _BEGINNING
    consignments: tuple[tuple[Span, ...], ...] = ()

    @property
    def cursor(self) -> Position:
        """The place before which the sink needs nothing."""
        return min((spans[0].start for spans in self.consignments), default=self.read_to)


class BookmarkFile:
    """The bookmark of one sink in one estate, on the disk.

    With `durable` each write is on the disk itself before it returns, for destinations that forget ids.
    """

    def __init__(self, estate: Path, sink: str, *, durable: bool = False) -> None:
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", sink)[:48]
        name = f"cursor-{readable}-{sha256(sink.encode()).hexdigest()[:12]}"
        self._paths = (estate / f"{name}.0", estate / f"{name}.1")
        self._durable = durable
        self._serial = 0

    def load(self) -> Bookmark:
        """Return the bookmark that was saved last; the beginning when none is known."""
        self._serial, bookmark = max((_read(path) for path in self._paths), key=lambda found: found[0])
        return bookmark

    def save(self, bookmark: Bookmark) -> None:
        """Remember a bookmark; raises `OSError`."""
        self._serial += 1
        text = _encode(self._serial, bookmark)
        fd = os.open(self._paths[self._serial % 2], _WRITE, 0o600)
        try:
            is_new = self._durable and not os.fstat(fd).st_size
            if os.pwrite(fd, text, 0) != len(text):
                raise OSError(errno.ENOSPC, "no room for all of it", str(self._paths[0]))
            if self._durable:
                os.fdatasync(fd)
            if is_new:
                sync_names(self._paths[0].parent)
        finally:
            os.close(fd)


def bookmarks_in(estate: Path) -> dict[str, Bookmark]:
    """Return the bookmarks that an estate has, by as much of the sinks' names as their files tell."""
    files = sorted(path for path in estate.glob("cursor-*.?") if path.suffix in (".0", ".1"))
    found: dict[str, tuple[int, Bookmark]] = {}
    for path in files:
        name = path.stem.removeprefix("cursor-").rpartition("-")[0]
        found[name] = max(found.get(name, (0, Bookmark())), _read(path), key=lambda each: each[0])
    return {name: bookmark for name, (_, bookmark) in found.items()}


def _encode(serial: int, bookmark: Bookmark) -> bytes:
    consignments = [
        [(_place(span.start), _place(span.end), span.sent) for span in spans]
        for spans in bookmark.consignments
    ]
    text = msgspec.json.encode((serial, _place(bookmark.read_to), consignments))
    return b"%08x %s\n" % (crc32(text), text)


def _read(path: Path) -> tuple[int, Bookmark]:
    """Return a file's serial and bookmark; serial 0 and the beginning for one that is not whole."""
    try:
        with opened(path) as fd:
            line = os.read(fd, _LONGEST).partition(b"\n")[0]
        checksum, _, text = line.partition(b" ")
        if int(checksum, 16) != crc32(text):
            return 0, Bookmark()
        serial, read_to, consignments = msgspec.json.decode(text, type=_Record)
    except (OSError, ValueError, msgspec.MsgspecError):
        return 0, Bookmark()
    spans = tuple(
        tuple(Span(Position(*start), Position(*end), sent) for start, end, sent in each)
        for each in consignments
    )
    return serial, Bookmark(Position(*read_to), spans)


def _place(position: Position) -> _Place:
    return position.sequence, position.offset
