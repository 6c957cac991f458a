"""`meter-mw usage`: what the ledger has, by whatever is asked for, in each form."""

from __future__ import annotations

import csv
import io
import json
import stat
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meter_mw.cli import main
from meter_mw.meter import open_sinks
from meter_mw.policy.loader import load
from support.ledgers import HOUR_US, NOON_US, SOURCE, usage

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

POLICY = """
version: 1
service: shop
timezone: Europe/Paris
plans: {default: {limits: []}, pro: {limits: []}}
keys: [{key: "${ACME_KEY}", subject: acme, plan: pro, anchor: 2026-01-15, timezone: Asia/Kolkata}]
events: {sinks: [sql]}
"""
EVENTS = [
    usage(1, plan="pro", response_bytes=2_000, tokens=7),
    usage(2, plan="pro", route="write", time_us=NOON_US + 2 * HOUR_US),
    usage(3, subject="globex", time_us=NOON_US + 11 * HOUR_US, response_bytes=10),  # midnight in Paris
    usage(4, subject="acme", time_us=NOON_US + 20 * 24 * HOUR_US),
    usage(5, subject="globex", source="urn:meter-mw:other"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a policy, and a ledger at its usual place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "a-secret-for-this-test")
    monkeypatch.setenv("ACME_KEY", "a-key-of-acme-0001")
    monkeypatch.delenv("METER_POLICY", raising=False)
    (tmp_path / "meter.yaml").write_text(POLICY)
    (tmp_path / "var" / "meter").mkdir(parents=True)
    (sink,) = open_sinks(load("meter.yaml"))
    assert SOURCE == load("meter.yaml").source
    sink.send(EVENTS)
    sink.close()
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["usage", *arguments], catch_exceptions=False)


def rows(*arguments: str) -> list[dict[str, object]]:
    """Give the rows in JSON, which have to be those of the CSV too."""
    result = run(*arguments, "--format", "json")
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    written = csv.DictReader(io.StringIO(run(*arguments, "--format", "csv").stdout))
    assert [{name: str(value) for name, value in row.items()} for row in found] == list(written)
    return found


def test_a_table_has_a_column_for_each_meter(folder: Path) -> None:
    """Subjects are rows, built-in meters come first, and numbers are to the right."""
    assert stat.S_IMODE((folder / "var" / "meter" / "ledger.db").stat().st_mode) == 0o600
    assert run("--period", "2026-01").stdout.splitlines() == [
        "subject  requests  response_bytes  tokens",
        "acme            3           2,000       7",
        "globex          1              10       0",
    ]


def test_days_are_those_of_the_zone(folder: Path) -> None:
    """Midnight in Paris is a day later there than in UTC; a zone can be chosen."""
    wanted = {"requests": 1, "response_bytes": 10, "tokens": 0}
    asked = ("--by", "day, subject", "--period", "2026-01", "--subject", "globex", "--subject", "nobody")
    assert rows(*asked) == [{"day": "2026-01-02", "subject": "globex", "requests": 1, "response_bytes": 10}]
    assert rows(*asked, "--timezone", "UTC")[0]["day"] == "2026-01-01"
    (row, *_) = rows("--by", "hour,meter", "--period", "2026-01-02")
    assert row == {"hour": "2026-01-02T00:00+01:00", "meter": "requests", "units": wanted["requests"]}


def test_one_subject_has_its_own_zone_and_anchor(folder: Path) -> None:
    """Its month begins on the 15th at midnight in Kolkata."""
    assert rows("--subject", "acme", "--period", "2026-01") == [{"subject": "acme", "requests": 1}]
    assert rows("--subject", "acme", "--period", "2025-12")[0]["requests"] == 2


def test_a_row_for_each_meter(folder: Path) -> None:
    """With `meter` among the names a row has one field and its units, whatever else is told apart."""
    assert rows("--by", "plan,meter,route", "--since", "2026-01-01", "--until", "2026-01-01T14:00Z") == [
        {"plan": "pro", "meter": "requests", "route": "r", "units": 1},
        {"plan": "pro", "meter": "response_bytes", "route": "r", "units": 2000},
        {"plan": "pro", "meter": "tokens", "route": "r", "units": 7},
    ]


def test_nothing_is_said_to_be_nothing(folder: Path) -> None:
    """An empty answer is no error, and says so beside the header."""
    result = run("--period", "2020")
    assert (result.exit_code, result.stdout) == (0, "subject\n")
    assert result.stderr == "nothing was used in that time\n"


def test_a_file_in_place_of_the_terminal(folder: Path) -> None:
    """What would be printed is written, and nothing is printed."""
    printed = run("--period", "2026-01", "--format", "csv").stdout_bytes
    result = run("--period", "2026-01", "--format", "csv", "--output", "usage.csv")
    assert result.stdout == ""
    assert (folder / "usage.csv").read_bytes() == printed


def test_parquet_where_pyarrow_is(folder: Path) -> None:
    """A Parquet file has the same columns and rows; without pyarrow the words say what to install."""
    result = run("--period", "2026-01", "--format", "parquet", "--output", "usage.parquet")
    if find_spec("pyarrow") is None:
        assert result.exit_code == 1
        assert result.stderr == "Parquet needs pyarrow: pip install pyarrow; or choose csv or json\n"
        return
    from pyarrow import parquet  # noqa: PLC0415

    assert parquet.read_table("usage.parquet").to_pylist() == rows("--period", "2026-01")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "colour"], "found 'colour'; expected some of day, hour, subject"),
        (["--by", "day,hour"], "no more than one of day and hour"),
        (["--by", ""], "found 'nothing'; expected some of"),
        (["--period", "november"], "--period: found 'november'; expected a month, a day or a year"),
        (["--since", "yesterday"], "found 'yesterday'; expected a day or a time"),
        (["--since", "2026-01-02", "--until", "2026-01-01"], "expected a time before --until"),
        (["--until", "2026-01-01"], "--until: expected --since with it"),
        (["--since", "2026-01-01", "--period", "2026"], "--since: expected no --period with it"),
        (["--timezone", "Mars/Olympus"], "found 'Mars/Olympus'; expected an IANA zone"),
        (["--format", "parquet"], "expected --output FILE with it"),
        (["--ledger", "sqlite:///nowhere.db"], "nowhere.db: there is no such ledger"),
    ],
)
def test_what_cannot_be_asked_is_said(folder: Path, arguments: list[str], said: str) -> None:
    """Each refusal says what was found and what was expected, and nothing is created."""
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert not (folder / "nowhere.db").exists()
