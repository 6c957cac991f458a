"""How much the ledger has: exact for any span of time.

Whole hours come from the roll-ups, what is left at either end from the events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from meter_mw.ledger.records import BUILT_IN, HOUR_US
from meter_mw.ledger.tables import events, quantities, usage_hours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection

_MOST_ASKED = 500
"""Subjects in one query."""


def totals(
    connection: Connection, source: str, subjects: Sequence[str], start_us: int, end_us: int
) -> dict[tuple[str, str], int]:
    """Give the units of each (subject, field) that came from a source in [start, end), in µs since 1970.

    What there is none of is left out. Subjects are asked for in several queries: for one moment's answer
    the connection is to be `reading`.
    """
    found: dict[tuple[str, str], int] = {}
    for first in range(0, len(subjects), _MOST_ASKED):
        some = subjects[first : first + _MOST_ASKED]
        for subject, field, units in _parts(connection, source, some, start_us, end_us):
            found[subject, field] = found.get((subject, field), 0) + units
    return {each: units for each, units in found.items() if units}


def subjects(connection: Connection, source: str, start_us: int, end_us: int) -> list[str]:
    """Give who has used anything of a source in the hours that [start, end) touches, in µs since 1970."""
    table = usage_hours.c
    asked = (
        select(table.subject)
        .distinct()
        .where(table.source == source)
        .where(table.hour_us > start_us - HOUR_US, table.hour_us < end_us)
    )
    return sorted(connection.execute(asked).scalars())


_Part = tuple[str, str, int]


def _parts(
    connection: Connection, source: str, subjects: Sequence[str], start_us: int, end_us: int
) -> Iterator[_Part]:
    first, last = -(-start_us // HOUR_US) * HOUR_US, end_us // HOUR_US * HOUR_US
    if first >= last:
        yield from _of_events(connection, source, subjects, start_us, end_us)
        return
    yield from _of_events(connection, source, subjects, start_us, first)
    yield from _of_hours(connection, source, subjects, first, last)
    yield from _of_events(connection, source, subjects, last, end_us)


def _of_hours(
    connection: Connection, source: str, subjects: Sequence[str], start_us: int, end_us: int
) -> Iterator[_Part]:
    table = usage_hours.c
    asked = (
        select(table.subject, table.field, func.sum(table.units))
        .where(table.subject.in_(subjects), table.source == source)
        .where(table.hour_us >= start_us, table.hour_us < end_us)
        .group_by(table.subject, table.field)
    )
    yield from ((subject, field, int(units)) for subject, field, units in connection.execute(asked))


def _of_events(
    connection: Connection, source: str, subjects: Sequence[str], start_us: int, end_us: int
) -> Iterator[_Part]:
    if start_us >= end_us:
        return
    within: tuple[ColumnElement[bool], ...] = (
        events.c.subject.in_(subjects),
        events.c.source == source,
        events.c.time_us >= start_us,
        events.c.time_us < end_us,
    )
    sums = [func.sum(events.c[name]) for name in BUILT_IN]
    for subject, *units in connection.execute(
        select(events.c.subject, *sums).where(*within).group_by(events.c.subject)
    ):
        yield from ((subject, field, int(each)) for field, each in zip(BUILT_IN, units, strict=True))
    further = (
        select(events.c.subject, quantities.c.field, func.sum(quantities.c.units))
        .join_from(events, quantities, quantities.c.event_id == events.c.id)
        .where(*within)
        .group_by(events.c.subject, quantities.c.field)
    )
    yield from ((subject, field, int(units)) for subject, field, units in connection.execute(further))
