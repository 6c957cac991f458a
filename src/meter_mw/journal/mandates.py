"""A mandate: the right to forward an estate, which one process has at a time.

Rule 1: whoever sends the events of an estate, or deletes its segments, holds a flock on its file.
Rule 2: the writer's lock is another (estates.py): a daemon forwards what a living process writes.
Rule 3: whoever takes both takes the writer's first; nobody waits for either.
Rule 4: a new holder reads anew how far each sink is, so what the one before it sent is known.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "forwarder"
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Mandate:
    """The right to forward one estate. Taken inside `forks.GATE`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, estate: Path) -> Mandate | None:
        """Take the mandate that no process has; None when one has, or when it is not ours to take."""
        try:
            fd = os.open(estate / _FILE, _OPEN, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed the estate since it was opened.
            found = os.fstat(fd)
            if found.st_ino == (estate / _FILE).lstat().st_ino and os.geteuid() in (0, found.st_uid):
                return cls(fd)
        except OSError:
            pass
        os.close(fd)
        return None

    def release(self) -> None:
        """Leave the estate to whoever takes its mandate next."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def disown(self) -> None:
        """Drop, in a child, the mandate that is the parent's."""
        if self._fd >= 0:
            os.close(self._fd)
