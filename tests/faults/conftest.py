"""Disks that fail as told: system calls of this process, and real file systems where they can be mounted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from journal.conftest import journal, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["journal", "place"]


class Disk:
    """Has system calls fail with an error from `fail` to `heal`, for files of one directory alone."""

    def __init__(self, patch: pytest.MonkeyPatch, directory: Path) -> None:
        self._directory = str(directory)
        self._code = 0
        self._failing: tuple[str, ...] = ()
        for name in ("open", "mkdir", "pwrite", "posix_fallocate", "fdatasync"):
            patch.setattr(os, name, self._failing_as(name, getattr(os, name)))

    def fail(self, code: int, *names: str) -> None:
        self._code, self._failing = code, names

    def heal(self) -> None:
        self._failing = ()

    def _failing_as(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(target: object, *arguments: object, **options: object) -> object:
            if name in self._failing and self._is_here(target):
                raise OSError(self._code, os.strerror(self._code))
            return real(target, *arguments, **options)

        return call

    def _is_here(self, target: object) -> bool:
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target
        return str(path).startswith(self._directory)


FAULTS = {
    "ENOSPC": (errno.ENOSPC, ("posix_fallocate",)),
    "EROFS": (errno.EROFS, ("open", "mkdir", "pwrite", "posix_fallocate")),
    "EIO": (errno.EIO, ("pwrite", "posix_fallocate", "fdatasync")),
    "EMFILE": (errno.EMFILE, ("open",)),
}
"""How each error shows: the system calls that fail with it."""


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


@contextmanager
def mounted(where: Path, *options: str) -> Iterator[Callable[..., None]]:
    """Mount a file system in memory, and give what mounts it anew otherwise; skips where none can be."""
    where.mkdir()

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(where)]
        return not subprocess.run(command, capture_output=True, check=False).returncode

    if shutil.which("mount") is None or not mount(*options):
        pytest.skip("no file system can be mounted here; the same is shown with failing system calls")
    try:
        yield lambda *anew: mount("remount", *anew) or pytest.fail("not mounted anew")
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)
