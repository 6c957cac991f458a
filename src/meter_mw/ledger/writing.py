"""Events into the ledger: what is new is inserted and rolled up in one transaction; the rest is left.

Rule 1: rows that others may write too are written in the order of their keys, so that two writers wait
        for each other and do not lock each other out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, Table, bindparam, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from meter_mw.ledger.tables import VERSION, events, quantities, usage_hours

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from meter_mw.ledger.records import Record, Series

_KEY = [column.name for column in usage_hours.primary_key]
_MOST_ASKED = 900
"""Parameters in one statement; older builds of SQLite take 999."""


def write(connection: Connection, records: Sequence[Record]) -> set[str]:
    """Write records with ids of their own, and return the ids of those that were not there.

    The caller's transaction begins here, and is to be committed there.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    ids = (_insert_sqlite if is_sqlite else _insert_postgresql)(connection, records)
    new = [record for record in records if record.id in ids]
    further = [row for record in new for row in record.further()]
    if further:
        connection.execute(insert(quantities), further)
    added = _rolled_up(new)
    if added:
        (_add_sqlite if is_sqlite else _add_postgresql)(connection, added)
    return ids


def _rolled_up(records: Iterable[Record]) -> list[tuple[object, ...]]:
    """Give what records add to the roll-ups, as rows of those."""
    sums: dict[Series, list[int]] = {}
    for record in records:
        for series, units in record.shares():
            found = sums.setdefault(series, [0, 0])
            found[0] += units
            found[1] += 1
    return [(*series, units, count) for series, (units, count) in sums.items()]


def _upsert(new: Any) -> Any:
    return new.on_conflict_do_update(
        index_elements=_KEY,
        set_={name: usage_hours.c[name] + new.excluded[name] for name in ("units", "events")},
    )


# -- SQLite: one writer at a time


_ADD = _upsert(sqlite.insert(usage_hours))


def _insert_sqlite(connection: Connection, records: Sequence[Record]) -> set[str]:
    """Insert under the one lock that SQLite has, so what was not there a moment ago is not there."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    ids = [record.id for record in records]
    asked = select(events.c.id).where(events.c.id.in_(bindparam("ids", expanding=True)))
    known: set[str] = set()
    for start in range(0, len(ids), _MOST_ASKED):
        known |= set(connection.scalars(asked, {"ids": ids[start : start + _MOST_ASKED]}))
    rows = [record.row for record in records if record.id not in known]
    if rows:
        connection.execute(insert(events), rows)
    return set(ids) - known


def _add_sqlite(connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
    names = usage_hours.columns.keys()
    connection.execute(_ADD, [dict(zip(names, row, strict=True)) for row in rows])


# -- PostgreSQL: copied to a stage of the session and merged from there, as a copy breaks off at a duplicate


def _stage_of(table: Table) -> Table:
    return table.to_metadata(MetaData(), name=f"{table.name}_{VERSION}_stage")


_EVENTS_STAGE, _HOURS_STAGE = _stage_of(events), _stage_of(usage_hours)

_MERGE = (
    postgresql.insert(events)
    .from_select(events.columns.keys(), select(_EVENTS_STAGE).order_by(_EVENTS_STAGE.c.id))
    .on_conflict_do_nothing(index_elements=[events.c.id])
    .returning(events.c.id)
)
_MERGE_HOURS = _upsert(
    postgresql.insert(usage_hours).from_select(
        usage_hours.columns.keys(), select(_HOURS_STAGE).order_by(*(_HOURS_STAGE.c[name] for name in _KEY))
    )
)


def _insert_postgresql(connection: Connection, records: Sequence[Record]) -> set[str]:
    names = events.columns.keys()
    _copy(connection, events, _EVENTS_STAGE, ([record.row[name] for name in names] for record in records))
    return set(connection.scalars(_MERGE))


def _add_postgresql(connection: Connection, rows: Iterable[Sequence[object]]) -> None:
    _copy(connection, usage_hours, _HOURS_STAGE, rows)
    connection.execute(_MERGE_HOURS)


def _copy(connection: Connection, table: Table, stage: Table, rows: Iterable[Sequence[object]]) -> None:
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {stage.name} (LIKE {table.name}) ON COMMIT DELETE ROWS"
    )
    cursor: Any = connection.connection.cursor()
    with cursor, cursor.copy(f"COPY {stage.name} ({', '.join(table.columns.keys())}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
