"""The bench of the ledger runs, and its figures stand in columns; none is judged here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench import ledger

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_short_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All is written and asked for, and nothing is left of it."""
    monkeypatch.chdir(tmp_path)
    ledger.main(1_500)
    written, size, title, *rows = capsys.readouterr().out.splitlines()
    assert re.match(r"1500 events of 4\d\d bytes written in ", written)
    assert "GB on the disk" in size
    assert title.split()[:3] == ["ledger", "plain", "SQL"]
    assert len(rows) == 7
    assert all(re.match(r" +[\d.]+ +([\d.]+)?  \w", row) for row in rows)
    assert list(tmp_path.iterdir()) == []
