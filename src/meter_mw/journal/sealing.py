"""The port of whoever seals segments: told of each that is finished, adopted or deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Sealing(Protocol):
    """Seals segments, in background threads; what fails is said in the log, and nothing raises."""

    def seal(self, path: Path, sequence: int) -> None:
        """Seal a segment that gets no more events."""

    def sealed(self, estate: Path, *, dead: bool) -> int:
        """Say below which number all segments of an estate are sealed.

        The next one is sealed first, if it is closed: one a call, as each takes a while. The last one of a
        writer that is `dead` is closed too.
        """

    def discarded(self, estate: Path, sequences: Sequence[int]) -> None:
        """Note that segments are deleted now, as every sink has them and their retention is over."""
