"""An estate: the segments of one process, in a directory of their own, and the lock that says who has it.

Rule 1: whoever writes an estate holds a flock on its directory; whoever forwards it has its mandate
        (mandates.py); whoever removes it has both, and its writer may do so when all is settled.
Rule 2: the kernel drops the flock with its process, so an estate that can be locked is an orphan.
Rule 3: no symbolic link inside a journal's directory is followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from typing import TYPE_CHECKING

from meter_mw.journal.frames import Frame, Kind, scan
from meter_mw.journal.segments import Header, JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPARE = "spare"
"""The next segment's file, allocated before it is needed."""

_ESTATE_NAME = re.compile(r"p[0-9a-f]{14}-\d+-[0-9a-f]{8}")
_SEGMENT_NAME = re.compile(r"(\d{8,})\.seg")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BIRTH_ATTEMPTS = 16


class Estate:
    """A directory of segments that this process has locked."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def create(cls, directory: Path, started_us: int) -> Estate:
        """Make and lock a new estate; raises `OSError`."""
        _make(directory)
        for _ in range(_BIRTH_ATTEMPTS):
            path = directory / f"p{started_us:014x}-{os.getpid()}-{secrets.token_hex(4)}"
            path.mkdir(mode=0o700)
            try:
                fd = _locked(path)
            except OSError:
                path.rmdir()
                raise
            # Another process may find the newborn first, take it for an orphan and remove it.
            if fd is not None:
                return cls(path, fd)
        raise JournalError(f"{directory}: no directory of our own after {_BIRTH_ATTEMPTS} attempts")

    @classmethod
    def lock(cls, path: Path) -> Estate | None:
        """Lock an estate that no process has; `None` when one has, or when it is not ours to take."""
        try:
            fd = _locked(path)
        except OSError:
            return None
        return None if fd is None else cls(path, fd)

    def sequences(self) -> list[int]:
        """Return the numbers of the segments, in order; raises `OSError`."""
        return segment_numbers(self.path)

    def segment_path(self, sequence: int) -> Path:
        """Return where a segment lies."""
        return segment_path(self.path, sequence)

    def remove(self) -> None:
        """Delete the estate with all that is in it; raises `OSError`."""
        for entry in list(self.path.iterdir()):
            entry.unlink()
        self.path.rmdir()

    def sync(self) -> None:
        """Have the names of the segments on the disk, and the estate's own."""
        os.fsync(self._fd)
        sync_names(self.path.parent)

    def release(self) -> None:
        """Leave the estate to whoever locks it next."""
        fd, self._fd = self._fd, -1
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def disown(self) -> None:
        """Drop, in a child, the lock that is the parent's."""
        if self._fd >= 0:
            os.close(self._fd)


def _make(directory: Path) -> None:
    """Make a directory and those above it, and have their names on the disk; raises `OSError`."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        sync_names(each.parent)


def sync_names(directory: Path) -> None:
    """Have the names in a directory on the disk; raises `OSError`."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _locked(path: Path) -> int | None:
    """Open and lock a directory; `None` when another process has it or had it removed, or owns it.

    Raises `OSError` where it cannot be opened.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        if found.st_ino == path.lstat().st_ino and os.geteuid() in (0, found.st_uid):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def estate_paths(directory: Path) -> list[Path]:
    """Return the estates of a journal, oldest first; raises `OSError`."""
    if not directory.exists():
        return []
    return sorted(
        path for path in directory.iterdir() if _ESTATE_NAME.fullmatch(path.name) and _is_directory(path)
    )


def _is_directory(path: Path) -> bool:
    """Whether a path is a directory and no link to one; not where somebody has just removed it."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def begun_us(path: Path) -> int:
    """Return when an estate was made (µs since 1970); 0 where its name does not tell."""
    return int(path.name[1:15], 16) if _ESTATE_NAME.fullmatch(path.name) else 0


def owner_of(path: Path) -> int:
    """Return the pid of the process that began an estate, by its name."""
    return int(path.name.split("-")[1])


def is_held(path: Path) -> bool:
    """Whether a process has the estate locked at this moment."""
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def source_of(estate: Path) -> str | None:
    """Return whose events an estate holds, by the first header that can be read; raises `OSError`."""
    for sequence in segment_numbers(estate):
        with contextlib.suppress(OSError, ValueError), opened(segment_path(estate, sequence)) as fd:
            first = next(scan(fd), None)
            if isinstance(first, Frame) and first.kind is Kind.SEGMENT:
                return Header.decode(first.payload).source
    return None


def segments_to_discard(estate: Path, before: int, *, retention: float, pressed: bool = False) -> list[int]:
    """Return the segments numbered below `before` that were last written `retention` seconds ago.

    Where the space is `pressed`, the oldest eighth of all is due sooner. Raises `OSError`.
    """
    due: list[int] = []
    numbers = segment_numbers(estate)
    sooner = numbers[: -(-len(numbers) // 8)] if pressed else []
    for sequence in numbers:
        path = segment_path(estate, sequence)
        is_due = not retention or sequence in sooner or path.lstat().st_mtime + retention <= time.time()
        if sequence < before and is_due:
            due.append(sequence)
    return due


def give_back(estate: Path) -> None:
    """Free what the dead writer of a locked estate had allocated and not used; raises `OSError`.

    A last segment that is damaged is left as it is.
    """
    (estate / SPARE).unlink(missing_ok=True)
    path = segment_path(estate, max(segment_numbers(estate), default=0))
    with contextlib.suppress(FileNotFoundError), opened(path, os.O_RDWR) as fd:
        found, end = os.fstat(fd), 0
        for each in scan(fd):
            if not isinstance(each, Frame):
                return
            end = each.end
        os.ftruncate(fd, end)
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))  # retention goes by it


def segment_numbers(estate: Path) -> list[int]:
    """Return the numbers of the segments of an estate, in order; raises `OSError`."""
    names = (_SEGMENT_NAME.fullmatch(path.name) for path in estate.iterdir())
    return sorted(int(name[1]) for name in names if name)


def segment_path(estate: Path, sequence: int) -> Path:
    """Return where a segment of an estate lies."""
    return estate / f"{sequence:08d}.seg"


@contextlib.contextmanager
def opened(path: Path, mode: int = os.O_RDONLY) -> Iterator[int]:
    """Open a file of the journal; raises `OSError`, `ELOOP` for whatever is no regular file."""
    fd = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, "not a regular file", str(path))
        yield fd
    finally:
        os.close(fd)
