"""The tables of a ledger: made where there are none, and brought forward from an earlier version.

Rule 1: each step is from one version to the next; all of them are one transaction.
Rule 2: what can be worked out from the events is worked out anew, by the code that writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from meter_mw.ledger.records import read
from meter_mw.ledger.retention import ALWAYS_US, GRAINS
from meter_mw.ledger.tables import ROLLED_UP, VERSION, events, metadata, quantities, retained, schema
from meter_mw.ledger.writing import roll_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

_BATCH = 5_000
"""Events that are read at a time."""


def create(connection: Connection) -> None:
    """Make the tables of this version."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(insert(schema), {"version": VERSION})
    _retain_all(connection)


def migrate(connection: Connection, version: int) -> None:
    """Bring the tables of an earlier version to this one."""
    while version < VERSION:
        _STEPS[version](connection)
        version += 1
    connection.execute(update(schema).values(version=VERSION))


def _retain_all(connection: Connection) -> None:
    connection.execute(insert(retained), [{"grain": grain, "since_us": ALWAYS_US} for grain in GRAINS])


def _to_2(connection: Connection) -> None:
    """Roll up by columns in place of rows for each field, and by days, statuses, limits and sketches too."""
    connection.exec_driver_sql("DROP TABLE meter_usage_hours")
    for table in (retained, *ROLLED_UP):
        table.create(connection)
    _retain_all(connection)
    connection.execute(quantities.delete())  # rolling up writes them again
    last = ""
    while True:
        asked = select(events.c.id, events.c.raw).where(events.c.id > last).order_by(events.c.id)
        rows = connection.execute(asked.limit(_BATCH)).all()
        if not rows:
            return
        roll_up(connection, [read(raw.encode()) for _, raw in rows])
        last = rows[-1][0]


_STEPS: Mapping[int, Callable[[Connection], None]] = {1: _to_2}
"""What leads from each version to the next."""
