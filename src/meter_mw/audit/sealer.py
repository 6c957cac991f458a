"""Seals segments as they are closed, and those that dead processes left unsealed."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from meter_mw.audit import merkle
from meter_mw.audit.book import Book
from meter_mw.audit.seals import HmacKey, Seal, SealError
from meter_mw.journal.estates import opened, segment_numbers, segment_path
from meter_mw.journal.frames import Frame, Kind, encode, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from meter_mw.audit.seals import Signing
    from meter_mw.policy.delivery import SealRule

_log = logging.getLogger("meter_mw.journal")


class Sealer:
    """Seals the segments of one service's journal. Works in background threads.

    A segment that cannot be sealed now is said in the log, and sealed by whoever adopts its estate. See the
    port, `meter_mw.journal.sealing`.
    """

    def __init__(
        self, directory: Path, source: str, key: Signing, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._book = Book(directory)
        self._source = source
        self._key = key
        self._clock = clock

    def seal(self, path: Path, sequence: int) -> None:
        """Seal a segment that gets no more events: in the book, and by a last frame of its own."""
        try:
            leaves = [merkle.leaf(event) for event in events_of(path)]
            seal = self._book.add(self._stated(path.parent.name, sequence, leaves), self._key, leaves)
            _add_footer(path, seal.encode())
        except (OSError, SealError) as error:
            _log.error("%s: not sealed: %s", path, error)

    def sealed(self, estate: Path, *, dead: bool) -> int:
        """Say below which number all segments are sealed; seal the next one first, if it is closed."""
        numbers = segment_numbers(estate)
        for sequence in numbers:
            if not self._book.has(estate.name, sequence):
                # A living writer may take back the last segment it began, and go on in the one before.
                if dead or sequence < numbers[-1] - 1:
                    self.seal(segment_path(estate, sequence), sequence)
                return sequence
        return numbers[-1] + 1 if numbers else 0

    def discarded(self, estate: Path, sequences: Iterable[int]) -> None:
        """Note that segments are deleted now, as every sink has them and their retention is over."""
        for sequence in sequences:
            try:
                self._book.add(self._stated(estate.name, sequence, [], discarded=True), self._key)
            except (OSError, SealError) as error:
                _log.error("%s: the book of seals does not say that it was deleted: %s", estate, error)

    def _stated(self, estate: str, segment: int, leaves: list[bytes], *, discarded: bool = False) -> Seal:
        return Seal(
            number=0,
            source=self._source,
            estate=estate,
            segment=segment,
            events=len(leaves),
            root=merkle.root(leaves).hex(),
            closed_us=round(self._clock() * 1_000_000),
            previous="",
            discarded=discarded,
        )


def events_of(path: Path) -> Iterable[bytes]:
    """Give the intact events of a segment, in order; raises `OSError`."""
    with opened(path) as fd:
        for found in scan(fd):
            if isinstance(found, Frame) and found.kind is Kind.EVENT:
                yield found.payload


def _add_footer(path: Path, footer: bytes) -> None:
    """Write the seal behind the last frame, unless one is there or the end is torn; raises `OSError`."""
    with opened(path) as fd:
        found = list(scan(fd))
    last = found[-1] if found else None
    if not isinstance(last, Frame) or last.kind is Kind.SEAL:
        return
    frame, _ = encode(Kind.SEAL, last.chain, footer)
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(fd, frame, last.end)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def key_of(rule: SealRule) -> Signing:
    """Give the key that a policy seals with.

    Raises SealError, and `ImportError` where the client for private keys is not installed.
    """
    if rule.private_key is not None:
        from meter_mw.audit.ed25519 import private_key  # noqa: PLC0415 - an extra brings its client

        return private_key(rule.private_key)
    return HmacKey(rule.secret or b"")
