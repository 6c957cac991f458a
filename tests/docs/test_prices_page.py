"""docs/prices.md: each number in it is worked out again, and each command prints what stands there."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from meter_mw.cli import main
from meter_mw.policy.loader import load
from meter_mw.rating.invoices import rate
from meter_mw.rating.usage import BillingPeriod, Stretch, Usage
from meter_mw.sinks.sql import SqlSink
from support.ledgers import HOUR_US, usage

PAGE = (Path(__file__).parents[2] / "docs" / "prices.md").read_text()
HEAD = "version: 1\nservice: docs\n"
ENVIRON = {"METER_KEY_SECRET": "k" * 32, "ACME_KEY": "sk_acme", "METER_POLICY": None}
KEYS = "keys: [{key: '${ACME_KEY}', subject: acme, plan: pro}]\n"
OCTOBER_US = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) * 1_000_000
NOW = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()) * 1_000_000_000
DAY_US = 24 * HOUR_US

POLICIES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
RUNS = re.findall(r"^```sh\n(.*?)\n```$.*?^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
ROWS = re.findall(r"^\| `(\{.*\})` \| (\d+) \| (.*) \| ([\d.]+) \|$", PAGE, re.MULTILINE)


def test_every_block_is_checked_here() -> None:
    assert len(re.findall(r"^```\w+$", PAGE, re.MULTILINE)) == len(POLICIES) + 2 * len(RUNS)
    assert (len(POLICIES), len(RUNS), len(ROWS)) == (2, 3, 8)


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_loads(policy: str, tmp_path: Path) -> None:
    (tmp_path / "meter.yaml").write_text(HEAD + policy)
    assert load(tmp_path / "meter.yaml", {"METER_KEY_SECRET": "k" * 32}).plans["pro"].prices


@pytest.mark.parametrize(("charge", "used", "arithmetic", "due"), ROWS)
def test_the_numbers_of_the_table(charge: str, used: str, arithmetic: str, due: str, tmp_path: Path) -> None:
    """The line that is said to come of a charge is the one that does, and so is what is due."""
    meters = "meters: {turnover: {count: reported}, egress: {count: response-bytes}}\n"
    text = f"{HEAD}{meters}plans: {{pro: {{price: {{currency: USD, charges: [{charge}]}}}}}}\n"
    (tmp_path / "meter.yaml").write_text(text)
    (prices,) = load(tmp_path / "meter.yaml", {"METER_KEY_SECRET": "k" * 32}).plans["pro"].prices
    meter = prices.tariffs[0].meter.name
    november = BillingPeriod(date(2026, 11, 1), date(2026, 12, 1))
    (invoice,) = rate([Stretch("pro", prices, 30, (Usage(meter, int(used)),), 8640)], november)
    assert invoice.total == Decimal(due)
    worked = [line.arithmetic.partition(" = ")[0] for line in invoice.lines if line.amount]
    assert ", ".join(worked) == arithmetic


@pytest.mark.parametrize(("command", "printed"), RUNS)
def test_each_command_prints_what_stands_there(
    command: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acme uses 250,000 requests and 8 GB a day, a third of that at weekends in November."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [])  # which the command adds to
    for name in ("invoice", "price"):
        monkeypatch.setattr(import_module(f"meter_mw.cli.{name}"), "time_ns", lambda: NOW)
    (tmp_path / "meter.yaml").write_text(HEAD + KEYS + POLICIES[0])
    (tmp_path / "new.yaml").write_text(HEAD + KEYS + POLICIES[0].replace("base: 49.00", "base: 39.00"))
    sink = SqlSink(f"sqlite:///{tmp_path}/usage.db", "urn:meter-mw:docs")
    sink.send([_day(number) for number in range(51)])
    sink.close()
    result = CliRunner().invoke(main, shlex.split(command)[1:], env=ENVIRON)
    assert result.exit_code == 0, result.output
    assert result.stdout == printed


def _day(number: int) -> bytes:
    quiet = 3 if number > 30 and (number - 31) % 7 in (0, 6) else 1
    return usage(
        number,
        source="urn:meter-mw:docs",
        time_us=OCTOBER_US + number * DAY_US,
        plan="pro",
        requests=250_000 // quiet,
        response_bytes=8 * 10**9 // quiet,
    )
