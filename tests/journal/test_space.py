"""The bound of a journal: what counts towards it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.journal.estates import Estate, segment_path
from meter_mw.journal.space import Space

if TYPE_CHECKING:
    from pathlib import Path

BOUND = 1 << 20


def measured(place: Path) -> Space:
    space = Space(place, BOUND, clock=lambda: 0.0)
    space.look()
    return space


def test_segments_count(place: Path) -> None:
    """Those of every process do."""
    for number in range(2):
        segment_path(Estate.create(place, number).path, 1).write_bytes(bytes(BOUND // 2))
    assert measured(place).is_pressed


def test_what_lies_beside_the_segments_does_not_count(place: Path) -> None:
    """The default sink's file is in the journal's folder, and grows for ever: it ends no service."""
    Estate.create(place, 1)
    seals = place / "seals"
    seals.mkdir()
    for path in (place / "usage.jsonl", place / "parked.jsonl", seals / "p1-1.leaves"):
        path.write_bytes(bytes(2 * BOUND))
    assert not measured(place).is_pressed
