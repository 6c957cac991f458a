"""How much the ledger has, by whatever is asked: exact for any span of time.

Whole days and hours come from the roll-ups, what is left of hours from the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import BigInteger, bindparam, column, func, literal, or_, select, values

from meter_mw.ledger.pieces import moments, pieces
from meter_mw.ledger.records import BUILT_IN, DAY_US, HOUR_US
from meter_mw.ledger.retention import check_kept
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

    from meter_mw.ledger.spans import Span

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
            return within(column, runs)
        listed: Any = bindparam(None, moments(runs, length_us), expanding=True, literal_execute=True)
        return column.in_(listed)


class Sum(NamedTuple):
    """Units of a field of one series, as far as it was asked to be told apart.

    `start_us` is when the day, hour or part of one begins that they are of, wherever times are told apart.
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
    check_names(by)
    taken = pieces(spans)
    for (grain, usage, further, length_us), runs in zip(_LEVELS, (taken.days, taken.hours), strict=True):
        if runs:
            check_kept(connection, grain, runs[0])
            yield from _of_roll_ups(connection, (usage, further), (runs, length_us), by, only, timed=timed)
    if taken.rest:
        check_kept(connection, "events", taken.rest[0])
        yield from _of_events(connection, taken.rest, by, only)


def check_names(by: Sequence[str]) -> None:
    """Raise ValueError for a name that is none of SERIES."""
    if unknown := [name for name in by if name not in SERIES]:
        raise ValueError(f"found {', '.join(unknown)}; expected some of {', '.join(SERIES)}")


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
    """Give the sums of each run."""
    columns = column("start_us", BigInteger), column("end_us", BigInteger)
    bounds = [(run.start_us, run.end_us) for run in runs]
    run = values(*columns, name="run", literal_binds=True).data(bounds).cte("runs")
    lies_in = (events.c.time_us >= run.c.start_us) & (events.c.time_us < run.c.end_us)
    joined = run.join(events, lies_in)
    keys = [run.c.start_us, *(func.coalesce(events.c[name], "") for name in by)]
    built_in = select(*keys, *(func.sum(events.c[name]) for name in BUILT_IN)).select_from(joined)
    yield from _told(connection.execute(built_in.where(*only.of(events)).group_by(*keys)), len(by), BUILT_IN)
    further = (
        select(*keys, quantities.c.field, func.sum(quantities.c.units))
        .select_from(joined.join(quantities, quantities.c.event_id == events.c.id))
        .where(*only.of(events))
        .group_by(*keys, quantities.c.field)
    )
    yield from _told(connection.execute(further), len(by), None)


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


def within(column: ColumnElement[Any], runs: Sequence[Span]) -> ColumnElement[bool]:
    """Give the condition that a time lies in one of some runs, of which there is one at least."""
    return or_(*((column >= run.start_us) & (column < run.end_us) for run in runs))
