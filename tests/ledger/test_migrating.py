"""A ledger of an earlier release is brought forward, and is then as if it had been written by this one."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.ledger import migrating
from meter_mw.ledger.tables import VERSION, metadata
from meter_mw.sinks import Delivered, Duplicate
from meter_mw.sinks.sql import SqlSink
from support.ledgers import SOURCE, Ledger, PostgresLedger, SqliteLedger, usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.ledger.database import Database

FOLDER = Path(__file__).parent


@pytest.fixture
def old(ledger: Ledger) -> Ledger:
    """Give a ledger with the tables and rows that release 0.1 has written: version 1."""
    if isinstance(ledger, SqliteLedger):
        with sqlite3.connect(ledger.path) as connection:
            connection.executescript((FOLDER / "version_1_sqlite.sql").read_text())
        connection.close()
    else:
        ledger.run((FOLDER / "version_1_postgresql.sql").read_text())
    return ledger


def everything(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    """Give all rows of all tables."""
    return {
        table.name: sorted(ledger.rows(f"SELECT * FROM {table.name}"), key=repr)
        for table in metadata.sorted_tables
    }


def payloads(ledger: Ledger) -> list[bytes]:
    return [str(raw).encode() for (raw,) in ledger.rows("SELECT raw FROM meter_events ORDER BY time_us")]


def test_an_old_ledger_becomes_what_a_new_one_is(
    old: Ledger, sink: SqlSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row of every table is that of a ledger which had the same events from the beginning."""
    monkeypatch.setattr(migrating, "_BATCH", 5)
    events = payloads(old)
    assert sum(b"limited_by" in each for each in events) == 1
    more = [usage("new", status=200, tokens=3), events[0]]
    assert list(sink.send(more)) == [Delivered(), Duplicate()]
    (tmp_path / "fresh").mkdir()
    fresh = SqliteLedger(tmp_path / "fresh")
    with_all = SqlSink(fresh.address, SOURCE)
    with_all.send([*events, *more])
    with_all.close()
    assert everything(old) == everything(fresh)
    assert old.rows("SELECT version FROM meter_schema") == [(VERSION,)]


def test_reading_brings_it_forward_too(old: Ledger, database: Database) -> None:
    """Whoever opens it first does it, and who comes next finds it done."""
    for _ in range(2):
        with database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM meter_usage_days").scalar()
        database.close()


def test_many_processes_at_once(old: Ledger) -> None:
    """One brings it forward while the others wait; nothing is rolled up twice."""
    before = len(payloads(old))
    with ProcessPoolExecutor(4, get_context("fork")) as pool:
        assert list(pool.map(_send, [old.address] * 4, range(4))) == [1] * 4
    (sums,) = old.rows("SELECT sum(events) FROM meter_usage_hours")
    thresholds = sum(json.loads(each)["type"] == "meter_mw.threshold.v1" for each in payloads(old))
    assert sums == (before + 4 - thresholds,)


def _send(address: str, number: int) -> int:
    sink = SqlSink(address, SOURCE, timeout=30)
    outcomes: Sequence[object] = sink.send([usage(f"new-{number}")])
    sink.close()
    return outcomes.count(Delivered())


def test_what_breaks_off_leaves_the_old_tables(
    old: Ledger, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails undoes all of it; the next attempt succeeds."""
    rows = old.rows("SELECT * FROM meter_usage_hours")
    monkeypatch.setattr(migrating, "roll_up", _broken)
    assert not isinstance(sink.send([usage("new")])[0], Delivered)
    assert old.rows("SELECT * FROM meter_usage_hours") == rows
    assert old.rows("SELECT version FROM meter_schema") == [(1,)]
    monkeypatch.undo()
    assert list(sink.send([usage("new")])) == [Delivered()]


def _broken(*arguments: object) -> None:
    raise OSError("the disk is full")


def test_it_may_take_longer_than_a_transaction(
    postgres_server: object, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A great ledger takes its time: the timeout of a batch does not cut it off."""
    ledger = PostgresLedger(request.getfixturevalue("postgres_server"))
    ledger.run((FOLDER / "version_1_postgresql.sql").read_text())
    roll_up = migrating.roll_up
    sink = SqlSink(ledger.address, SOURCE, timeout=1)

    def slowly(*arguments: object) -> None:
        threading.Event().wait(1.5)
        roll_up(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(migrating, "roll_up", slowly)
    assert list(sink.send([usage("new")])) == [Delivered()]
    sink.close()
