"""The bench runs, and lays its figures out as the README takes them; no figure is judged here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench.readme import replaced

pytestmark = [pytest.mark.lengthy, pytest.mark.xdist_group("bench")]  # one bench at a time

ROOT = Path(__file__).parents[2]
NUMBER = r"-?[\d.,]+"
SPREAD = rf"\({NUMBER}\N{{EN DASH}}{NUMBER}\)"
CELL = rf"{NUMBER} {SPREAD}"
SHARED = rf"{NUMBER} = {CELL}"
ROWS = ["*bare Starlette*", "**meter_mw** on Starlette", "limits by hand on Starlette"]
ROWS += ["*bare Flask*", "**meter_mw** on Flask", "limits by hand on Flask"]


def tables_in(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()] for block in blocks
    ]


def test_quick_run_prints_a_table_of_each_kind(tmp_path: Path) -> None:
    """In process and by real servers, on memory and Redis; the tables reach the document too."""
    document = tmp_path / "README.md"
    document.write_text("before\n\n<!-- bench -->\n\nafter\n")
    command = [
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--only",
        "meter_mw,limits",
        "--update",
        str(document),
    ]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=290)
    assert run.returncode == 0, run.stderr
    time_us, cpu_us, per_second = tables_in(run.stdout)
    for table in (time_us, cpu_us, per_second):
        head, rule, *rows = table
        assert head[1:] == ["memory, 3 limits", "Redis, 3 limits"]
        assert rule == ["---", "---:", "---:"]
        assert [row[0] for row in rows] == ROWS
        for name, *cells in rows:
            pattern = SHARED if table is per_second and not name.startswith("*bare") else CELL
            assert all(re.fullmatch(pattern, cell) for cell in cells), (name, cells)
    assert "Versions: starlette " in run.stdout
    assert (
        document.read_text()
        == f"before\n\n<!-- bench -->\n\n{run.stdout.strip()}\n\n<!-- /bench -->\n\nafter\n"
    )
    assert not list(ROOT.glob(".bench-*"))


@pytest.mark.parametrize(
    "document",
    [
        "a\n<!-- bench -->\n\nold | text\n\n<!-- /bench -->\n\nz\n",
        "a\n<!-- bench -->\n\n| old |\n|---|\n| 1 |\n\nz\n",
        "a\n<!-- bench -->\n\nz\n",
    ],
    ids=["between marks", "a table", "nothing yet"],
)
def test_tables_go_between_the_marks(document: str) -> None:
    """Whatever stood there is gone, and what stands around it stays."""
    new = replaced(document, "| new |\n")
    assert new == "a\n<!-- bench -->\n\n| new |\n\n<!-- /bench -->\n\nz\n"
    assert replaced(new, "| new |\n") == new


def test_a_document_without_a_mark_is_refused() -> None:
    """Nothing is put where nobody asked for it."""
    with pytest.raises(ValueError, match="no line <!-- bench -->"):
        replaced("a\n", "| new |")


def test_quick_run_says_what_features_cost(tmp_path: Path) -> None:
    """A line for each, beside what Redis was asked for; only large bodies ask more than twice."""
    document = tmp_path / "costs.md"
    document.write_text("<!-- bench -->\n")
    command = [sys.executable, "-m", "bench", "features", "--quick", "--update", str(document)]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=290)
    assert run.returncode == 0, run.stderr
    (table,) = tables_in(document.read_text())
    calls = {row[0]: float(row[3]) for row in table[2:]}
    assert len(calls) == 15
    assert {name for name, count in calls.items() if count > 2.5} == {
        "4 MiB streamed, a cap on its bytes",
        "4 MiB streamed, a cap that cuts",
    }


def test_quick_run_of_forwarding() -> None:
    """Events go from a journal to a receiver in another process, in batches of each size."""
    command = [sys.executable, "-m", "bench", "forward", "--quick"]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    rows = [line.split() for line in run.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["100", "1000"]
    assert all(re.fullmatch(NUMBER, cell) for row in rows for cell in row)
