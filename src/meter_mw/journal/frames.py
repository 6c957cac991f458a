"""The bytes of a segment: frames of a payload with its length, checksum and running hash.

A frame is `magic (4) | length (4) | crc32 (4) | running hash (16) | payload`, little-endian.
The checksum covers every other byte of the frame. The running hash is the first 16 bytes of
SHA-256 over the previous frame's running hash and the payload, so a frame that was changed,
removed or put in between shows. It is not keyed: it shows tampering to whoever kept an earlier hash.
"""

from __future__ import annotations

import os
import struct
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PAYLOAD = 1 << 20
"""The largest payload in bytes."""

CHAIN_START = bytes(16)
"""The running hash before the first frame of a process."""

_PREFIX = struct.Struct("<4sI")
_HEAD = struct.Struct("<4sII16s")
_WINDOW = 1 << 18

# 0xF5 and 0xFF occur in no UTF-8 text (RFC 3629, section 1), so an event never holds a magic.
_MAGIC_START = b"\xf5M"


class Kind(bytes, Enum):
    """What a frame carries, by its magic."""

    SEGMENT = b"\xf5MS\xff"
    EVENT = b"\xf5ME\xff"
    CLOSING = b"\xf5MC\xff"
    """What became of a request, for the store: read back when the store has lost it."""
    SEAL = b"\xf5MF\xff"
    """The footer of a finished segment. The next segment follows from the frame before it."""
    LOST = b"\xf5ML\xff"
    """What a repair put where nothing intact was: what lies behind it is linked to nothing."""


_KINDS = {kind.value: kind for kind in Kind}
_LINKED = frozenset(kind.value for kind in Kind if kind is not Kind.LOST)


class Flaw(Enum):
    """What is wrong with a stretch of a journal."""

    TORN = "the end is torn: nothing intact follows"
    BROKEN = "a frame is broken"
    UNLINKED = "the running hash does not follow from the frame before"
    MISSING = "segments between two others are missing"
    REFUSED = "not a regular file"


class Frame(NamedTuple):
    """An intact frame and where it lies in its file."""

    kind: Kind
    start: int
    end: int
    chain: bytes
    payload: bytes


class Gap(NamedTuple):
    """A stretch of a file that is not an intact frame, or whose frame is not linked."""

    flaw: Flaw
    start: int
    end: int


def frame_size(payload_length: int) -> int:
    """Return the bytes that a payload takes in a segment."""
    return _HEAD.size + payload_length


def link(chain: bytes, payload: bytes) -> bytes:
    """Return the running hash after the payload."""
    return sha256(chain + payload).digest()[:16]


def encode(kind: Kind, chain: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """Return the frame of the payload, and the running hash after it."""
    after = sha256(chain + payload).digest()[:16]
    checksum = crc32(payload, crc32(after, crc32(_PREFIX.pack(kind, len(payload)))))
    return _HEAD.pack(kind, len(payload), checksum, after) + payload, after


def scan(
    fd: int, *, start: int = 0, stop: int | None = None, chain: bytes | None = None
) -> Iterator[Frame | Gap]:
    """Read the frames between two offsets of an open segment, and report what lies between them.

    A tail of zeros is the end of the log. `chain` is the running hash before `start`; without it
    the first frame's link is not checked, nor the first one's after a broken frame.
    """
    tape = _Tape(fd, stop)
    at = start
    while at < tape.stop:
        for frame in _intact(tape, at):
            if frame.kind is Kind.LOST:
                at, chain = frame.end, None
                yield frame
                continue
            if chain is not None and link(chain, frame.payload) != frame.chain:
                yield Gap(Flaw.UNLINKED, frame.start, frame.end)
            yield frame
            at, chain = frame.end, frame.chain
        if at >= tape.stop:
            return
        following = _resume(tape, at)
        if following is None:
            if not tape.is_blank(at):
                yield Gap(Flaw.TORN, at, tape.stop)
            return
        yield Gap(Flaw.BROKEN, at, following)
        at, chain = following, None


def sound(
    fd: int, start: int, stop: int | None, *, count: int, size: int
) -> tuple[list[tuple[int, int, bytes]], int, bytes | None]:
    """Read events in one go while every frame is intact and linked; `scan` goes on where that ends.

    Returns where each begins and ends, with its payload: at most `count`, or a little over `size` bytes of
    them; and the place where the reading ended, with the running hash there.
    """
    events: list[tuple[int, int, bytes]] = []
    head, event = _HEAD.size, Kind.EVENT.value
    at, chain, stop = start, None, os.fstat(fd).st_size if stop is None else stop
    while at < stop:
        data = os.pread(fd, min(_WINDOW, stop - at), at)
        begin, there = 0, len(data)
        while begin + head <= there:
            magic, length, checksum, after = _HEAD.unpack_from(data, begin)
            end = begin + head + length
            payload = data[begin + head : end]
            if (
                end > there
                or magic not in _LINKED
                or length > MAX_PAYLOAD
                or crc32(data[begin + 12 : end], crc32(data[begin : begin + 8])) != checksum
                or (chain is not None and sha256(chain + payload).digest()[:16] != after)
            ):
                break
            chain = after
            if magic == event:
                events.append((at + begin, at + end, payload))
                size -= length
                if len(events) == count or size <= 0:
                    return events, at + end, chain
            begin = end
        at += begin
        if not begin:
            break
    return events, at, chain


def _intact(tape: _Tape, at: int, wanted: int = _WINDOW) -> Iterator[Frame]:
    """Read frame after frame from an offset on, to the first place where there is none.

    `wanted` are the bytes that are looked at first.
    """
    while at < tape.stop:
        data = tape.read(at, wanted)
        begin, size = 0, len(data)
        while begin + _HEAD.size <= size:
            magic, length, checksum, chain = _HEAD.unpack_from(data, begin)
            kind = _KINDS.get(magic)
            if kind is None or length > MAX_PAYLOAD:
                return
            end = begin + _HEAD.size + length
            if end > size:
                break
            if crc32(data[begin + 12 : end], crc32(data[begin : begin + 8])) != checksum:
                return
            yield Frame(kind, at + begin, at + end, chain, data[begin + _HEAD.size : end])
            begin = end
        if at + size >= tape.stop or size < wanted:
            return  # the rest is no whole frame, or the file was cut meanwhile
        wanted = _WINDOW if begin else 2 * wanted
        at += begin


def _resume(tape: _Tape, at: int) -> int | None:
    candidate = tape.find(_MAGIC_START, at + 1)
    while candidate is not None and next(_intact(tape, candidate, _HEAD.size), None) is None:
        candidate = tape.find(_MAGIC_START, candidate + 1)
    return candidate


class _Tape:
    """A file seen through a moving window, so that a segment is never held whole."""

    def __init__(self, fd: int, stop: int | None) -> None:
        size = os.fstat(fd).st_size
        self.stop = size if stop is None else min(stop, size)
        self._fd = fd
        self._base = 0
        self._data = b""

    def read(self, at: int, size: int) -> bytes:
        """Return up to `size` bytes at an offset, fewer only at the stop."""
        end = at + size if at + size < self.stop else max(at, self.stop)
        if at < self._base or end > self._base + len(self._data):
            self._data = os.pread(self._fd, min(max(size, _WINDOW), self.stop - at), at)
            self._base = at
        return self._data[at - self._base : end - self._base]

    def find(self, needle: bytes, at: int) -> int | None:
        """Return the offset of the needle's next occurrence."""
        while at < self.stop:
            window = self.read(at, _WINDOW)
            found = window.find(needle)
            if found >= 0:
                return at + found
            if len(window) < len(needle):
                return None
            at += len(window) - len(needle) + 1
        return None

    def is_blank(self, at: int) -> bool:
        """Whether nothing but zeros follows."""
        while at < self.stop:
            window = self.read(at, _WINDOW)
            if not window or window.strip(b"\0"):
                return not window
            at += len(window)
        return True
