"""A ledger, on each database: the identity goes and every sum stays, in one step or not at all."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from meter_mw.ledger.database import Database
from meter_mw.ledger.tables import ROLLED_UP, events, quantities
from meter_mw.model import ADJUSTMENT_EVENT, THRESHOLD_EVENT, SubjectId
from meter_mw.privacy.ledgers import LedgerPlace
from meter_mw.sinks.sql import SqlSink
from support.ledgers import HOUR_US, NOON_US, SOURCE, Ledger, PostgresLedger, SqliteLedger, usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

JANE, OTHER = "jane", "other"
TOMBSTONE = SubjectId("erased_0123456789abcdef")
EVENTS = [
    usage(1, subject=JANE, account="janes", key="k1_j", tokens=7),
    usage(2, subject=JANE, account="group", key="k1_j", time_us=NOON_US + 30 * HOUR_US, ip="203.0.113.0/24"),
    usage(3, subject=JANE, kind=ADJUSTMENT_EVENT, requests=-1, amends="1"),
    usage(4, subject=JANE, kind=THRESHOLD_EVENT),
    usage(5, subject=OTHER, account="group", key="k1_o", tokens=2),
]


@pytest.fixture(params=("sqlite", "postgresql"))
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param == "sqlite":
        return SqliteLedger(tmp_path)
    return PostgresLedger(request.getfixturevalue("postgres_server"))


@pytest.fixture
def database(ledger: Ledger) -> Iterator[Database]:
    sink = SqlSink(ledger.address, SOURCE)
    sink.send(EVENTS)
    sink.close()
    database = Database(ledger.address)
    yield database
    database.close()


def rows(database: Database) -> dict[str, list[Mapping[str, object]]]:
    """Give all rows of all tables that count."""
    with database.reading() as connection:
        return {
            table.name: sorted((dict(row) for row in connection.execute(select(table)).mappings()), key=repr)
            for table in (*ROLLED_UP, quantities, events)
        }


def amounts(found: Mapping[str, list[Mapping[str, object]]]) -> dict[str, list[tuple[object, ...]]]:
    """Give what rows say but for whom they are of; announcements have no amounts."""
    said = ("subject", "account", "key", "raw")
    return {
        name: sorted(
            tuple(value for column, value in row.items() if column not in said)
            for row in table
            if row.get("type") != THRESHOLD_EVENT
        )
        for name, table in found.items()
        if name != events.name
    } | {
        events.name: sorted((row["id"], row["requests"], row["response_bytes"]) for row in found[events.name])
    }


def requests_in(found: Mapping[str, list[Mapping[str, object]]]) -> list[int]:
    """Give the sums of requests in the two roll-ups of usage."""
    tables = ("meter_usage_hours", "meter_usage_days")
    return [sum(int(str(row["requests"])) for row in found[name]) for name in tables]


def test_the_name_goes_and_every_amount_stays(database: Database) -> None:
    before = rows(database)
    before[events.name] = [row for row in before[events.name] if row["type"] != THRESHOLD_EVENT]
    place = LedgerPlace(database, SOURCE)
    assert place.erase(JANE, TOMBSTONE) > 0
    after = rows(database)
    assert amounts(after) == amounts(before)
    text = repr(after)
    for word in (JANE, "janes", "k1_j", "203.0.113"):
        assert f"{word}'" not in text
        assert f'"{word}"' not in text
    assert list(place.held(JANE)) == []
    assert [row for row in after[events.name] if row["subject"] == OTHER] == [
        row for row in before[events.name] if row["subject"] == OTHER
    ]


def test_a_namesake_of_another_service_is_somebody_else(ledger: Ledger, database: Database) -> None:
    """An account that both have is not this subject's alone."""
    sink = SqlSink(ledger.address, SOURCE)
    theirs = [usage(8, subject=JANE, account="janes", source="urn:meter-mw:other")]
    sink.send(theirs)
    sink.close()
    LedgerPlace(database, SOURCE).erase(JANE, TOMBSTONE)
    found = rows(database)[events.name]
    assert {(row["source"], row["subject"]) for row in found if row["account"] == "janes"} == {
        ("urn:meter-mw:other", JANE),
        (SOURCE, TOMBSTONE),
    }
    assert [str(row["raw"]).encode() for row in found if row["source"] != SOURCE] == theirs


def test_an_event_stays_one_that_can_be_read(database: Database) -> None:
    LedgerPlace(database, SOURCE).erase(JANE, TOMBSTONE)
    raw = {str(row["id"]): json.loads(str(row["raw"])) for row in rows(database)[events.name]}
    first = next(event for event in raw.values() if event["data"].get("tokens") == 7)
    assert first["subject"] == TOMBSTONE
    assert first["data"]["account"] == TOMBSTONE
    shared = next(event for event in raw.values() if event["data"].get("account") == "group")
    assert not {"key", "ip"} & shared["data"].keys() or shared["subject"] == OTHER


def test_repeated_it_changes_nothing_more(database: Database) -> None:
    place = LedgerPlace(database, SOURCE)
    place.erase(JANE, TOMBSTONE)
    once = rows(database)
    assert place.erase(JANE, TOMBSTONE) == 0
    assert rows(database) == once


def test_who_comes_back_in_the_same_hour_is_added_to_what_is_kept(ledger: Ledger, database: Database) -> None:
    place = LedgerPlace(database, SOURCE)
    place.erase(JANE, TOMBSTONE)
    sink = SqlSink(ledger.address, SOURCE)
    sink.send([usage(6, subject=JANE, account="janes", tokens=1)])
    sink.send([usage(7, subject=JANE, account="also-janes", tokens=1)])
    sink.close()
    before = rows(database)
    sums = requests_in(before)
    place.erase(JANE, TOMBSTONE)
    after = rows(database)
    assert requests_in(after) == sums
    assert len(after["meter_usage_hours"]) == len(before["meter_usage_hours"]) - 2
    tokens = [row["units"] for row in after["meter_quantity_hours"] if row["subject"] == TOMBSTONE]
    assert tokens == [9]


def test_no_page_of_a_file_has_the_name(tmp_path: Path) -> None:
    """Nor its log of changes, while another process has the ledger open."""
    ledger = SqliteLedger(tmp_path)
    sink = SqlSink(ledger.address, SOURCE)
    sink.send(EVENTS)
    others = sqlite3.connect(ledger.path)
    others.execute("SELECT count(*) FROM meter_events").fetchall()
    LedgerPlace(Database(ledger.address), SOURCE).erase(JANE, TOMBSTONE)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "ledger.db-wal" in files
    assert [name for name, text in files.items() if b"jane" in text] == []
    others.close()
    sink.close()


def test_half_an_erasure_there_is_none(
    ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails on its way leaves all as it was."""
    before = rows(database)

    def fail(*_: object) -> int:
        raise OSError("the plug is pulled")

    monkeypatch.setattr("meter_mw.privacy.ledgers._rename", fail)
    with pytest.raises(OSError, match="plug"):
        LedgerPlace(database, SOURCE).erase(JANE, TOMBSTONE)
    assert rows(Database(ledger.address)) == before
