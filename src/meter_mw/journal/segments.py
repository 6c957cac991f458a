"""A segment: one preallocated file of frames, written by one process."""

from __future__ import annotations

import errno
import json
import logging
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.journal.frames import CHAIN_START, MAX_PAYLOAD, Kind, encode, frame_size
from meter_mw.model import MeterError

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("meter_mw.journal")

_EVENT, _CLOSING = Kind.EVENT, Kind.CLOSING  # looked up once: a member of an enum is not cheap to find
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class JournalError(MeterError):
    """An event could not be written to the journal, and nothing of it was kept."""


class Position(NamedTuple):
    """A place in the segments of one process: `offset` bytes into segment number `sequence`."""

    sequence: int
    offset: int

    @property
    def is_held(self) -> bool:
        """Whether what ends here waits in memory for the disk, or did when it was given its place."""
        return self >= HELD


HELD = Position(2**63 - 1, 0)
"""Behind all that is written: here begin the places of events that have to wait in memory."""


def held(number: int) -> Position:
    """Return the place of the `number`th event that had to wait in memory, the first being 1."""
    return Position(HELD.sequence, number)


@dataclass(frozen=True, slots=True)
class Header:
    """The first frame of a segment: who writes it, and what it follows.

    `previous` is the running hash at the end of the segment before, in hex.
    """

    source: str
    pid: int
    started_us: int
    sequence: int
    previous: str

    def encode(self) -> bytes:
        """Return the header as JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Header:
        """Read a header, or raise `ValueError`."""
        try:
            return cls(**json.loads(payload))
        except TypeError as error:
            raise ValueError("not a segment's header") from error


def preallocate(path: Path, size: int) -> int:
    """Create a file of zeros that only its owner may read, and return its descriptor.

    Raises `OSError`, and leaves no file then.
    """
    fd = os.open(path, _CREATE, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        os.close(fd)
        path.unlink()
        raise
    return fd


class Segment:
    """A segment that is being written, at an offset that this process keeps.

    The space was allocated before, so an append changes no metadata and a group fdatasync is short.
    """

    __slots__ = ("_sequence", "broken", "chain", "fd", "header", "offset", "size")

    def __init__(self, fd: int, size: int, header: Header) -> None:
        self.fd = fd
        self.size = size
        self.header = header
        self._sequence = header.sequence
        self.chain = bytes.fromhex(header.previous)
        self.offset = 0
        self.broken = False
        self._write(*encode(Kind.SEGMENT, self.chain, header.encode()))

    @property
    def end(self) -> Position:
        """Where the last frame ends."""
        return Position(self._sequence, self.offset)

    def append(self, payload: bytes, closing: bytes) -> Position | None:
        """Write an event, its closing, or both as one, and return where they end; None where they do not fit.

        Raises `JournalError`, and leaves no trace then.
        """
        frames, chain = encode(_EVENT, self.chain, payload) if payload else (b"", self.chain)
        if closing:
            second, chain = encode(_CLOSING, chain, closing)
            frames += second
        if self.broken or self.offset + len(frames) > self.size:
            return None
        self._write(frames, chain)
        return Position(self._sequence, self.offset)

    def finish(self) -> None:
        """Give back the unused space, have the rest on the disk, and close; raises `OSError`."""
        try:
            os.ftruncate(self.fd, self.offset)
            os.fdatasync(self.fd)
        finally:
            os.close(self.fd)

    def _write(self, frames: bytes, chain: bytes) -> None:
        try:
            written = os.pwrite(self.fd, frames, self.offset)
        except OSError as error:
            self._undo(len(frames))
            raise JournalError(f"segment {self._sequence}: {error.strerror}") from error
        if written != len(frames):
            self._undo(written)
            raise JournalError(f"segment {self._sequence}: {written} of {len(frames)} bytes were taken")
        self.chain = chain
        self.offset += written

    def _undo(self, length: int) -> None:
        """Zero what a failed write left; where that fails too, nothing more is written here."""
        try:
            blanked = os.pwrite(self.fd, bytes(length), self.offset)
        except OSError as error:
            if error.errno not in (errno.EFBIG, errno.ENOSPC):
                _log.error("segment %d cannot be repaired: %s", self.header.sequence, error.strerror)
            blanked = 0
        self.broken = blanked < length


def frames_size(payload: bytes, closing: bytes) -> int:
    """Return the bytes that an event and its closing take in a segment; either may be empty."""
    return sum(frame_size(len(each)) for each in (payload, closing) if each)


def segment_size(wanted: int, frames: int, header: Header) -> int:
    """Return the size of a segment that has room for its header and `frames` bytes."""
    return max(wanted, frame_size(len(header.encode())) + frames)


def check_sizes(payload: bytes, closing: bytes) -> None:
    """Raise `JournalError` for what no segment takes; of an event and a closing one may be missing."""
    for what, text in (("an event", payload), ("a closing", closing)):
        if len(text) > MAX_PAYLOAD or not (payload or closing):
            raise JournalError(f"{what} takes 1 to {MAX_PAYLOAD} bytes, this one {len(text)}")


def first_header(source: str, started_us: int, sequence: int) -> Header:
    """Return the header of an estate's first segment.

    Numbers go on from estate to estate of a process, so that a position is never met twice.
    """
    return Header(source, os.getpid(), started_us, sequence, CHAIN_START.hex())
