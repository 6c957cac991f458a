"""An empty ledger on each database, and a sink that fills it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meter_mw.ledger.database import Database
from meter_mw.sinks.sql import SqlSink
from support.ledgers import SOURCE, Ledger, PostgresLedger, SqliteLedger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=("sqlite", "postgresql"))
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param == "sqlite":
        return SqliteLedger(tmp_path)
    return PostgresLedger(request.getfixturevalue("postgres_server"))


@pytest.fixture
def sink(ledger: Ledger) -> Iterator[SqlSink]:
    sink = SqlSink(ledger.address, SOURCE)
    yield sink
    sink.close()


@pytest.fixture
def database(ledger: Ledger) -> Iterator[Database]:
    database = Database(ledger.address)
    yield database
    database.close()
