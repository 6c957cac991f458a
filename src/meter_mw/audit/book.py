"""The book of seals of a journal: one line for each closed segment, in the order of closing.

Rule 1: lines are only added, under a lock that all processes of the journal share.
Rule 2: a seal names the digest of the one before, so a line that was changed, removed or moved shows.
Rule 3: a torn last line, of a process that died while it wrote, is no seal yet: the next takes its place.
Rule 4: the leaves of each segment's tree are kept beside the book, so that a record can be proved after
        its segment is gone. They are hashes over a random id each, and give nothing away.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw.audit import merkle
from meter_mw.audit.seals import BEFORE_ALL, Seal, SealError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from meter_mw.audit.seals import Signing

FOLDER = "seals"
"""Where in a journal's directory the book lies."""

_BOOK = "book.jsonl"
_TAIL = 4096
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Book:
    """The seals under a journal's `directory`."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / FOLDER
        self.path = self.folder / _BOOK

    def lines(self) -> list[bytes]:
        """Give the lines there are, without a torn end; raises `OSError`."""
        if not self.path.exists():
            return []
        *whole, _ = self.path.read_bytes().split(b"\n")
        return whole

    def seals(self) -> Iterator[Seal]:
        """Give the seals; raises SealError at a line that is none."""
        for number, line in enumerate(self.lines()):
            try:
                yield Seal.decode(line)
            except SealError as error:
                raise SealError(f"{self.path}, line {number + 1}: {error}") from None

    def add(self, seal: Seal, key: Signing, leaves: Sequence[bytes] | None = None) -> Seal:
        """Number, link, sign and keep a seal, and give it as it is kept; raises `OSError`, SealError.

        A segment that was sealed before gets no second seal: the first is given.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked() as fd:
            known = self._kept(seal) if leaves is not None else None
            if known is not None:
                return known
            try:
                end, last = _end(fd)
            except SealError as error:
                raise SealError(f"{self.path}: its last line is {error}") from None
            linked = replace(
                seal,
                number=last.number + 1 if last else 0,
                previous=last.digest() if last else BEFORE_ALL,
            ).signed(key)
            os.ftruncate(fd, end)
            _write(fd, linked.encode() + b"\n", end)
            if leaves is not None:
                self._keep(linked, leaves)
        return linked

    def leaves(self, seal: Seal) -> list[bytes]:
        """Give the leaves of a seal's segment; raises `OSError`, SealError where they are not whole."""
        path = self._leaves_path(seal.estate, seal.segment)
        data = path.read_bytes()
        if len(data) != seal.events * merkle.SIZE:
            raise SealError(f"{path}: {len(data)} bytes for {seal.events} records")
        return [data[at : at + merkle.SIZE] for at in range(0, len(data), merkle.SIZE)]

    def has(self, estate: str, segment: int) -> bool:
        """Say whether a segment is sealed, as far as its leaves tell."""
        return self._leaves_path(estate, segment).exists()

    def _kept(self, seal: Seal) -> Seal | None:
        """Give the seal that a segment has already. Leaves are kept last: without them it is done again."""
        if not self._leaves_path(seal.estate, seal.segment).exists():
            return None
        place = (seal.estate, seal.segment)
        sealed = (each for each in self.seals() if not each.discarded)
        return next((each for each in sealed if (each.estate, each.segment) == place), None)

    def _keep(self, seal: Seal, leaves: Sequence[bytes]) -> None:
        path = self._leaves_path(seal.estate, seal.segment)
        unfinished = path.with_suffix(".part")
        fd = os.open(unfinished, _FLAGS | os.O_TRUNC, 0o600)
        try:
            _write(fd, b"".join(leaves), 0)
        finally:
            os.close(fd)
        unfinished.rename(path)

    def _leaves_path(self, estate: str, segment: int) -> Path:
        if "/" in estate or estate.startswith("."):
            raise SealError(f"{estate!r} is no estate")
        return self.folder / f"{estate}-{segment:08d}.leaves"

    @contextmanager
    def _locked(self) -> Iterator[int]:
        fd = os.open(self.path, _FLAGS, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


def _write(fd: int, data: bytes, at: int) -> None:
    """Have all of it on the disk; raises `OSError`."""
    if os.pwrite(fd, data, at) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fdatasync(fd)


def _end(fd: int) -> tuple[int, Seal | None]:
    """Give where the last whole line ends, and its seal; raises SealError where that is none."""
    size, data = os.fstat(fd).st_size, b""
    while len(data) < size and data.count(b"\n", 0, -1) < 1 + (not data.endswith(b"\n")):
        data = os.pread(fd, min(size, len(data) + _TAIL), max(0, size - len(data) - _TAIL))
    whole, _, torn = data.rpartition(b"\n")
    line = whole.rpartition(b"\n")[2]
    return size - len(torn), Seal.decode(line) if line else None
