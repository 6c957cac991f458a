"""How far the closings of an estate are settled, and what its store may have of the others; pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from meter_mw.journal import Position

_RECORD = struct.Struct("<QQQQQqqqq")
_UNSAID = -1
_START = Position(0, 0)

MARKS_SIZE = _RECORD.size
"""Bytes of marks that are written down."""


@dataclass(frozen=True, slots=True)
class Marks:
    """How far the closings of an estate are settled.

    Those that end by `settled` the store has; those up to `sent` it may have, since `since_us`. What it was
    told after `lost_after_us` it has lost, what it was told before it may have since `lost_since_us`; both
    are None where it has lost nothing that is not brought back yet. Of the closings beyond all that, it may
    have some since `beyond_us`; None where it surely has not. Times are the store's, in µs.
    """

    settled: Position = _START
    sent: Position = _START
    since_us: int | None = None
    lost_after_us: int | None = None
    lost_since_us: int | None = None
    beyond_us: int | None = None

    def tried_us(self, end: Position, made_us: int) -> int | None:
        """Give since when the store may have a closing; None where it surely has not."""
        if end <= self.sent:
            return self.since_us
        lost = self.lost_after_us
        return self.lost_since_us if lost is not None and made_us <= lost else self.beyond_us


def write_marks(serial: int, marks: Marks) -> bytes:
    """Give marks as they are written down; of two copies the one with the higher serial counts."""
    settled, sent = marks.settled, marks.sent
    times = (marks.since_us, marks.lost_after_us, marks.lost_since_us, marks.beyond_us)
    return _RECORD.pack(
        serial,
        settled.sequence,
        settled.offset,
        sent.sequence,
        sent.offset,
        *(_UNSAID if each is None else each for each in times),
    )


def read_marks(text: bytes) -> tuple[int, Marks]:
    """Read marks that were written down, and their serial."""
    serial, *places_and_times = _RECORD.unpack(text)
    settled, settled_at, sent, sent_at, *times = places_and_times
    times_us = (None if each == _UNSAID else each for each in times)
    return serial, Marks(Position(settled, settled_at), Position(sent, sent_at), *times_us)
