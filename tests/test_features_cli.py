"""`meter-mw features`, as it is called, on a real ledger."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from meter_mw.cli import main
from meter_mw.sinks.sql import SqlSink
from support.ledgers import NOON_US, SOURCE, SqliteLedger, usage

if TYPE_CHECKING:
    from pathlib import Path

ENVIRON = {"METER_KEY_SECRET": "a-secret-of-some-length", "METER_POLICY": None}


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder with a policy and a ledger of January 2026."""
    monkeypatch.setattr("sys.path", [*sys.path])  # which the command adds to
    monkeypatch.chdir(tmp_path)
    ledger = SqliteLedger(tmp_path)
    sinks = f"events: {{journal: var, sinks: [{{sql: '{ledger.address}'}}]}}"
    (tmp_path / "meter.yaml").write_text(f"version: 1\nservice: shop\nstore: memory://\n{sinks}\n")
    sink = SqlSink(ledger.address, SOURCE)
    sink.send(
        [
            usage(1, route="read", status=200, duration_us=1_000, response_bytes=100),
            usage(2, route="read", status=200, duration_us=1_000, response_bytes=100, subject="globex"),
            usage(3, route="read", status=500, duration_us=2_000_000),
            usage(4, route="write", status=429, duration_us=500),
        ]
    )
    sink.close()
    assert NOON_US // 86_400_000_000 == 20454  # 1 January 2026


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["features", *words], env=ENVIRON, catch_exceptions=False)


def rows(*words: str) -> list[dict[str, Any]]:
    """Give the rows in JSON, which have to be those of the CSV too."""
    words = ("--period", "2026-01", *words)
    found = [json.loads(line) for line in run(*words, "--format", "json").stdout.splitlines()]
    written = list(csv.DictReader(io.StringIO(run(*words, "--format", "csv").stdout)))
    told = [{name: "" if value is None else str(value) for name, value in row.items()} for row in found]
    assert told == written
    return found


def test_use() -> None:
    """The most used first, or the least."""
    read, write = rows()
    assert (read["route"], read["answers"], read["share_%"], read["subjects"]) == ("read", 3, 75.0, 2)
    assert (read["errors_%"], write["refused_%"]) == (33.33, 100.0)
    assert read["p50_ms"] == pytest.approx(1.0, rel=0.02)
    assert [each["route"] for each in rows("--least")] == ["write", "read"]


def test_adoption() -> None:
    """By week and route."""
    assert rows("--view", "adoption") == [
        {"week": "2025-12-29", "route": "read", "subjects": 2, "new_subjects": 2}
    ]


def test_friction() -> None:
    """What is slow can be said."""
    read, write = rows("--view", "friction")
    assert (read["route"], read["server_errors"], read["slow"], read["share_of_all_%"]) == (
        "read",
        1,
        1,
        50.0,
    )
    assert (write["refused"], write["subjects"]) == (1, 1)
    assert rows("--view", "friction", "--slow", "5000")[0]["slow"] == 0


def test_a_table() -> None:
    """Numbers are to the right; an empty answer says so."""
    assert run("--period", "2026-01", "--view", "adoption").stdout.splitlines() == [
        "week        route  subjects  new_subjects",
        "2025-12-29  read          2             2",
    ]
    assert run("--period", "2020").stderr == "nothing was answered in that time\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--period", "november"], "--period: found 'november'; expected a month, a day or a year"),
        (["--view", "friction", "--least"], "--least: expected --view use with it, not friction"),
        (["--slow", "0"], "0 is not in the range x>=1"),
        (["--view", "colour"], "is not one of"),
    ],
)
def test_what_cannot_be_asked_is_said(words: list[str], said: str) -> None:
    """Each refusal says what was found and what was expected."""
    result = run(*words)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
