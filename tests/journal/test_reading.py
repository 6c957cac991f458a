"""The quick way of reading gives what the careful one gives, whatever has become of a segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meter_mw.journal import frames, reading
from meter_mw.journal.estates import segment_path
from meter_mw.journal.frames import CHAIN_START, Kind, encode
from meter_mw.journal.reading import Run, read_run
from meter_mw.journal.segments import Position

if TYPE_CHECKING:
    from pathlib import Path

KINDS = st.sampled_from([Kind.EVENT] * 4 + [Kind.CLOSING] * 3 + [Kind.SEAL, Kind.LOST])
WRITTEN = st.lists(st.tuples(KINDS, st.integers(0, 150)), max_size=12)
"""Frames by their kind and the length of their payload; some are larger than a window."""


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, int, int]:
    how = draw(st.sampled_from(["none", "none", "flip", "cut", "blank", "double", "drop"]))
    return how, draw(st.integers(0, 10_000)), draw(st.integers(1, 255))


def segment(written: list[tuple[Kind, int]], damage: tuple[str, int, int]) -> tuple[bytes, list[int]]:
    """Give a segment's bytes and where its frames begin, with one damage."""
    chain, several = CHAIN_START, []
    for number, (kind, length) in enumerate([(Kind.SEGMENT, 5), *written]):
        frame, chain = encode(kind, chain, bytes([97 + number]) * length)
        several.append(frame)
        if kind is Kind.LOST:
            chain = b"linked to nothing"[:16]
    how, place, value = damage
    if how in {"double", "drop"}:
        at = place % len(several)
        several[at : at + 1] = [several[at]] * (2 if how == "double" else 0)
    begins = [len(b"".join(several[:number])) for number in range(len(several))]
    text = bytearray(b"".join(several))
    at = place % (len(text) or 1)
    if how == "flip" and text:
        text[at] ^= value
    elif how == "cut":
        del text[at:]
    elif how == "blank":
        text[at:] = bytes(len(text) - at)
    return bytes(text), begins


def careful(estate: Path, start: Position, stop: Position | None, count: int, size: int) -> Run:
    """Read without the quick way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "sound", lambda fd, start, stop, **most: ([], start, None))
        return read_run(estate, start, stop, count=count, size=size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    st.lists(st.tuples(WRITTEN, damages()), min_size=1, max_size=2),
    st.integers(0, 20),
    st.none() | st.integers(0, 600),
    st.integers(1, 8),
    st.integers(1, 400),
)
def test_what_is_read_quickly_is_what_is_there(
    tmp_path: Path,
    segments: list[tuple[list[tuple[Kind, int]], tuple[str, int, int]]],
    first: int,
    stop: int | None,
    count: int,
    size: int,
) -> None:
    """Batch by batch, from any frame on: the same events, the same damage, and the same place to go on."""
    segment_path(tmp_path, 2).unlink(missing_ok=True)  # of the example before
    made = [segment(written, damage) for written, damage in segments]
    for number, (text, _) in enumerate(made, 1):
        segment_path(tmp_path, number).write_bytes(text)
    begins = made[0][1] or [0]
    at = Position(1, begins[first % len(begins)])
    end = None if stop is None else Position(len(segments), stop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "_WINDOW", 128)
        for _ in range(20):
            quick = read_run(tmp_path, at, end, count=count, size=size)
            assert quick == careful(tmp_path, at, end, count, size)
            if quick.after == at:
                break
            at = quick.after


def test_what_is_sound_is_read_quickly(tmp_path: Path) -> None:
    """All of a segment in which nothing is wrong, so that the careful way has nothing to do."""
    text, _ = segment([(Kind.EVENT, 90), (Kind.CLOSING, 30)] * 5, ("none", 0, 1))
    path = segment_path(tmp_path, 1)
    path.write_bytes(text)
    with path.open("rb") as file:
        events, at, _ = frames.sound(file.fileno(), 0, None, count=100, size=1 << 20)
    assert (len(events), at) == (5, len(text))
