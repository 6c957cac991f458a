"""The bench runs, and lays its figures out as the README takes them; no figure is judged here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench.contenders import ALL
from bench.readme import replaced
from bench.workload import MEMORY, TCP

pytestmark = [pytest.mark.lengthy, pytest.mark.xdist_group("bench")]  # one bench at a time

ROOT = Path(__file__).parents[2]
NUMBER = r"-?[\d.,]+"
SPREAD = rf"\({NUMBER}\N{{EN DASH}}{NUMBER}\)"
CELL = rf"{NUMBER} {SPREAD}"


def tables_in(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()] for block in blocks
    ]


def test_everyone_counts() -> None:
    """Each contender refuses what is over each of its limits, in memory and in Redis."""
    run = subprocess.run(
        [sys.executable, "-m", "bench", "probe"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert run.returncode == 0, run.stderr
    expected = {
        f"{each.title} counts, {store}, 3 limits"
        for each in ALL
        for store in (MEMORY, TCP)
        if not each.bare and not (each.shared and store == MEMORY)
    }
    assert set(run.stdout.splitlines()) == expected


def test_quick_run_puts_its_tables_where_they_belong(tmp_path: Path) -> None:
    """A part alone fills its own tables; the README gets the short one, and what is known is drawn."""
    (tmp_path / "docs").mkdir()
    for document in ("README.md", "docs/performance.md"):
        (tmp_path / document).write_text("before\n\n<!-- bench -->\n\nafter\n")
    command = [sys.executable, "-m", "bench", "inprocess", "--quick", "--only", "limits"]
    command += ["--store", "memory,Redis", "--update", str(tmp_path)]
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, check=False, cwd=tmp_path, env=place, capture_output=True, text=True, timeout=290
    )
    assert run.returncode == 0, run.stderr
    full = (tmp_path / "docs" / "performance.md").read_text()
    assert run.stdout.startswith(full.partition("-->\n\n")[2].partition("\n\n<!--")[0])
    _, time_us, p99_us, cpu_us, trips, refused = tables_in(full)
    rows = ["*bare Starlette*", "limits by hand on Starlette", "*bare Flask*", "limits by hand on Flask"]
    for table in (time_us, p99_us, cpu_us):
        head, rule, *body = table
        assert head[1:] == ["memory, 3 limits", "Redis, 3 limits"]
        assert rule == ["---", "---:", "---:"]
        assert [row[0] for row in body] == rows
        assert all(re.fullmatch(CELL, cell) for _, *cells in body for cell in cells), body
    assert {row[0]: row[1].partition(" / ")[0][:2] for row in trips[2:]}["limits by hand on Flask"] == "3."
    assert [row[0] for row in refused[2:]] == [row for row in rows if not row.startswith("*bare")]
    ((head, _, *short),) = tables_in((tmp_path / "README.md").read_text())
    assert head[0] == "Redis, 3 limits"
    assert [row[0] for row in short] == [row for row in rows if not row.startswith("*bare")]
    assert [path.name for path in (tmp_path / "docs" / "img").iterdir()] == ["added-time.png"]
    assert not list(tmp_path.glob(".bench-*"))


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
