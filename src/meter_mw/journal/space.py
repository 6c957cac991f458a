"""How much of its bound a journal takes: measured now and then, never on the request path."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from meter_mw.journal.estates import estate_paths
from meter_mw.journal.segments import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRESSED = 0.8
"""The part of its bound from which on what is delivered goes before its retention is over."""

FULL = 0.95
"""The part of its bound at which a journal takes no more requests: the rest is for those under way."""

LOOK_EVERY = 1.0
"""Seconds between two measurements at least."""

_SHARE = 32
_SMALLEST_SEGMENT = 1 << 16


class Space:
    """The bytes that the segments of all processes take, of `max_bytes`; no bound without it.

    Between two measurements only what this process takes is known, so several processes together can pass
    the bound by the segments that they begin within one interval.
    """

    def __init__(self, directory: Path, max_bytes: int | None, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        self._used = 0
        self._look_at = clock()

    @property
    def is_pressed(self) -> bool:
        """Whether room is to be made by what is delivered."""
        return self._max_bytes is not None and self._used >= self._max_bytes * PRESSED

    @property
    def is_full(self) -> bool:
        """Whether so little is left that nothing new is to begin."""
        return self._max_bytes is not None and self._used >= self._max_bytes * FULL

    def __str__(self) -> str:
        return f"{self._directory} holds {self._used} bytes of the {self._max_bytes} of its max_size"

    def segment_size(self, wanted: int) -> int:
        """Return the size of a segment, at most `wanted`, of which many fit into the bound."""
        if self._max_bytes is None:
            return wanted
        return min(wanted, max(_SMALLEST_SEGMENT, self._max_bytes // _SHARE))

    def take(self, size: int) -> None:
        """Count a file that is about to be made, or raise `JournalError` where it passes the bound."""
        if self._max_bytes is not None and self._used + size > self._max_bytes:
            raise JournalError(f"no room for {size} bytes more: {self}")
        self._used += size

    def look(self) -> None:
        """Measure, if that was not done just now; what cannot be read counts as nothing."""
        now = self._clock()
        if self._max_bytes is None or now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        self._used = _size(self._directory)


def _size(directory: Path) -> int:
    """Add up the files of the estates: what lies beside them grows by what is delivered."""
    try:
        return sum(_size_of(estate) for estate in estate_paths(directory))
    except OSError:
        return 0


def _size_of(estate: Path) -> int:
    """Add up the files of an estate; links are neither followed nor counted."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(estate) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total  # without what was deleted meanwhile, or is not ours
