"""What the script keeps and is sent, read as `meter.lua` says that it is packed."""

from __future__ import annotations

import contextlib
import itertools

import msgspec

from meter_mw.quota import RATE_ID, Span, Used

SECOND_US = 1_000_000


def values_of(packed: bytes) -> list[int | str]:
    """Read values that are packed one behind the other: an array of as many as there turn out to be."""
    decoder = msgspec.msgpack.Decoder(list[int | str])
    for number in itertools.count():
        with contextlib.suppress(msgspec.DecodeError):
            return decoder.decode(b"\xdd" + number.to_bytes(4, "big") + packed)
    raise AssertionError


def state_of(packed: bytes) -> tuple[int, int, dict[str, Span], dict[str, Used]]:
    """Read a state: when it was written, when its first hold is over, its rates, and its caps and slots."""
    seen, *values = values_of(packed)
    assert isinstance(seen, int)
    due = 0
    if values and isinstance(values[0], int):
        due, _, *values = values  # type: ignore[assignment]  # two numbers come first, or none
    rates: dict[str, Span] = {}
    counts: dict[str, Used] = {}
    while values:
        id_, *values = values
        numbers = list(itertools.takewhile(lambda each: isinstance(each, int), values))
        values = values[len(numbers) :]
        if str(id_).startswith(RATE_ID):
            rates[str(id_)] = Span(seen + int(numbers[0]), int(numbers[1]))
        else:
            start, used, until, *others = map(int, numbers)
            counts[str(id_)] = Used(_moment(start), _moment(until), used, *others)
    return seen, due, rates, counts


def _moment(kept: int) -> int:
    return kept * -SECOND_US if kept < 0 else kept
