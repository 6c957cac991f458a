"""The tables of the ledger, the same on SQLite and PostgreSQL.

Rule 1: an event is there once, by its id, and is never changed.
Rule 2: a roll-up changes in the transaction that inserts the events it counts, and by those alone.
Rule 3: units are whole numbers and times whole µs since 1970 (UTC), of 64 bits: sums are exact, and one
        query gives one answer on every database.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, Table, Text

from meter_mw.ledger.records import BUILT_IN

VERSION = 1
"""The version of these tables. A ledger with a greater one is left alone."""

metadata = MetaData()


def _whole(column: str) -> CheckConstraint:
    """Keep SQLite from turning a sum that overflows 64 bits into a float."""
    return CheckConstraint(f"typeof({column}) = 'integer'").ddl_if(dialect="sqlite")


schema = Table("meter_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))
"""One row: the version of the tables."""

events = Table(
    "meter_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("account", Text),
    Column("key", Text),
    Column("time_us", BigInteger, nullable=False),
    Column("route", Text),
    Column("method", Text),
    Column("status", Integer),
    Column("plan", Text),
    *(Column(name, BigInteger, nullable=False) for name in BUILT_IN),
    Column("duration_us", BigInteger),
    Column("overage", Text),
    Column("amends", Text),
    Column("policy", Text),
    Column("raw", Text, nullable=False),
    Index("meter_events_by_time", "time_us"),
    Index("meter_events_by_subject", "subject", "time_us"),
)
"""Every event, whatever its type. `overage` is a JSON object of units by limit, `raw` the event as recorded.

An event that bills nothing (a threshold) has zeros, no rows in `quantities`, and is in no roll-up.
"""

quantities = Table(
    "meter_quantities",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("field", Text, primary_key=True),
    Column("units", BigInteger, nullable=False),
    _whole("units"),
    sqlite_with_rowid=False,
)
"""What the app reported, and other quantities that few events have: a row each.

Rows and no JSON, as a column of 64 bits takes no fraction and both databases add it up exactly.
"""

usage_hours = Table(
    "meter_usage_hours",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("field", Text, primary_key=True),
    Column("hour_us", BigInteger, primary_key=True, autoincrement=False),
    Column("source", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    Column("plan", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("units", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    _whole("units"),
    sqlite_with_rowid=False,
)
"""The roll-ups: units of one field in the hour that begins at `hour_us`, and how many events had any.

`account`, `plan` and `route` are empty where an event has none.
"""
