"""A CloudEvents object as the ledger keeps it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec

from meter_mw.model import ADJUSTMENT_EVENT, LARGEST_COST, REQUEST_EVENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUILT_IN = ("requests", "request_bytes", "response_bytes")
"""The quantities that every event has, each a column; the others go beside them by their names."""

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_BILLS = frozenset({REQUEST_EVENT, ADJUSTMENT_EVENT})
"""The types of events whose quantities count."""

NO_QUANTITIES = frozenset({"status", "duration_us", "part"})
"""Whole numbers of an event's data that are no quantities."""

_TEXTS = ("account", "key", "route", "method", "plan", "amends", "policy")


class Unreadable(ValueError):
    """An event cannot be kept; says why."""


class _Event(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1)]
    source: Annotated[str, msgspec.Meta(min_length=1)]
    type: Annotated[str, msgspec.Meta(min_length=1)]
    subject: str
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    data: dict[str, object] = msgspec.field(default_factory=dict)


_decoder = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Record:
    """An event as a row of `events`, and what it counts by field, zeros left out.

    `limited_by` are the limits that stopped it on its way. `bills` is false for what counts nothing at all.
    `answers` is true for the response to a request; later parts of a long exchange and amendments are none.
    """

    id: str
    row: Mapping[str, object]
    quantities: Mapping[str, int]
    bills: bool = True
    answers: bool = False
    limited_by: tuple[str, ...] = ()

    @property
    def time_us(self) -> int:
        """When it was, in µs since 1970."""
        time_us = self.row["time_us"]
        return time_us if isinstance(time_us, int) else 0

    def further(self) -> Iterator[tuple[str, str, int]]:
        """Give its rows of `quantities`."""
        for field, units in self.quantities.items():
            if field not in BUILT_IN:
                yield self.id, field, units


def read(payload: bytes) -> Record:
    """Read an event. Raises Unreadable."""
    try:
        event = _decoder.decode(payload)
        raw = payload.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"not an event of usage: {error}") from None
    data = event.data
    texts = {name: _text(data.get(name)) for name in _TEXTS}
    counted = dict(_quantities(data)) if event.type in _BILLS else {}
    overage = data.get("overage")
    row: dict[str, object] = {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time_us": (event.time - _EPOCH) // _MICROSECOND,
        "status": _count(data.get("status"), 999),
        "duration_us": _count(data.get("duration_us"), LARGEST_COST),
        "overage": msgspec.json.encode(overage).decode() if isinstance(overage, dict) else None,
        "raw": raw,
        **texts,
        **{name: counted.get(name, 0) for name in BUILT_IN},
    }
    limits = data.get("limited_by")
    limited_by = tuple(each for each in limits if isinstance(each, str)) if isinstance(limits, list) else ()
    if b"\\u0000" in payload:
        _refuse_nul(row, counted, limited_by)
    answers = event.type == REQUEST_EVENT and row["status"] is not None and "exchange" not in data
    return Record(event.id, row, counted, event.type in _BILLS, answers, limited_by)


def _quantities(data: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    for name, value in data.items():
        if isinstance(value, float):
            raise Unreadable(f"data.{name} is {value}, not a whole number")
        if isinstance(value, bool) or not isinstance(value, int) or name in NO_QUANTITIES:
            continue
        if abs(value) > LARGEST_COST:
            raise Unreadable(f"data.{name} is {value}, beyond 2^52")
        if value:
            yield name, value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object, most: int) -> int | None:
    """Give a whole number that a column takes; what else stands there is in `raw` alone."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= most else None


def _refuse_nul(row: Mapping[str, object], counted: Mapping[str, int], limits: tuple[str, ...]) -> None:
    """Raise Unreadable for the one character that a text in PostgreSQL cannot have."""
    for name, value in (*row.items(), *((each, each) for each in (*counted, *limits))):
        if isinstance(value, str) and "\x00" in value:
            raise Unreadable(f"{name} has a NUL character in it")
