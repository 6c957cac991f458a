"""`meter-mw invoice` and `meter-mw price`, as they are called, on real ledgers."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from meter_mw.cli import main
from meter_mw.sinks.sql import SqlSink
from support.ledgers import HOUR_US, SOURCE, Ledger, PostgresLedger, SqliteLedger, usage

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """
version: 1
service: shop
store: {store}
keys: {keys}
plans:
  default: {{}}
  pro:
    price:
      base: {base}
      currency: USD
      charges:
        - {{meter: requests, included: 1000, tiers: [{{up_to: 5000, unit: 0.02}}, {{unit: 0.01}}]}}
        - {{meter: egress, per: 1 GB, unit: 0.09}}
      credits: [{{name: "welcome <b>credit</b>", amount: 20, from: 2026-09-15}}]
events: {{journal: var, sinks: [{{sql: "{ledger}"}}]}}
"""
LISTED = "[{key: '${ACME_KEY}', subject: acme, plan: pro, anchor: 2026-01-15, timezone: Europe/Paris}]"
ENVIRON = {"METER_KEY_SECRET": "a-secret-of-some-length", "ACME_KEY": "sk_acme", "METER_POLICY": None}
NOW = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()) * 1_000_000_000
OCTOBER_US = int(datetime(2026, 10, 14, 22, tzinfo=UTC).timestamp()) * 1_000_000
"""Midnight of 15 October in Paris."""


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param == "sqlite":
        return SqliteLedger(tmp_path)
    return PostgresLedger(request.getfixturevalue("postgres_server"))


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder at noon of 21 November 2026."""
    monkeypatch.setattr("sys.path", [*sys.path])  # which the command adds to
    monkeypatch.chdir(tmp_path)
    for module in ("invoice", "price"):
        monkeypatch.setattr(import_module(f"meter_mw.cli.{module}"), "time_ns", lambda: NOW)


def written(folder: Path, ledger: Ledger, name: str = "meter.yaml", **more: str) -> None:
    said = {"base": "49.00", "keys": LISTED, "store": "memory://", "ledger": ledger.address}
    (folder / name).write_text(POLICY.format(**said | more))


def fill(ledger: Ledger, subject: str = "acme", *, days: int = 36, plan: str = "pro") -> None:
    """Use 100 requests and 1 GB on each day from 15 October on, at its first instant and once more."""
    sink = SqlSink(ledger.address, SOURCE)
    moments = [OCTOBER_US + day * 24 * HOUR_US + hour for day in range(days) for hour in (0, 2 * HOUR_US)]
    sink.send(
        [
            usage(
                f"{subject}-{n}",
                subject=subject,
                time_us=us,
                plan=plan,
                requests=50,
                response_bytes=5 * 10**8,
            )
            for n, us in enumerate(moments)
        ]
    )
    sink.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, [*words], env=ENVIRON)


def documents(*words: str) -> Any:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_invoice_is_the_same_from_each_database(ledger: Ledger, tmp_path: Path) -> None:
    """The period is acme's own: from the 15th, in Paris, where clocks are set back on the 25th of October."""
    written(tmp_path, ledger)
    fill(ledger)
    result = run("invoice", "acme", "--period", "2026-10")
    assert result.exit_code == 0, result.output
    assert result.stdout == INVOICE


INVOICE = """\
acme, 2026-10-15 to 2026-11-15 (not included), Europe/Paris

plan  for                                               quantity  amount  how it comes about
pro   base fee                                                     49.00  49.00 USD
pro   requests, included                                   1,000    0.00  1,000 of 1,000 included
pro   requests, beyond the included, up to 5,000           2,150   43.00  2,150 × 0.02 = 43.00 USD
pro   egress                                      31,500,000,000    2.84  31,500,000,000 B / 1 GB × 0.09 = 2.835, rounded 2.84 USD
      total                                                        94.84  USD

plan  used                     units  days  most on        units then
pro   requests                 3,150    31  2026-10-25            150
pro   response_bytes  31,500,000,000    31  2026-10-25  1,500,000,000
"""  # noqa: E501 - as it is printed


def test_without_a_period_it_is_the_last_that_is_over(tmp_path: Path) -> None:
    """And what a credit has paid before is gone: 20 USD in September."""
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    fill(sqlite)
    assert run("invoice", "acme").stdout == INVOICE
    earlier = documents("invoice", "acme", "--period", "2026-09", "--format", "json")["invoices"][0]
    assert (earlier["due"], earlier["credits"], earlier["total"]) == ("49.00", "-20.00", "29.00")
    assert earlier["lines"][-1]["arithmetic"] == "20.00 of 20.00 USD; 0.00 left"


def test_json_has_every_line_and_the_usage_behind_it(tmp_path: Path) -> None:
    """Amounts and quantities are texts, and add up."""
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    fill(sqlite)
    found = documents("invoice", "acme", "--period", "2026-10", "--format", "json")
    (invoice,) = found["invoices"]
    assert found["period"] == {
        "kind": "month",
        "start": "2026-10-15",
        "end": "2026-11-15",
        "timezone": "Europe/Paris",
        "is_open": False,
    }
    assert sum(Decimal(line["amount"]) for line in invoice["lines"]) == Decimal(invoice["total"])
    assert invoice["lines"][2] == {
        "kind": "usage",
        "description": "requests, beyond the included",
        "plan": "pro",
        "meter": "requests",
        "quantity": "2150",
        "tier": "up to 5,000",
        "unit": "0.02",
        "amount": "43.00",
        "arithmetic": "2,150 × 0.02 = 43.00 USD",
        "source": "plans.pro.price.charges[0]",
    }
    billed = sum(int(line["quantity"]) for line in invoice["lines"] if line["meter"] == "requests")
    assert billed == sum(row["units"] for row in found["usage"] if row["field"] == "requests") == 3150
    assert len({row["day"] for row in found["usage"]}) == 31


def test_a_preview_has_its_range_and_its_method(tmp_path: Path) -> None:
    """It is the period that is not over, from 15 November on; usage ends on the 19th."""
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    fill(sqlite)
    found = documents("invoice", "acme", "--preview", "--format", "json")
    assert (found["period"]["start"], found["period"]["is_open"]) == ("2026-11-15", True)
    assert found["preview"]["method"].startswith(
        "the mean of the complete days of the same weekday, of the 28"
    )
    low, so_far, high = (Decimal(found["preview"][name][0]["total"]) for name in ("low", "so_far", "high"))
    assert so_far <= low < Decimal(found["invoices"][0]["total"]) < high
    shown = run("invoice", "acme", "--preview").stdout
    assert "not over yet" in shown
    assert f"high        {high}  USD" in shown


class _Page(HTMLParser):
    """Reads a page: which elements are open, what is written in cells, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.loads: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.mark.parametrize("words", [["--period", "2026-09"], ["--preview"], ["--period", "2026-11"]])
def test_a_page_stands_alone_and_shows_nothing_unescaped(words: list[str], tmp_path: Path) -> None:
    """Every element is closed, nothing is loaded, and a name with tags in it is text."""
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite, keys=LISTED.replace("subject: acme", "subject: '<script>acme'"))
    fill(sqlite, "<script>acme")
    result = run("invoice", "<script>acme", *words, "--format", "html")
    page = _Page(result.stdout)
    assert (page.open, page.loads) == ([], [])
    assert "<script" not in result.stdout
    assert "&lt;script&gt;acme" in result.stdout
    assert "url(" not in result.stdout
    assert "49.00 USD" in page.cells
    if words[-1] == "2026-09":
        assert "welcome <b>credit</b>" in page.cells
        assert "29.00 USD" in page.cells
    assert ("is not over" in result.stdout) is (words[-1] != "2026-09")


def test_a_subject_that_is_in_no_list_is_told_of(tmp_path: Path) -> None:
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    fill(sqlite, "globex")
    told = ("--plan", "pro", "--timezone", "Europe/Paris", "--anchor", "2026-01-15")
    assert run("invoice", "globex", *told).stdout == INVOICE.replace("acme", "globex")
    assert "2026-10-01 to 2026-11-01 (not included), UTC" in run("invoice", "globex").stdout


def test_a_subject_of_the_registry_has_the_terms_that_stand_there(tmp_path: Path, redis_url: str) -> None:
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite, keys="{redis: true}", store=redis_url)
    made = run(
        "keys", "create", "acme", "--plan", "pro", "--anchor", "2026-01-15", "--timezone", "Europe/Paris"
    )
    assert made.exit_code == 0, made.output
    fill(sqlite)
    assert run("invoice", "acme").stdout == INVOICE


def test_what_is_not_billed_is_said(tmp_path: Path) -> None:
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    fill(sqlite, "globex", days=1, plan="default")
    assert run("invoice", "globex", "--period", "2026-10").stdout == (
        "globex, 2026-10-01 to 2026-11-01 (not included), UTC\n"
        "nothing is due: no plan with a price held then\n"
        "\n"
        "not billed here: plan default has no price then, so nothing of it is billed:"
        " 100 requests, 1,000,000,000 response_bytes\n"
        "\n"
        "plan     used                    units  days  most on      units then\n"
        "default  requests                  100     2  2026-10-14           50\n"
        "default  response_bytes  1,000,000,000     2  2026-10-14  500,000,000\n"
    )
    page = run("invoice", "globex", "--period", "2026-10", "--format", "html").stdout
    assert "Nothing is due" in page
    assert "Not billed here" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--period", "2026-13"], "--period: found '2026-13'; expected a month"),
        (["--period", "2026-12"], "--period: 2026-12 is still to come"),
        (["--period", "2025-12"], "--period: the first period of acme begins on 2026-01-15"),
        (["--period", "2026-10", "--preview"], "--period: 2026-10 is over; there is nothing to project"),
        (["--plan", "pro"], "SUBJECT: the policy lists acme; its plan, zone and anchor stand there"),
        (["--timezone", "Mars/Base"], '--timezone: found "Mars/Base"'),
        (["--ledger", "mysql://x/y"], "--ledger: expected sqlite, postgresql"),
        (["--ledger", "sqlite:///"], "--ledger: an SQLite ledger is a file"),
        (["--ledger", "sqlite:///none.db"], "there is no such ledger"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], said: str, tmp_path: Path) -> None:
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    fill(sqlite, days=1)
    result = run("invoice", "acme", *words)
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert result.stdout == ""


def test_a_policy_without_a_ledger_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "meter.yaml").write_text("version: 1\nservice: shop\n")
    result = run("invoice", "acme")
    assert result.exit_code == 1
    assert "found no sink of kind sql; name a ledger with --ledger, or write - sql" in result.stderr


def test_a_ledger_that_is_none_says_so(tmp_path: Path) -> None:
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    sqlite.path.write_bytes(b"no database" * 100)
    result = run("invoice", "acme")
    assert result.exit_code == 1
    assert "does not answer: SQLITE_NOTADB" in result.stderr


# -- other prices


def test_other_prices_are_set_beside(ledger: Ledger, tmp_path: Path) -> None:
    """Acme's base falls by 10 USD; globex, on the plan without a price, owes nothing either way."""
    written(tmp_path, ledger)
    written(tmp_path, ledger, "new.yaml", base="39.00")
    fill(ledger)
    fill(ledger, "initech")
    fill(ledger, "globex", plan="default")
    result = run("price", "--what-if", "new.yaml", "--period", "2026-10")
    assert result.exit_code == 0, result.output
    assert result.stdout == WHAT_IF


WHAT_IF = """\
subject  currency     now    then  difference      %
acme     USD        94.84   84.84      -10.00  -10.5
initech  USD        65.58   55.58      -10.00  -15.2
all      USD       160.42  140.42      -20.00
USD: 0 would pay more, 2 less, 0 the same
"""


def test_other_prices_as_json(tmp_path: Path) -> None:
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    written(tmp_path, sqlite, "new.yaml", base="59.00")
    fill(sqlite)
    assert documents("price", "--what-if", "new.yaml", "--subject", "acme", "--json") == {
        "subjects": [
            {
                "subject": "acme",
                "currency": "USD",
                "now": "94.84",
                "then": "104.84",
                "notes": [],
                "difference": "10.00",
                "percent": "10.5",
            }
        ],
        "sums": [{"currency": "USD", "now": "94.84", "then": "104.84", "more": 1, "less": 0, "same": 0}],
    }


def test_nobody_to_compare_is_said(tmp_path: Path) -> None:
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite, keys="[]")
    fill(sqlite, days=0)
    SqlSink(sqlite.address, SOURCE).send([usage(1, subject="globex", plan="default", time_us=OCTOBER_US)])
    result = run("price", "--what-if", "meter.yaml", "--period", "2026-10")
    assert result.stdout == "nothing compared: nobody has used anything then, or is billed\n"


def test_other_prices_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    sqlite = SqliteLedger(tmp_path)
    written(tmp_path, sqlite)
    written(tmp_path, sqlite, "new.yaml", base="49.005")
    result = run("price", "--what-if", "new.yaml")
    assert result.exit_code == 1
    assert (
        "new.yaml:10:13: plans.pro.price.base: found 49.005, which has more than the 2 decimals of USD"
        in (result.stderr)
    )
