"""The register of one process: what it has on its way, and how far its closings are settled, in its estate.

Rule 1: a mapped file, so that an entry costs no system call and outlives `kill -9` in the page cache. Its
room is allocated beforehand: a full disk refuses a register, and never a write to it.
Rule 2: an entry counts from the moment its first byte says so, which is written last, and no more from the
moment that is cleared, which is done first. There are no halves.
Rule 3: who has a register holds a flock on it; the kernel drops that with its process, so a register that can
be locked is of a dead one. In a child it belongs to the parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from meter_mw.recovery.marks import MARKS_SIZE, Marks, read_marks, write_marks
from meter_mw.stores.canary import Written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meter_mw.model import RequestId

_log = logging.getLogger(__name__)

NAME = "register"
"""The file in an estate."""

SLOT = 1024
"""Bytes of an entry."""

SLOTS = 1024
"""Entries that a register has room for at first, and by which it grows."""

MOST_PARTS = 64
"""How often it grows at most."""

_PAGE = mmap.PAGESIZE
_PART = SLOT * SLOTS
_FREE, _ASKED, _SERVED, _LENT = 0, 1, 2, 3
_PASSED = struct.Struct("<QQ")
_COUNTS = struct.Struct("=QQ")  # as a `memoryview` writes them: each whole, in one store
_PASSED_AT = 8
_HEAD = struct.Struct("<HI")
_BEGINNING = struct.Struct("<16xHI")
"""What an entry begins with: that nothing has passed yet, and the head of its text."""

_TEXT_AT = 24
_MARKS_AT = (0, 256)
_BEATS_AT = (1024, 2560)
_MOST_BEATS = 1024
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """A request, or a lease, that its process had on its way when it died.

    `packed` is the cancellation of what a request was charged; `facts` are what its event would say, where it
    was handed to the app and is to be billed; bytes that had passed are as of the last look. Of a lease
    `packed` is the settlement of one of its requests; so many were `used`, and `refunded` of them give caps
    back what they took.
    """

    at: int
    packed: bytes
    facts: bytes
    request_bytes: int = 0
    response_bytes: int = 0
    lent: bool = False
    used: int = 0
    refunded: int = 0


class Register:
    """A register that this process has locked. Safe for threads; marks are set by one at a time."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._page: mmap.mmap | None = None
        self._parts: list[mmap.mmap] = []
        self._free: list[tuple[mmap.mmap, int]] = []
        self._taken: dict[RequestId, tuple[mmap.mmap, int]] = {}
        self._serial = 0
        self._is_full = False
        self._growing = threading.Lock()

    @classmethod
    def create(cls, estate: Path) -> Register:
        """Make and lock the register of an estate, inside `forks.GATE`; raises `OSError`."""
        path = estate / NAME
        fd = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        register = cls(path, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(fd, 0, _PAGE + _PART)
            register._map()
        except OSError:
            register.disown()
            path.unlink(missing_ok=True)
            raise
        register._free = [(register._parts[0], at) for at in range(_PART - SLOT, -1, -SLOT)]
        return register

    @classmethod
    def take(cls, estate: Path) -> Register | None:
        """Lock the register of a dead process, inside `forks.GATE`; None where it lives, or kept none."""
        path = estate / NAME
        try:
            fd = os.open(path, _OPEN)
        except OSError:
            return None
        register = cls(path, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == path.lstat().st_ino and os.fstat(fd).st_size >= _PAGE:
                register._map()
                return register
        except OSError:
            pass
        register.disown()
        return None

    def _map(self) -> None:
        size = os.fstat(self._fd).st_size
        self._page = mmap.mmap(self._fd, _PAGE)
        self._parts = [mmap.mmap(self._fd, _PART, offset=at) for at in range(_PAGE, size - _PART + 1, _PART)]

    # Entries

    def open(self, rid: RequestId, packed: bytes) -> None:
        """Enter a request before the store is asked for it; one that finds no room is not entered."""
        self._enter(rid, packed, _ASKED)

    def lend(self, rid: RequestId, packed: bytes) -> memoryview | None:
        """Enter a lease before the store is asked for it; give where its counts go, None without room.

        They are how many of its requests were used, and how many of those give caps back what they took.
        """
        place = self._enter(rid, packed, _LENT)
        if place is None:
            return None
        part, at = place
        return memoryview(part)[at + _PASSED_AT : at + _TEXT_AT].cast("Q")

    def _enter(self, rid: RequestId, packed: bytes, state: int) -> tuple[mmap.mmap, int] | None:
        if rid in self._taken:
            self.close(rid)
        text = _BEGINNING.pack(len(packed), crc32(packed)) + packed
        if _PASSED_AT + len(text) > SLOT:
            return None
        place = self._free_place()
        if place is None:
            return None
        part, at = place
        part[at + _PASSED_AT : at + _PASSED_AT + len(text)] = text
        part[at] = state
        self._taken[rid] = place
        return place

    def __contains__(self, rid: RequestId) -> bool:
        """Whether a request is entered."""
        return rid in self._taken

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way."""
        return not self._taken

    def serve(self, rid: RequestId, facts: bytes) -> None:
        """Note that a request is handed to the app, and what its event will say."""
        place = self._taken.get(rid)
        if place is None:
            return
        part, at = place
        begin = at + _TEXT_AT
        begin += _HEAD.size + _HEAD.unpack_from(part, begin)[0]
        text = _HEAD.pack(len(facts), crc32(facts)) + facts
        if begin + len(text) <= at + SLOT:
            part[begin : begin + len(text)] = text
            part[at] = _SERVED

    def passed(self, rid: RequestId, request_bytes: int, response_bytes: int) -> None:
        """Note how much of a request and its response has passed so far."""
        place = self._taken.get(rid)
        if place is not None:
            _PASSED.pack_into(place[0], place[1] + _PASSED_AT, request_bytes, response_bytes)

    def close(self, rid: RequestId) -> None:
        """Cross a request out: what became of it is in the journal."""
        place = self._taken.pop(rid, None)
        if place is not None:
            part, at = place
            part[at] = _FREE
            self._free.append(place)

    def _free_place(self) -> tuple[mmap.mmap, int] | None:
        while True:
            try:
                return self._free.pop()
            except IndexError:
                with self._growing:  # by one at a time, or two would be given the same places
                    if not (self._free or self._grow()):
                        return None

    def _grow(self) -> bool:
        """Make more room; say whether there is any."""
        if len(self._parts) < MOST_PARTS and not self._is_full:
            begin = _PAGE + len(self._parts) * _PART
            try:
                os.posix_fallocate(self._fd, begin, _PART)
                part = mmap.mmap(self._fd, _PART, offset=begin)
            except OSError as error:
                _log.warning("%s: no room for more: %s", self.path, error.strerror)
            else:
                self._parts.append(part)
                self._free += [(part, at) for at in range(_PART - SLOT, -1, -SLOT)]
                return True
        if not self._is_full:
            self._is_full = True
            _log.error(
                "%s: %d requests are on their way; of more, what a killed process leaves is not ended",
                self.path,
                len(self._taken),
            )
        return False

    def entries(self) -> Iterator[Entry]:
        """Read the requests that were on their way; those that a power cut damaged are passed over."""
        for number, part in enumerate(self._parts):
            for at in range(0, _PART, SLOT):
                state = part[at]
                if state in (_ASKED, _SERVED, _LENT):
                    packed, after = _text(part, at, at + _TEXT_AT)
                    facts = _text(part, at, after)[0] if state == _SERVED else b""
                    if packed is None or facts is None:
                        _log.error("%s: the entry at %d is damaged", self.path, _PAGE + number * _PART + at)
                        part[at] = _FREE
                        continue
                    where = number * _PART + at
                    if state == _LENT:
                        used, refunded = _COUNTS.unpack_from(part, at + _PASSED_AT)
                        yield Entry(where, packed, b"", lent=True, used=used, refunded=refunded)
                    else:
                        yield Entry(where, packed, facts, *_PASSED.unpack_from(part, at + _PASSED_AT))

    def cross_out(self, entry: Entry) -> None:
        """Cross out what a dead process had on its way, once its end is in the journal."""
        number, at = divmod(entry.at, _PART)
        self._parts[number][at] = _FREE

    # Marks

    def marks(self) -> Marks:
        """Read how far closings are settled; the beginning where that is not known."""
        found = []
        for at in _MARKS_AT:
            text, _ = _text(self._mapped(), at, at, MARKS_SIZE + _HEAD.size)
            if text is not None and len(text) == MARKS_SIZE:
                found.append(read_marks(text))
        self._serial, latest = max(found, key=lambda each: each[0], default=(self._serial, Marks()))
        return latest

    def mark(self, marks: Marks) -> None:
        """Note how far closings are settled; two copies take turns, so that one is always whole."""
        self._serial += 1
        self._put(_MARKS_AT[self._serial % 2], write_marks(self._serial, marks))

    def beats(self) -> dict[str, Written]:
        """Read when the canaries of the estate were written last, by the part of the store."""
        beats: dict[str, Written] = {}
        for at in _BEATS_AT:
            text, _ = _text(self._mapped(), at, at, _MOST_BEATS + _HEAD.size)
            with contextlib.suppress(msgspec.MsgspecError):
                found = msgspec.msgpack.decode(text or b"", type=dict[str, Written])
                beats = max(beats, found, key=lambda each: max((at for at, _ in each.values()), default=0))
        return beats

    def beat(self, beats: dict[str, Written]) -> None:
        """Note when the canaries were written last."""
        text = msgspec.msgpack.encode(beats)
        if len(text) <= _MOST_BEATS:
            self._serial += 1
            self._put(_BEATS_AT[self._serial % 2], text)

    def _put(self, at: int, text: bytes) -> None:
        self._mapped()[at : at + _HEAD.size + len(text)] = _HEAD.pack(len(text), crc32(text)) + text

    def _mapped(self) -> mmap.mmap:
        if self._page is None:
            raise ValueError(f"{self.path} is not open")
        return self._page

    # Its end

    def drop(self) -> None:
        """Delete it: nothing of its estate is needed for the store any more."""
        self.path.unlink(missing_ok=True)
        self.disown()

    def disown(self) -> None:
        """Let go of it; in a child that leaves it to the parent, else to whoever takes it next."""
        # The maps are not closed: another thread may be about to write, and they go with their last user.
        self._parts, self._page, self._free, self._taken = [], None, [], {}
        self._is_full = True
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _text(part: mmap.mmap, slot: int, begin: int, room: int = SLOT) -> tuple[bytes | None, int]:
    """Read what was written at a place, and where it ends; None where it is not whole."""
    length, checksum = _HEAD.unpack_from(part, begin)
    end = begin + _HEAD.size + length
    if end > slot + room:
        return None, begin
    text = part[begin + _HEAD.size : end]
    return (text, end) if crc32(text) == checksum else (None, begin)
