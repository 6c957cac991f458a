"""`meter-mw top`: who is busy in the last minute, told by the ledger, or by the journal alike."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meter_mw.cli import main
from meter_mw.journal import Journal
from meter_mw.meter import open_sinks
from meter_mw.policy.loader import load
from support.ledgers import SOURCE, usage

if TYPE_CHECKING:
    from collections.abc import Sequence

METER_MW = Path(sys.executable).with_name("meter-mw")
SQL = "\nversion: 1\nservice: shop\nevents: {retention: 1 hour, sinks: [sql]}\n"
FILE = SQL.replace("sql", "{file: usage.jsonl}")


def events() -> list[bytes]:
    """Give what happened in the last minute, and some that happened before or is no request."""
    now_us = time.time_ns() // 1000 - 1_000_000
    told = [
        usage(n, time_us=now_us, status=200, duration_us=2_000 * n, response_bytes=700_000, route="read")
        for n in range(1, 4)
    ]
    told += [usage("slow", subject="globex", time_us=now_us, status=503, duration_us=250, route="read")]
    told += [usage("write", time_us=now_us, status=404, route="write")]
    told += [usage("old", time_us=now_us - 3_600_000_000, status=200)]
    told += [usage("void", kind="meter_mw.adjustment.v1", requests=-1, time_us=now_us, status=200)]
    return told


WANTED = [
    "subject  requests  a second  errors  mean ms  bytes in  bytes out",
    "acme            4       0.1       1      3.0         0  2,100,000",
    "globex          1       0.0       1      0.2         0          0",
    "",
    "route  requests  a second  errors  mean ms  bytes in  bytes out",
    "read          4       0.1       1      3.1         0  2,100,000",
    "write         1       0.0       1      0.0         0          0",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a-secret-for-this-test")
    monkeypatch.delenv("METER_POLICY", raising=False)
    return tmp_path


def into_the_ledger(payloads: Sequence[bytes]) -> None:
    Path("meter.yaml").write_text(SQL)
    Path("var/meter").mkdir(parents=True)
    (sink,) = open_sinks(load("meter.yaml"))
    sink.send(payloads)
    sink.close()


def into_the_journal(payloads: Sequence[bytes], policy: str) -> None:
    Path("meter.yaml").write_text(policy)
    journal = Journal(load("meter.yaml").events.journal, SOURCE)
    for each in (*payloads, payloads[0], b"no event"):  # a copy counts once
        journal.append(each)
    journal.close()


def top(*arguments: str) -> list[str]:
    result = CliRunner().invoke(main, ["top", "--once", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("place", ["ledger", "journal"])
def test_the_busiest_of_the_last_minute(folder: Path, place: str) -> None:
    """Subjects and routes with what they were answered, the busiest first, the same from either place."""
    if place == "ledger":
        into_the_ledger(events())
    else:
        into_the_journal(events(), FILE)
    title, _, *tables = top()
    assert title.startswith("shop, 20")
    assert title.endswith(" UTC: 5 requests in the last 60 s")
    assert tables == WANTED


def test_a_journal_beside_a_ledger_can_be_chosen(folder: Path) -> None:
    """What is not in the ledger yet is in the journal."""
    into_the_journal(events(), SQL)
    assert top("--journal")[2:] == WANTED
    result = CliRunner().invoke(main, ["top", "--once"])
    assert result.exit_code == 1
    assert "there is no such ledger" in result.stderr


def test_few_rows_and_a_longer_time(folder: Path) -> None:
    """What is left out is counted."""
    into_the_ledger(events())
    lines = top("--rows", "1", "--last", "3600")
    assert lines[2].startswith("subject")
    assert lines[3].startswith("acme")
    assert lines[4] == "and 1 more"


def test_it_goes_on_until_interrupted(folder: Path) -> None:
    """What comes meanwhile shows; Ctrl-C ends it."""
    into_the_ledger(events())
    with subprocess.Popen(
        [METER_MW, "top", "--every", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        titles = (line for line in iter(process.stdout.readline, "") if line.startswith("shop"))
        assert "5 requests" in next(titles)
        (sink,) = open_sinks(load("meter.yaml"))
        sink.send([usage("more", time_us=time.time_ns() // 1000, status=200)])
        sink.close()
        assert any("6 requests" in title for title in titles)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
