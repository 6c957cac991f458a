"""Sinks whose client is an extra: without it, the policy says what to install."""

from __future__ import annotations

import sys

import pytest

from meter_mw.ledger.database import fault_of_address
from meter_mw.sinks.kinds import MissingClient, find


@pytest.mark.parametrize(
    ("word", "client", "extra"),
    [("sql", "sqlalchemy", "sql"), ("prometheus", "prometheus_client", "prometheus")],
)
def test_a_missing_client_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, word: str, client: str, extra: str
) -> None:
    """Where the client cannot be imported, the words are a command that cures it."""
    for name in [
        each for each in sys.modules if each.startswith(("meter_mw.ledger.", f"meter_mw.sinks.{word}"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(MissingClient, match=rf"needs {client}: pip install 'meter-mw\[{extra}\]'"):
        find(word)


def test_the_ledger_on_postgresql_needs_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy alone does for SQLite; an address of PostgreSQL says what else is needed."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert fault_of_address("sqlite:///usage.db") is None
    assert fault_of_address("postgresql://h/x") == (
        "PostgreSQL needs psycopg: pip install 'meter-mw[postgres]'"
    )
