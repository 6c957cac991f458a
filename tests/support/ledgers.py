"""Ledgers in real databases, for tests to look behind the sink and to make it fail."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from support.postgres import PostgresServer

SOURCE = "urn:meter-mw:shop"
HOUR_US = 3_600_000_000
NOON_US = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Ledger(Protocol):
    """A database with nothing in it at first."""

    address: str
    timeout: float

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Ask it directly."""

    def run(self, statement: str) -> None:
        """Change it directly."""

    def fail(self) -> None:
        """Have it take nothing."""

    def recover(self) -> None:
        """Have it take all again."""


class SqliteLedger:
    """A file; it fails as one does that another program keeps locked."""

    timeout = 0.4

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.db"
        self.address = f"sqlite:///{self.path}"
        self._locker: sqlite3.Connection | None = None

    def rows(self, query: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def run(self, statement: str) -> None:
        connection = sqlite3.connect(self.path)
        try:
            connection.execute(statement)
            connection.commit()
        finally:
            connection.close()

    def fail(self) -> None:
        self._locker = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._locker.execute("BEGIN EXCLUSIVE")

    def recover(self) -> None:
        if self._locker is not None:
            self._locker.close()
            self._locker = None


class PostgresLedger:
    """A database of a running server; it fails as one does that an administrator has closed."""

    timeout = 10.0

    def __init__(self, server: PostgresServer, options: str = "") -> None:
        self.server = server
        self.database = server.database(options)
        self.address = server.url(self.database)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with self.server.connect(self.database) as connection:
            return connection.execute(query.encode()).fetchall()

    def run(self, statement: str) -> None:
        with self.server.connect(self.database) as connection:
            connection.execute(statement.encode())

    def fail(self) -> None:
        with self.server.connect() as connection:
            connection.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS false".encode())
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (self.database,)
            )

    def recover(self) -> None:
        with self.server.connect() as connection:
            connection.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS true".encode())


def usage(
    number: int | str,
    *,
    subject: str = "acme",
    time_us: int = NOON_US,
    kind: str = "meter_mw.request.v1",
    source: str = SOURCE,
    **data: object,
) -> bytes:
    """Give an event of usage; `data` beside one request."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": f"event-{number}",
            "source": source,
            "type": kind,
            "subject": subject,
            "time": (_EPOCH + timedelta(microseconds=time_us)).isoformat(),
            "data": {"requests": 1, "request_bytes": 0, "response_bytes": 0, "route": "r", **data},
        }
    ).encode()


def mixture(seed: int, count: int) -> list[bytes]:
    """Give events of several subjects, routes and hours, some with quantities of their own."""
    dice = random.Random(seed)
    return [
        usage(
            number,
            subject=dice.choice(("acme", "globex", "initech")),
            time_us=NOON_US + dice.randrange(-5 * HOUR_US, 5 * HOUR_US),
            route=dice.choice(("read", "write")),
            plan=dice.choice(("pro", "free")),
            status=200,
            response_bytes=dice.randrange(2**40),
            **dice.choice(({}, {"tokens": dice.randrange(2**50)}, {"requests": 0, "tokens": -3})),
        )
        for number in range(count)
    ]


FIELDS = ("requests", "request_bytes", "response_bytes", "tokens")


def facts(
    payloads: Iterable[bytes], start_us: int = -(2**62), end_us: int = 2**62
) -> dict[tuple[str, str], int]:
    """Add up what events say, each id once, in a span of time."""
    events = {each["id"]: each for each in map(json.loads, payloads)}.values()
    found: Counter[tuple[str, str]] = Counter()
    for each in events:
        moment = datetime.fromisoformat(each["time"]) - _EPOCH
        if start_us <= moment // timedelta(microseconds=1) < end_us:
            for field in FIELDS:
                found[each["subject"], field] += each["data"].get(field, 0)
    return {key: units for key, units in found.items() if units}


def rolled_up(ledger: Ledger) -> dict[tuple[object, object], int]:
    """Give the sums of the roll-ups; those of days have to be those of hours."""
    of_hours, of_days = (_sums(ledger, length) for length in ("hours", "days"))
    assert of_hours == of_days
    return of_hours


def _sums(ledger: Ledger, length: str) -> dict[tuple[object, object], int]:
    asked = [
        f"SELECT subject, '{each}', sum({each}) FROM meter_usage_{length} GROUP BY 1" for each in FIELDS[:3]
    ]
    asked.append(f"SELECT subject, field, sum(units) FROM meter_quantity_{length} GROUP BY 1, 2")
    found = ledger.rows(" UNION ALL ".join(asked))
    return {(subject, field): int(str(units)) for subject, field, units in found if units}


def ids(payloads: Sequence[bytes]) -> set[str]:
    """Give the ids of events."""
    return {str(json.loads(payload)["id"]) for payload in payloads}


def stored_ids(ledger: Ledger) -> set[object]:
    """Give the ids that the ledger has."""
    return {row[0] for row in ledger.rows("SELECT id FROM meter_events")}
