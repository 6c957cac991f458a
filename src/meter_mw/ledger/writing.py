"""Events into the ledger: what is new is inserted and rolled up in one transaction; the rest is left.

Rule 1: rows that others may write too are written in the order of their keys, so that two writers wait
        for each other and do not lock each other out.
Rule 2: an event that is older than what the ledger keeps is not written: nobody could say whether it was
        counted before its like were purged.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import MetaData, Table, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from meter_mw.ledger.retention import hold, since
from meter_mw.ledger.rolling import rolled_up
from meter_mw.ledger.tables import ROLLED_UP, VERSION, events, quantities

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from meter_mw.ledger.records import Record

_cells = itemgetter(*events.columns.keys())
"""Gives a row of `events` in the order of its columns."""

_MOST_ASKED = 900
"""Parameters in one statement; older builds of SQLite take 999."""


class Written(NamedTuple):
    """The ids that were not there before, and those of events that are too old to be told apart."""

    new: set[str]
    stale: set[str]


def write(connection: Connection, records: Sequence[Record]) -> Written:
    """Write records with ids of their own.

    The caller's transaction begins here, and is to be committed there.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    hold(connection)
    since_us = since(connection, "events")
    fresh = [record for record in records if record.time_us >= since_us]
    ids = (_insert_sqlite if is_sqlite else _insert_postgresql)(connection, fresh)
    roll_up(connection, [record for record in fresh if record.id in ids])
    old = [record.id for record in records if record.time_us < since_us]
    return Written(ids, {*old} - _known(connection, old))


def roll_up(connection: Connection, records: Sequence[Record]) -> None:
    """Add records that were just inserted to the roll-ups, and what else stands beside them."""
    add = _add_sqlite if connection.dialect.name == "sqlite" else _add_postgresql
    further = sorted(row for record in records for row in record.further())
    for table, rows in ((quantities, further), *rolled_up(records).items()):
        if rows:
            add(connection, table, rows)


def _known(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Give those of some ids that are there."""
    asked = select(events.c.id).where(events.c.id.in_(bindparam("ids", expanding=True)))
    known: set[str] = set()
    for start in range(0, len(ids), _MOST_ASKED):
        known |= set(connection.scalars(asked, {"ids": ids[start : start + _MOST_ASKED]}))
    return known


def _adding(new: Any, table: Table) -> Any:
    """Give the statement that adds what is new to what is there."""
    if table is quantities:
        return new
    sums = [column.name for column in table.columns if not column.primary_key]
    return new.on_conflict_do_update(
        index_elements=[column.name for column in table.primary_key],
        set_={name: table.c[name] + new.excluded[name] for name in sums},
    )


# -- SQLite: one writer at a time


def _positional(statement: Any) -> str:
    """Give the text of a statement: the driver is handed rows as they are, which is quick."""
    return str(statement.compile(dialect=sqlite.dialect()))


_ADD = {table: _positional(_adding(sqlite.insert(table), table)) for table in (quantities, *ROLLED_UP)}
_INSERT = _positional(sqlite.insert(events))


def _insert_sqlite(connection: Connection, records: Sequence[Record]) -> set[str]:
    """Insert under the one lock that SQLite has, so what was not there a moment ago is not there."""
    ids = [record.id for record in records]
    known = _known(connection, ids)
    rows = [_cells(record.row) for record in records if record.id not in known]
    if rows:
        connection.exec_driver_sql(_INSERT, rows)
    return set(ids) - known


def _add_sqlite(connection: Connection, table: Table, rows: Sequence[tuple[int | str, ...]]) -> None:
    connection.exec_driver_sql(_ADD[table], list(rows))


# -- PostgreSQL: copied to a stage of the session and merged from there, as a copy breaks off at a duplicate


def _stage_of(table: Table) -> Table:
    return table.to_metadata(MetaData(), name=f"{table.name}_{VERSION}_stage")


_STAGES = {table: _stage_of(table) for table in (events, quantities, *ROLLED_UP)}


def _from_stage(table: Table) -> Any:
    stage = _STAGES[table]
    keys = [stage.c[column.name] for column in table.primary_key]
    return postgresql.insert(table).from_select(table.columns.keys(), select(stage).order_by(*keys))


_MERGE = _from_stage(events).on_conflict_do_nothing(index_elements=[events.c.id]).returning(events.c.id)
_MERGE_SUMS = {table: _adding(_from_stage(table), table) for table in (quantities, *ROLLED_UP)}


def _insert_postgresql(connection: Connection, records: Sequence[Record]) -> set[str]:
    _copy(connection, events, (_cells(record.row) for record in records))
    return set(connection.scalars(_MERGE))


def _add_postgresql(connection: Connection, table: Table, rows: Iterable[Sequence[object]]) -> None:
    _copy(connection, table, rows)
    connection.execute(_MERGE_SUMS[table])


def _copy(connection: Connection, table: Table, rows: Iterable[Sequence[object]]) -> None:
    stage = _STAGES[table]
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {stage.name} (LIKE {table.name}) ON COMMIT DELETE ROWS"
    )
    connection.execute(delete(stage))  # of a copy before, in the same transaction
    cursor: Any = connection.connection.cursor()
    with cursor, cursor.copy(f"COPY {stage.name} ({', '.join(table.columns.keys())}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
