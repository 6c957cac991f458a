"""`meter-mw signals`, as it is called, on real ledgers and a real journal."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import sys
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from meter_mw.cli import main
from meter_mw.journal import Entry, read_journal
from meter_mw.ledger.database import Database
from meter_mw.ledger.retention import Retention, advance
from meter_mw.sinks.sql import SqlSink
from support.ledgers import SOURCE, Ledger, PostgresLedger, SqliteLedger, usage

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """
version: 1
service: shop
store: memory://
plans:
  default: {{}}
  pro:
    limits: [{{cap: 60/day}}]
    price:
      currency: USD
      spend_cap: 100.00
      warn: [50%, 80.00]
      charges: [{{meter: requests, unit: 0.10, included: 100, warn: [500]}}]
keys: [{{key: "${{ACME_KEY}}", subject: acme, plan: pro}}]
signals: {{least: 10, {signals}}}
events: {{journal: var, sinks: [{{sql: "{ledger}"}}]}}
"""
ENVIRON = {"METER_KEY_SECRET": "a-secret-of-some-length", "ACME_KEY": "sk_acme", "METER_POLICY": None}
DAY_US = 86_400_000_000
NOW = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp())
NOON_US = NOW * 1_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param == "sqlite":
        return SqliteLedger(tmp_path)
    return PostgresLedger(request.getfixturevalue("postgres_server"))


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder at noon of 21 November 2026, a Saturday."""
    monkeypatch.setattr("sys.path", [*sys.path])  # which the command adds to
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(import_module("meter_mw.cli.signals"), "time_ns", lambda: NOW * 10**9)


def shop(folder: Path, ledger: Ledger, signals: str = "holidays: []") -> None:
    """Have a policy, and ten weeks of a customer that spikes, one that is silent, and one that has come."""
    (folder / "meter.yaml").write_text(POLICY.format(ledger=ledger.address, signals=signals))
    if not isinstance(ledger, SqliteLedger):
        fill(ledger)
    elif _filled:
        ledger.path.write_bytes(_filled[0])
    else:
        fill(ledger)
        _filled.append(ledger.path.read_bytes())


_filled: list[bytes] = []
"""The file of a ledger that was filled before."""


def fill(ledger: Ledger) -> None:
    """Have ten weeks of events."""
    days = dict.fromkeys(range(70), 30)
    send(ledger, "acme", days | {3: 200}, plan="pro", key="k1_a", status=200)
    send(ledger, "globex", {day: units for day, units in days.items() if day > 4}, status=200)
    send(ledger, "globex", days, name="other", status=200, source="urn:meter-mw:other")
    send(ledger, "newcomer", dict.fromkeys(range(3), 5), status=200)


def send(ledger: Ledger, subject: str, calls: dict[int, int], name: str = "", **data: object) -> None:
    """Call so often on each day, counted back from today."""
    dice = random.Random(subject)
    sink = SqlSink(ledger.address, SOURCE)
    midnight_us = NOW // 86_400 * 86_400 * 1_000_000
    sink.send(
        [
            usage(
                f"{name or subject}-{ago}-{number}",
                subject=subject,
                time_us=midnight_us - ago * DAY_US + dice.randrange(DAY_US // 2),
                **data,
            )
            for ago, units in calls.items()
            for number in range(units)
        ]
    )
    sink.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["signals", *words], env=ENVIRON, catch_exceptions=False)


def rows(*words: str) -> list[dict[str, Any]]:
    result = run(*words, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def journaled(folder: Path) -> list[dict[str, Any]]:
    entries = (each for each in read_journal(folder / "var") if isinstance(each, Entry))
    return [json.loads(each.payload) for each in entries]


def test_what_changed_is_told_from_each_database(ledger: Ledger, tmp_path: Path) -> None:
    """With the figures behind it; a bill that has reached an amount is among it."""
    shop(tmp_path, ledger)
    found = rows()
    told = [(each["day"], each["subject"], each["signal"], each["about"]) for each in found]
    assert told == [
        ("2026-11-18", "acme", "spike", ""),
        ("2026-11-19", "globex", "silence", ""),
        ("2026-11-19", "newcomer", "first_use", ""),
        ("2026-11-21", "acme", "bill", "spend"),
        ("2026-11-21", "acme", "bill", "requests"),
    ]
    spike, silence, _, spend, units = found
    assert spike["evidence"] == {
        "calls": 200,
        "expected": 30,
        "most_before": 30,
        "times": 6.7,
        "looks_like": "growth",
        "like_before": "errors, hours, routes",
    }
    assert silence["evidence"]["days"] == 3
    period = {"period": "month", "since": "2026-11-01", "until": "2026-12-01"}
    assert spend["evidence"] == {"threshold": "50.00", "found": "70.00", "currency": "USD", **period}
    assert units["evidence"] == {"threshold": 500, "found": 800, **period}


def test_each_is_emitted_once(ledger: Ledger, tmp_path: Path) -> None:
    """Through the journal, under an id of its own; it is known from the journal, or else from the ledger."""
    shop(tmp_path, ledger)
    result = run("--emit")
    assert result.stderr == "5 recorded, 0 on record already\n"
    events = journaled(tmp_path)
    assert [each["type"] for each in events] == [
        "meter_mw.signal.spike.v1",
        "meter_mw.signal.silence.v1",
        "meter_mw.signal.first_use.v1",
        "meter_mw.billing_threshold.v1",
        "meter_mw.billing_threshold.v1",
    ]
    assert {each["source"] for each in events} == {SOURCE}
    assert [each["id"] for each in events] == [each["id"] for each in rows()]
    assert events[0]["time"] == "2026-11-19T00:00:00Z"
    assert events[0]["data"]["evidence"]["calls"] == 200
    assert events[3]["data"]["threshold"] == "50.00"
    assert run("--emit").stderr == "0 recorded, 5 on record already\n"
    sink = SqlSink(ledger.address, SOURCE)
    sink.send([json.dumps(each).encode() for each in events])
    sink.close()
    for estate in (tmp_path / "var").glob("*/"):
        for path in estate.iterdir():
            path.unlink()
    assert run("--emit").stderr == "0 recorded, 5 on record already\n"
    assert rows("--kind", "spike") == [each for each in rows() if each["signal"] == "spike"]


def test_a_signal_that_is_told_on_another_day_is_not_new(tmp_path: Path) -> None:
    """As after a change of thresholds, or when usage arrives late."""
    ledger = SqliteLedger(tmp_path)
    shop(tmp_path, ledger)
    assert run("--emit", "--kind", "silence").stderr == "1 recorded, 0 on record already\n"
    shop(tmp_path, ledger, "silence: {days: 2}")
    (silence,) = rows("--kind", "silence")
    assert silence["day"] == "2026-11-18"
    assert run("--emit", "--kind", "silence").stderr == "0 recorded, 1 on record already\n"


def test_a_stranger_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user in the journal's folder would be in the app's way."""
    shop(tmp_path, SqliteLedger(tmp_path))
    (tmp_path / "var").mkdir(exist_ok=True)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    result = run("--emit")
    assert result.exit_code == 1
    assert "belongs to" in result.stderr
    assert list((tmp_path / "var").iterdir()) == []


def test_what_the_ledger_forgets_is_not_told_again(tmp_path: Path) -> None:
    """Where it keeps no events of a day, nobody can say whether its signals were told."""
    ledger = SqliteLedger(tmp_path)
    shop(tmp_path, ledger)
    database = Database(ledger.address)
    with database.connected() as connection:
        advance(connection, Retention(events=DAY_US), NOON_US)
    database.close()
    result = run("--emit", "--kind", "spike", "--kind", "silence")
    assert result.stderr.splitlines() == [
        "0 recorded, 0 on record already",
        "2 left out: the ledger keeps no events of then",
    ]
    assert journaled(tmp_path) == []


def test_signals_change_no_usage(tmp_path: Path) -> None:
    """The ledger keeps them beside the events that count, and adds nothing up."""
    ledger = SqliteLedger(tmp_path)
    shop(tmp_path, ledger)
    before = ledger.rows("SELECT sum(events), sum(requests) FROM meter_usage_days")
    run("--emit")
    sink = SqlSink(ledger.address, SOURCE)
    sink.send([json.dumps(each).encode() for each in journaled(tmp_path)])
    sink.close()
    assert ledger.rows("SELECT sum(events), sum(requests) FROM meter_usage_days") == before
    assert ledger.rows("SELECT count(*) FROM meter_events WHERE type LIKE 'meter_mw.signal.%'") == [(3,)]


def test_a_table_and_csv(tmp_path: Path) -> None:
    """One row each, and what is asked for alone."""
    shop(tmp_path, SqliteLedger(tmp_path))
    result = run("--subject", "globex")
    assert result.stdout.splitlines() == [
        "day         subject  signal   about  score  evidence",
        "2026-11-19  globex   silence           1.0  days 3, longest_gap_before 0, expected 90",
    ]
    written = list(csv.DictReader(io.StringIO(run("--format", "csv").stdout)))
    assert [each["signal"] for each in written] == [each["signal"] for each in rows()]
    assert run("--kind", "errors").stderr == "nothing changed in that time\n"


def test_caps_that_press(tmp_path: Path) -> None:
    """Fifty of sixty calls on each of seven days."""
    ledger = SqliteLedger(tmp_path)
    shop(tmp_path, ledger)
    more = dict.fromkeys(range(4, 12), 20)
    send(ledger, "acme", more, name="more", plan="pro", status=200)
    (pressure,) = rows("--kind", "pressure", "--since", "2026-11-01")
    assert (pressure["about"], pressure["evidence"]["days_above"]) == ("requests-day", 7)


def test_bills_of_a_period_that_has_just_ended(tmp_path: Path) -> None:
    """Where it ended after the first day, its thresholds are told too: 930 requests in October."""
    shop(tmp_path, SqliteLedger(tmp_path))
    found = [each["evidence"] for each in rows("--kind", "bill", "--since", "2026-10-31")]
    assert [(each["since"], each["threshold"], each["found"]) for each in found] == [
        ("2026-10-01", "50.00", "83.00"),
        ("2026-10-01", "80.00", "83.00"),
        ("2026-10-01", 500, 930),
        ("2026-11-01", "50.00", "70.00"),
        ("2026-11-01", 500, 800),
    ]


def test_a_kind_that_is_off(tmp_path: Path) -> None:
    """And days that the policy calls holidays."""
    ledger = SqliteLedger(tmp_path)
    shop(tmp_path, ledger, "first_use: off, holidays: [2026-11-18]")
    assert [each["signal"] for each in rows()] == ["silence", "bill", "bill"]


def test_a_ledger_without_anything(tmp_path: Path) -> None:
    """Nothing is told, and nothing made."""
    ledger = SqliteLedger(tmp_path)
    (tmp_path / "meter.yaml").write_text(POLICY.format(ledger=ledger.address, signals="weeks: 4"))
    SqlSink(ledger.address, SOURCE).send([usage(1, source="urn:meter-mw:other")])
    result = run("--emit")
    assert (result.exit_code, journaled(tmp_path)) == (0, [])
    assert result.stderr.endswith("nothing changed in that time\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--until", "2026-11-21"], "--until: found 2026-11-21; expected a day that is over, 2026-11-20 or"),
        (["--since", "2026-11-21"], "--since: found 2026-11-21; expected 2026-11-20 or before"),
        (["--since", "yesterday"], "does not match the format"),
        (["--kind", "colour"], "is not one of"),
        (["--ledger", "sqlite:///nowhere.db"], "there is no such ledger"),
    ],
)
def test_what_cannot_be_asked_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    """Each refusal says what was found and what was expected."""
    shop(tmp_path, SqliteLedger(tmp_path))
    result = run(*words)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
