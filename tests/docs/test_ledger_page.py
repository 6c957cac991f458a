"""The SQL in the pages on the ledger and on events: it runs, and makes the table that clickhouse fills."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meter_mw.ledger.tables import metadata
from meter_mw.sinks.clickhouse import COLUMNS
from meter_mw.sinks.sql import SqlSink
from support.fakes.clickhouse import TABLE
from support.ledgers import SOURCE, Ledger, PostgresLedger, SqliteLedger, facts, mixture

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "ledger.md").read_text()
SQL = re.compile(r"^```sql\n(.*?)^```$", re.DOTALL | re.MULTILINE)
(QUERY,) = SQL.findall(PAGE)
(DEFINITION,) = SQL.findall((DOCS / "events.md").read_text())


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_query_runs(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """It gives the requests of each subject and route, for both databases alike."""
    ledger: Ledger = SqliteLedger(tmp_path)
    if database == "postgresql":
        ledger = PostgresLedger(request.getfixturevalue("postgres_server"))
    sink = SqlSink(ledger.address, SOURCE)
    events = mixture(seed=1, count=100)
    sink.send(events)
    sink.close()
    rows = ledger.rows(QUERY)
    assert [row[:2] for row in rows] == sorted(
        (subject, route) for subject in ("acme", "globex", "initech") for route in ("read", "write")
    )
    requests = sum(units for (_, field), units in facts(events).items() if field == "requests")
    assert sum(int(str(row[2])) for row in rows) == requests


def test_the_page_names_every_column() -> None:
    """What reports may stand on is said."""
    said = {
        name: re.findall(r"`(\w+)`", columns)
        for name, columns in re.findall(r"^\| `(meter_\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    }
    assert said == {table.name: [each.name for each in table.columns] for table in metadata.sorted_tables}


def test_the_table_is_the_one_that_is_filled() -> None:
    """Names and types are those of the server that the sink is tested with."""
    plain = {name: _plain(kind) for name, kind in TABLE.items()}
    kinds = "|".join(re.escape(kind) for kind in sorted(set(plain.values()), key=len, reverse=True))
    text = _plain(DEFINITION).partition("(\n")[2].partition(") ENGINE")[0]
    assert dict(re.findall(rf"(\w+) ({kinds})", text)) == plain
    assert plain.keys() == set(COLUMNS)


def _plain(text: str) -> str:
    """Leave out how texts are stored."""
    return text.replace("LowCardinality(String)", "String").replace(" CODEC(ZSTD)", "")
