"""Seals segments as they are closed, and those that dead processes left unsealed."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from meter_mw.audit import merkle
from meter_mw.audit.book import Book
from meter_mw.audit.seals import HmacKey, Seal, SealError
from meter_mw.journal.estates import opened, segment_numbers, segment_path
from meter_mw.journal.frames import Frame, Kind, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from meter_mw.audit.seals import Signing
    from meter_mw.policy.delivery import SealRule

_log = logging.getLogger("meter_mw.journal")


class Sealer:
    """Seals the segments of one service's journal. Works in background threads; never raises.

    A segment that cannot be sealed now is said in the log, and sealed by whoever adopts its estate.
    """

    def __init__(
        self, directory: Path, source: str, key: Signing, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._book = Book(directory)
        self._source = source
        self._key = key
        self._clock = clock

    def seal(self, path: Path, sequence: int) -> bytes:
        """Seal a segment that gets no more events, and give the footer that says so; b"" where it failed."""
        try:
            leaves = [merkle.leaf(event) for event in events_of(path)]
            return self._book.add(
                self._stated(path.parent.name, sequence, leaves), self._key, leaves
            ).encode()
        except (OSError, SealError) as error:
            _log.error("%s: not sealed: %s", path, error)
            return b""

    def adopt(self, estate: Path) -> None:
        """Seal what a dead process left unsealed."""
        try:
            numbers = segment_numbers(estate)
        except OSError as error:
            _log.error("%s: not sealed: %s", estate, error)
            return
        for sequence in numbers:
            self.seal(segment_path(estate, sequence), sequence)

    def discarded(self, estate: Path, sequences: Iterable[int]) -> None:
        """Note that segments were deleted, as every sink has them and their retention is over."""
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


def key_of(rule: SealRule) -> Signing:
    """Give the key that a policy seals with.

    Raises SealError, and `ImportError` where the client for private keys is not installed.
    """
    if rule.private_key is not None:
        from meter_mw.audit.ed25519 import private_key  # noqa: PLC0415 - an extra brings its client

        return private_key(rule.private_key)
    return HmacKey(rule.secret or b"")
