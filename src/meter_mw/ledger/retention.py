"""How long the ledger keeps what: events briefly, roll-ups long; what is over is purged in batches.

Rule 1: before anything is purged the ledger says since when it has all, in a transaction of its own that
        waits for writers; so no writer takes an event for new that was purged.
Rule 2: the clock that decides is the older of the machine's and of the newest event: one that jumps ahead
        purges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, tuple_, update

from meter_mw.ledger.spans import Span
from meter_mw.ledger.tables import DAY_GRAIN, HOUR_GRAIN, events, quantities, retained
from meter_mw.model import MeterError

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Table

GRAINS = ("events", "hours", "days")
"""What is kept, for no longer than what comes after it."""

ALWAYS_US = -(2**62)
"""Since when a ledger has all that has purged nothing."""

_EVERY_US = 600_000_000
_MOST = 5_000
"""Rows of a table in one transaction: about as much as a batch of events."""

_LOCK = int.from_bytes(sha256(b"meter_mw.ledger.retention").digest()[:8], "big", signed=True)


class Purged(MeterError):
    """What was asked for is kept no longer; says since when it is."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long each grain is kept, in µs; None for ever."""

    events: int | None = None
    hours: int | None = None
    days: int | None = None

    def __post_init__(self) -> None:
        """Refuse to keep anything longer than what it is summed up in."""
        spans = [getattr(self, grain) for grain in GRAINS]
        for grain, longer, span, least in zip(GRAINS, GRAINS[1:], spans, spans[1:], strict=False):
            if least is not None and (span is None or span > least):
                raise ValueError(f"the ledger keeps {longer} for less long than {grain}, which they sum up")

    def over(self, now_us: int) -> dict[str, int]:
        """Give since when each grain is still kept."""
        spans = {grain: getattr(self, grain) for grain in GRAINS}
        return {grain: now_us - span for grain, span in spans.items() if span is not None}


def hold(connection: Connection) -> None:
    """Begin a transaction that writes events; what is retained does not change in it."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({_LOCK})")


def since(connection: Connection, grain: str) -> int:
    """Give since when the ledger has all of a grain, in µs since 1970."""
    found = connection.scalar(select(retained.c.since_us).where(retained.c.grain == grain))
    return ALWAYS_US if found is None else int(found)


def check_kept(connection: Connection, grain: str, span: Span) -> None:
    """Make sure that the ledger has all of a grain in a span. Raises Purged."""
    since_us = since(connection, grain)
    if span.start_us < since_us:
        raise Purged(
            f"found {_minute(span.start)}; expected {_minute(Span(since_us, since_us).start)} or later,"
            f" as the ledger keeps no older {grain}"
        )


def advance(connection: Connection, retention: Retention, now_us: int) -> None:
    """Say since when the ledger has all, as what is older may go; commits."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    newest = connection.scalar(select(func.max(events.c.time_us)))
    if newest is not None:
        for grain, since_us in retention.over(min(now_us, int(newest))).items():
            connection.execute(
                update(retained)
                .where(retained.c.grain == grain, retained.c.since_us < since_us)
                .values(since_us=since_us)
            )
    connection.commit()


def purge(connection: Connection, most: int) -> int:
    """Delete up to so many rows, of each table, that are older than what is retained; commits.

    Returns how many were deleted; 0 when nothing is left to delete.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    done = _purge_events(connection, since(connection, "events"), most)
    for grain, tables in (("hours", HOUR_GRAIN), ("days", DAY_GRAIN)):
        since_us = since(connection, grain)
        done += sum(_purge_rows(connection, table, since_us, most) for table in tables)
    connection.commit()
    return done


class Purger:
    """Purges a ledger bit by bit, whoever else does so too."""

    def __init__(self, retention: Retention, *, every_us: int = _EVERY_US, most: int = _MOST) -> None:
        self._retention = retention
        self._every_us = every_us
        self._most = most
        self._due_us = ALWAYS_US if retention != Retention() else -ALWAYS_US
        self._advanced = False

    def is_due(self, now_us: int) -> bool:
        """Say whether something may be there to purge."""
        return now_us >= self._due_us

    def purge(self, connection: Connection, now_us: int) -> int:
        """Purge some rows and return how many; when none is left it is due again after a while."""
        if not self._advanced:
            advance(connection, self._retention, now_us)
            self._advanced = True
        done = purge(connection, self._most)
        if not done:
            self.put_off(now_us)
        return done

    def put_off(self, now_us: int) -> None:
        """Be due again after a while."""
        self._advanced, self._due_us = False, now_us + self._every_us


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%MZ}"


def _purge_events(connection: Connection, since_us: int, most: int) -> int:
    chosen = select(events.c.id).where(events.c.time_us < since_us).order_by(events.c.time_us).limit(most)
    ids = chosen.scalar_subquery()
    connection.execute(delete(quantities).where(quantities.c.event_id.in_(ids)))
    return connection.execute(delete(events).where(events.c.id.in_(ids))).rowcount


def _purge_rows(connection: Connection, table: Table, since_us: int, most: int) -> int:
    """Delete rows by their keys, the first of which is the time."""
    keys = list(table.primary_key)
    chosen = select(*keys).where(keys[0] < since_us).limit(most)
    return connection.execute(delete(table).where(tuple_(*keys).in_(chosen))).rowcount
