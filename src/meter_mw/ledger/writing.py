"""Events into the ledger: what is new is inserted and rolled up in one transaction; the rest is left.

Rule 1: rows are written in the order of their keys, so that two writers wait for each other and do not
        lock each other out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, bindparam, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from meter_mw.ledger.tables import VERSION, events, quantities, usage_hours

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Table

    from meter_mw.ledger.records import Record, Series

_KEY = [column.name for column in usage_hours.primary_key]
_EVENTS = [column.name for column in events.columns]
_STAGE = events.to_metadata(MetaData(), name=f"meter_stage_{VERSION}")
_MOST_ASKED = 900
"""Parameters in one statement; older builds of SQLite take 999."""


def write(connection: Connection, records: Sequence[Record]) -> set[str]:
    """Write records with ids of their own, and return the ids of those that were not there.

    The caller's transaction begins here, and is to be committed there.
    """
    ids = _DIALECTS[connection.dialect.name](connection, records)
    new = [record for record in records if record.id in ids]
    further = [row for record in new for row in record.further()]
    if further:
        connection.execute(insert(quantities), further)
    _roll_up(connection, new)
    return ids


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


_MERGE = (
    postgresql.insert(events)
    .from_select(_EVENTS, select(_STAGE).order_by(_STAGE.c.id))
    .on_conflict_do_nothing(index_elements=[events.c.id])
    .returning(events.c.id)
)


def _insert_postgresql(connection: Connection, records: Sequence[Record]) -> set[str]:
    """Copy to a stage of this session, and merge from there: a copy breaks off at one duplicate."""
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {_STAGE.name} (LIKE {events.name}) ON COMMIT DELETE ROWS"
    )
    cursor: Any = connection.connection.cursor()
    with cursor, cursor.copy(f"COPY {_STAGE.name} ({', '.join(_EVENTS)}) FROM STDIN") as copy:
        for record in records:
            copy.write_row([record.row[name] for name in _EVENTS])
    return set(connection.scalars(_MERGE))


_DIALECTS = {"sqlite": _insert_sqlite, "postgresql": _insert_postgresql}


def _upsert(table: Table, dialect: Any) -> Any:
    new = dialect.insert(table)
    return new.on_conflict_do_update(
        index_elements=_KEY,
        set_={name: table.c[name] + new.excluded[name] for name in ("units", "events")},
    )


_ADD = {"sqlite": _upsert(usage_hours, sqlite), "postgresql": _upsert(usage_hours, postgresql)}


def _roll_up(connection: Connection, records: Iterable[Record]) -> None:
    sums: dict[Series, list[int]] = {}
    for record in records:
        for series, units in record.shares():
            found = sums.setdefault(series, [0, 0])
            found[0] += units
            found[1] += 1
    if sums:
        rows = [
            {**dict(zip(_KEY, series, strict=True)), "units": units, "events": count}
            for series, (units, count) in sorted(sums.items())
        ]
        connection.execute(_ADD[connection.dialect.name], rows)
