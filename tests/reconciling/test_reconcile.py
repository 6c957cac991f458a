"""`meter-mw reconcile`, on a real ledger and a real Redis: what agrees, what drifts, and why."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from meter_mw.cli import main
from meter_mw.events import encode
from meter_mw.journal import Journal
from meter_mw.meter import Meter, open_sinks
from meter_mw.model import SubjectId, UsageEvent
from meter_mw.policy.loader import load
from meter_mw.reconciling.report import Ledger, Reconciliation
from meter_mw.reconciling.sums import Adding
from meter_mw.rids import new_rid
from meter_mw.stores.memory import MemoryStore
from support.fakes.openmeter import TOKEN, FakeOpenMeter
from support.policies import request

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

YESTERDAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POLICY = """
version: 1
service: shop
store: {store}
on_store_failure: {{deadline: 5s}}
plans:
  default:
    limits: [{{name: monthly, cap: 1000/month}}, {{name: out, meter: egress, cap: 1 GB/month}}]
events:
  retention: 30 days
  sinks: [{{sql: "sqlite:///usage.db"}}]
"""


@pytest.fixture
def folder(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a policy on Redis whose ledger is in SQLite."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a-secret-for-this-test")
    monkeypatch.delenv("METER_POLICY", raising=False)
    (tmp_path / "meter.yaml").write_text(POLICY.format(store=redis_url))
    return tmp_path


def events(count: int, subject: str = "acme", at: datetime = YESTERDAY) -> list[bytes]:
    time_us = (at - EPOCH) // timedelta(microseconds=1)
    data = {"requests": 1, "request_bytes": 0, "response_bytes": 10, "route": "v1", "plan": "default"}
    made = [
        UsageEvent(new_rid(time_us), "urn:meter-mw:shop", SubjectId(subject), time_us + number, dict(data))
        for number in range(count)
    ]
    return [encode(each) for each in made]


def journal(*payloads: bytes) -> None:
    rules = load("meter.yaml")
    with_retention = Journal(rules.events.journal, rules.source)
    for each in payloads:
        with_retention.append(each)
    with_retention.close()


def deliver() -> None:
    meter = Meter("meter.yaml")
    meter.start()
    assert meter.flush(20)
    meter.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["reconcile", *words])


def rows(*words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("--json", "--all", *words).stdout.splitlines()]


def test_what_was_recorded_and_delivered_agrees(folder: Path) -> None:
    journal(*events(5), *events(2, "beta"))
    deliver()
    result = run("--no-store")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "4 compared, none unexplained" in result.stderr
    assert [(row["subject"], row["field"], row["recorded"], row["found"]) for row in rows("--no-store")] == [
        ("acme", "requests", 5, 5),
        ("acme", "response_bytes", 50, 50),
        ("beta", "requests", 2, 2),
        ("beta", "response_bytes", 20, 20),
    ]
    assert len(rows("--no-store", "--subject", "beta")) == 2


def test_what_is_under_way_is_no_drift(folder: Path) -> None:
    journal(*events(3))
    assert run("--no-store").exit_code == 0
    (row, _) = rows("--no-store")
    assert (row["place"], row["recorded"], row["found"]) == ("journal", 3, 3)


def test_a_ledger_that_lost_a_row_is_told_from_the_journal(folder: Path) -> None:
    journal(*events(5))
    deliver()
    with sqlite3.connect(folder / "usage.db") as database:
        for length in ("hours", "days"):
            database.execute(f"UPDATE meter_usage_{length} SET requests = requests - 1")
        database.execute("DELETE FROM meter_events WHERE id = (SELECT min(id) FROM meter_events)")
    result = run("--no-store", "--csv")
    assert result.exit_code == 1
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert (row["field"], row["recorded"], row["found"], row["drift"]) == ("requests", "4", "5", "1")
    assert row["cause"].startswith("more than was recorded")


def test_a_correction_after_the_window_is_late(folder: Path) -> None:
    (first, *rest) = events(5)
    journal(first, *rest)
    deliver()
    name = json.loads(first)["id"]
    assert CliRunner().invoke(main, ["adjust", name, "requests=-1", "--why", "x"]).exit_code == 0
    deliver()
    row = next(row for row in rows("--no-store") if row["field"] == "requests")
    assert (row["recorded"], row["found"], row["late"]) == (4, 4, -1)


def test_the_counters_of_the_store_are_compared(folder: Path) -> None:
    meter = Meter("meter.yaml")
    for _ in range(7):
        meter.conclude(meter.exchange(meter.admit(request(key="k")), "GET"))
    assert meter.flush(20)
    meter.close()
    found = [row for row in rows() if row["place"] == "store: monthly"]
    assert [(row["field"], row["recorded"], row["found"]) for row in found] == [("requests", 7, 7)]
    assert run().exit_code == 0
    rules = load("meter.yaml")
    (sink,) = open_sinks(rules)
    stray = json.loads(events(1, found[0]["subject"], datetime.now(UTC))[0])
    sink.send([json.dumps(stray).encode()])
    sink.close()
    result = run("--json")
    assert result.exit_code == 1
    missing = json.loads(result.stdout.splitlines()[0])
    assert (missing["place"], missing["recorded"], missing["found"]) == ("store: monthly", 8, 7)


def reconciliation(*, ledger: bool) -> Reconciliation:
    rules = load("meter.yaml")
    sinks = open_sinks(rules) if ledger else []
    return Reconciliation(rules, sinks, next((each for each in sinks if isinstance(each, Ledger)), None))


def test_the_journal_is_read_as_often_for_many_subjects_as_for_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal(*(event for number in range(20) for event in events(1, f"subject-{number}")))
    deliver()
    reads: list[object] = []
    read = Adding.read
    monkeypatch.setattr(Adding, "read", lambda adding, sinks: reads.append(adding) or read(adding, sinks))
    store = MemoryStore()
    assert len(list(reconciliation(ledger=True).counted(store, store.now_us()))) == 40
    assert len(reads) == 2


def test_what_a_journal_alone_does_not_keep_is_not_compared(folder: Path) -> None:
    """A cap counts for a month, and the journal keeps an hour of it: that is no drift."""
    text = (folder / "meter.yaml").read_text().replace("30 days", "1 hour")
    (folder / "meter.yaml").write_text(text)
    journal(*events(3, at=datetime.now(UTC)))
    store = MemoryStore()
    later_us = store.now_us() + 2 * 3_600_000_000
    assert list(reconciliation(ledger=False).counted(store, later_us)) == []


def test_a_backend_is_compared_by_what_it_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", TOKEN)
    backend = FakeOpenMeter("requests")
    backend.now = YESTERDAY.timestamp() + 60
    text = (folder / "meter.yaml").read_text()
    more = f'sinks: [{{openmeter: "{backend.url}", secret: "${{TOKEN}}", meters: {{requests: requests}}}}, '
    (folder / "meter.yaml").write_text(text.replace("sinks: [", more))
    try:
        journal(*events(5), *events(2, "beta"))
        deliver()
        assert run("--no-store").exit_code == 0
        found = [row for row in rows("--no-store") if "openmeter" in row["place"]]
        assert [(row["subject"], row["field"], row["found"]) for row in found] == [
            ("acme", "requests", 5),
            ("beta", "requests", 2),
        ]
    finally:
        backend.close()


def test_a_parked_event_is_accounted_for(folder: Path) -> None:
    (beyond,) = events(1)
    huge = json.loads(beyond)
    huge["data"]["response_bytes"] = 2**70  # no database takes it
    journal(*events(3), json.dumps(huge).encode())
    deliver()
    assert run("--no-store").exit_code == 0
    row = next(row for row in rows("--no-store") if row["field"] == "requests")
    assert (row["recorded"], row["found"], row["parked"]) == (4, 4, 0)
    with sqlite3.connect(folder / "usage.db") as database:
        (kept,) = database.execute("SELECT count(*) FROM meter_events").fetchone()
    assert kept == 3


def test_a_time_that_nobody_knows_of_is_told(folder: Path) -> None:
    text = (folder / "meter.yaml").read_text()
    (folder / "meter.yaml").write_text(text.replace('{sql: "sqlite:///usage.db"}', "stdout"))
    result = run("--no-store", "--from", "2020-01-01", "--to", "2020-01-02")
    assert result.exit_code == 1
    assert "keeps nothing of that time (events.retention), and no sink is a ledger" in result.stderr


def test_a_ledger_alone_is_compared_with_nothing(folder: Path) -> None:
    """The journal has let go of that time, and no backend can be asked: that is not called agreement."""
    (folder / "meter.yaml").write_text((folder / "meter.yaml").read_text().replace("30 days", "1 hour"))
    journal(*events(3))
    deliver()
    result = run("--no-store")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing compared" in result.stderr


def test_bad_windows_are_told(folder: Path) -> None:
    assert "neither for yesterday" in run("--from", "2026-01-01").stderr
    assert "is not before" in run("--from", "2026-01-02", "--to", "2026-01-01").stderr
    assert "still to come" in run("--from", "2026-01-02", "--to", "2999-01-01").stderr
    result = run("--from", "yesterday", "--to", "2026-01-01")
    assert result.exit_code == 2
    assert "expected a day or a minute" in result.stderr
    assert "whole minutes" in run("--from", "2026-01-01T00:00:01", "--to", "2026-01-02").stderr


def test_a_ledger_that_is_away_is_told(folder: Path) -> None:
    (folder / "usage.db").mkdir()
    result = run("--no-store")
    assert result.exit_code == 1
    assert "the ledger does not answer" in result.stderr
