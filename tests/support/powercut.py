"""A disk that forgets: what a power cut would leave of a directory, by what was synced."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    import pytest

_PAGE = 4096


class Platter:
    """Remembers each file of a directory as its last fdatasync found it, and names as their last fsync did.

    `before_sync` is called in the thread that syncs, `syncs` counts.
    """

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.syncs = 0
        self.before_sync: Callable[[], object] = lambda: None
        self._root = root
        self._lock = threading.Lock()
        self._files: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        for name in ("fdatasync", "fsync"):
            patch.setattr(os, name, self._noting(getattr(os, name)))

    def _noting(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def noted(fd: int) -> None:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                listed = self._listed(fd)
                sync(fd)
                with self._lock:
                    self._names[found.st_ino] = listed
                return
            content = os.pread(fd, found.st_size, 0)  # what is written later may be lost
            self.before_sync()
            sync(fd)
            with self._lock:
                self.syncs += 1
                self._files[found.st_ino] = content

        return noted

    @staticmethod
    def _listed(fd: int) -> dict[str, int]:
        listed: dict[str, int] = {}
        for name in os.listdir(fd):
            with contextlib.suppress(FileNotFoundError):  # another thread has just removed it
                listed[name] = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
        return listed

    def cut(self, into: Path, chance: random.Random | None = None) -> None:
        """Write what a power cut at this moment leaves; by `chance`, with pages that were never synced."""
        with self._lock:
            living = {path.stat().st_ino: path for path in self._root.rglob("*") if path.is_file()}
            self._restore(self._root.stat().st_ino, into, living, chance)

    def _restore(
        self, directory: int, into: Path, living: dict[int, Path], chance: random.Random | None
    ) -> None:
        into.mkdir()
        for name, inode in self._names.get(directory, {}).items():
            if inode in self._files or inode in living:
                content = bytearray(self._files.get(inode, b""))
                if chance is not None and inode in living:
                    _lucky(content, living[inode].read_bytes(), chance)
                (into / name).write_bytes(content)
            else:
                self._restore(inode, into / name, living, chance)


def _lucky(content: bytearray, now: bytes, chance: random.Random) -> None:
    """Have some pages of a file as they are now."""
    content.extend(bytes(max(0, len(now) - len(content))))
    for at in range(0, len(now), _PAGE):
        if chance.random() < 0.5:
            content[at : at + _PAGE] = now[at : at + _PAGE]
