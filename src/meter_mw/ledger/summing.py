"""How much the ledger has, by whatever is asked: exact for any span of time.

Whole days and hours come from the roll-ups, what is left of hours from the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import bindparam, func, literal, or_, select

from meter_mw.ledger.pieces import moments, pieces
from meter_mw.ledger.records import BUILT_IN, DAY_US, HOUR_US
from meter_mw.ledger.retention import check_kept
from meter_mw.ledger.spans import Span
from meter_mw.ledger.tables import (
    SERIES,
    events,
    quantities,
    quantity_days,
    quantity_hours,
    usage_days,
    usage_hours,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Table

_LEVELS = (
    ("days", usage_days, quantity_days, DAY_US),
    ("hours", usage_hours, quantity_hours, HOUR_US),
)


@dataclass(frozen=True, slots=True)
class Only:
    """Whose usage is meant: some subjects' or everybody's (None), one service's or that of all."""

    subjects: Sequence[str] | None = None
    source: str | None = None

    def of(self, table: Table) -> Iterator[ColumnElement[bool]]:
        """Give the conditions on a table."""
        if self.subjects is not None:
            yield table.c.subject.in_(self.subjects)
        if self.source is not None:
            yield table.c.source == self.source

    def at(self, column: ColumnElement[Any], runs: Sequence[Span], length_us: int) -> ColumnElement[bool]:
        """Give the condition on the time of a roll-up: a key of its own for each where few rows are meant."""
        if self.subjects is None:
            return _within(column, runs)
        listed: Any = bindparam(None, moments(runs, length_us), expanding=True, literal_execute=True)
        return column.in_(listed)


class Sum(NamedTuple):
    """Units of a field of one series, as far as it was asked to be told apart.

    `start_us` is when the day, hour or span begins that they are of; 0 where times are not told apart.
    """

    start_us: int
    key: tuple[str, ...]
    field: str
    units: int


def sums(
    connection: Connection,
    spans: Sequence[Span],
    by: Sequence[str],
    only: Only,
    *,
    timed: bool = False,
) -> Iterator[Sum]:
    """Give the units in some spans, in parts that are to be added up.

    The spans are in order and do not overlap. `by` names columns of SERIES. With `timed` each part tells
    which span it is of, by a time in it. Raises Purged where events or roll-ups are needed that are gone.
    """
    if unknown := [name for name in by if name not in SERIES]:
        raise ValueError(f"found {', '.join(unknown)}; expected some of {', '.join(SERIES)}")
    taken = pieces(spans)
    for (stock, usage, further, length_us), runs in zip(_LEVELS, (taken.days, taken.hours), strict=True):
        if runs:
            check_kept(connection, stock, runs[0])
            yield from _of_roll_ups(connection, (usage, further), (runs, length_us), by, only, timed=timed)
    if taken.rest:
        check_kept(connection, "events", taken.rest[0])
    for run in taken.rest if timed else (taken.rest,) if taken.rest else ():
        yield from _of_events(connection, (run,) if isinstance(run, Span) else run, by, only)


def _of_roll_ups(
    connection: Connection,
    tables: tuple[Table, Table],
    when: tuple[Sequence[Span], int],
    by: Sequence[str],
    only: Only,
    *,
    timed: bool,
) -> Iterator[Sum]:
    usage, further = tables
    for table in tables:
        moment = next(iter(table.primary_key))
        first = moment if timed else literal(0)
        keys = [table.c[name] for name in by]
        fields: list[Any] = [] if table is usage else [further.c.field]
        units = [table.c[name] for name in BUILT_IN] if table is usage else [further.c.units]
        asked = (
            select(first, *keys, *fields, *map(func.sum, units))
            .where(only.at(moment, *when), *only.of(table))
            .group_by(*([moment] if timed else []), *keys, *fields)
        )
        names = BUILT_IN if table is usage else None
        yield from _told(connection.execute(asked), len(keys), names)


def _of_events(connection: Connection, runs: Sequence[Span], by: Sequence[str], only: Only) -> Iterator[Sum]:
    within = (_within(events.c.time_us, runs), *only.of(events))
    keys = [func.coalesce(events.c[name], "") for name in by]
    start = literal(runs[0].start_us)
    units = [func.sum(events.c[name]) for name in BUILT_IN]
    yield from _told(
        connection.execute(select(start, *keys, *units).where(*within).group_by(*keys)), len(keys), BUILT_IN
    )
    further = (
        select(start, *keys, quantities.c.field, func.sum(quantities.c.units))
        .join_from(events, quantities, quantities.c.event_id == events.c.id)
        .where(*within)
        .group_by(*keys, quantities.c.field)
    )
    yield from _told(connection.execute(further), len(keys), None)


def _told(rows: Iterable[Any], many: int, fields: Sequence[str] | None) -> Iterator[Sum]:
    """Read rows of a time, keys, and either the sums of fields or a field and its sum."""
    for start_us, *rest in rows:
        key = tuple(rest[:many])
        if fields is None:
            yield Sum(start_us, key, rest[many], int(rest[many + 1]))
            continue
        for field, units in zip(fields, rest[many:], strict=True):
            if units:  # without GROUP BY there is a row of NULLs where there is nothing
                yield Sum(start_us, key, field, int(units))


def _within(column: ColumnElement[Any], runs: Sequence[Span]) -> ColumnElement[bool]:
    return or_(*((column >= run.start_us) & (column < run.end_us) for run in runs))
