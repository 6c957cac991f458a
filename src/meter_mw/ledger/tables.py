"""The tables of the ledger, the same on SQLite and PostgreSQL.

Rule 1: an event is there once, by its id, and is never changed.
Rule 2: a roll-up changes in the transaction that inserts the events it counts, and by those alone.
Rule 3: units are whole numbers and times whole µs since 1970 (UTC), of 64 bits: sums are exact, and one
        query gives one answer on every database.
Rule 4: a change here is a new VERSION, with a migration in `migrating`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, Table, Text

from meter_mw.ledger.records import BUILT_IN

VERSION = 2
"""The version of these tables. A ledger with a greater one is left alone."""

metadata = MetaData()


def _whole(*columns: str) -> CheckConstraint:
    """Keep SQLite from turning a sum that overflows 64 bits into a float."""
    are = " AND ".join(f"typeof({column}) = 'integer'" for column in columns)
    return CheckConstraint(are).ddl_if(dialect="sqlite")


schema = Table("meter_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))
"""One row: the version of the tables."""

retained = Table(
    "meter_retained",
    metadata,
    Column("grain", Text, primary_key=True),
    Column("since_us", BigInteger, nullable=False),
)
"""Since when the ledger has all `events`, `hours` and `days`; what is older may have been purged."""

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

SERIES = ("subject", "source", "account", "plan", "route")
"""What a roll-up of usage tells apart, beside the time; empty where an event has none."""

CLASSES = ("status_1xx", "status_2xx", "status_3xx", "status_4xx", "status_5xx")
SUMS = ("events", *BUILT_IN, "answers", *CLASSES, "status_429", "limited", "duration_us")
"""What a roll-up of usage adds up.

`answers` are the responses that statuses and durations are of: those of requests, a long exchange once.
`status_429` is in `status_4xx` too, `limited` counts what a limit stopped on its way.
"""


def _rolled_up(name: str, moment: str, *more: str, sums: tuple[str, ...]) -> Table:
    return Table(
        name,
        metadata,
        Column(moment, BigInteger, primary_key=True, autoincrement=False),
        *(Column(each, Text, primary_key=True) for each in (*SERIES, *more)),
        *(Column(each, BigInteger, nullable=False) for each in sums),
        _whole(*sums),
        sqlite_with_rowid=False,
    )


# Times come first in the keys: what is written now lies together, and so does a month.
usage_hours = _rolled_up("meter_usage_hours", "hour_us", sums=SUMS)
usage_days = _rolled_up("meter_usage_days", "day_us", sums=SUMS)
"""The roll-ups of an hour or a day of UTC, by when it begins."""

quantity_hours = _rolled_up("meter_quantity_hours", "hour_us", "field", sums=("units",))
quantity_days = _rolled_up("meter_quantity_days", "day_us", "field", sums=("units",))
"""The roll-ups of `quantities`, a row for each field."""

limited_hours = _rolled_up("meter_limited_hours", "hour_us", "limited_by", sums=("events",))
"""By the name of a limit, how many requests it stopped on their way."""


def _sketched(name: str, moment: str) -> Table:
    return Table(
        name,
        metadata,
        Column(moment, BigInteger, primary_key=True, autoincrement=False),
        *(Column(each, Text, primary_key=True) for each in ("source", "route", "measure")),
        Column("bucket", Integer, primary_key=True, autoincrement=False),
        Column("answers", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


sketch_hours = _sketched("meter_sketch_hours", "hour_us")
sketch_days = _sketched("meter_sketch_days", "day_us")
"""How many answers had a duration or size (`measure`) in a bucket of `sketches`."""

EVENT_GRAIN = (events, quantities)
HOUR_GRAIN = (usage_hours, quantity_hours, limited_hours, sketch_hours)
DAY_GRAIN = (usage_days, quantity_days, sketch_days)
ROLLED_UP = (*HOUR_GRAIN, *DAY_GRAIN)
