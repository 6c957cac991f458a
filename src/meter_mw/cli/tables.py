"""Rows of a report as a table for eyes, as JSON lines, as CSV, or as a Parquet file."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meter_mw.cli.policies import refuse
from meter_mw.policy.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    Rows = Sequence[Mapping[str, Any]]

_NUMBERS = (int, float, Decimal)


def table(columns: Sequence[str], rows: Rows) -> Iterator[str]:
    """Give the lines of a table; numbers are to the right, with commas."""
    cells = [list(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    to_the_right = [any(isinstance(row.get(name), _NUMBERS) for row in rows) for name in columns]
    for line in cells:
        laid = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_the_right, strict=True)
        )
        yield "  ".join(laid).rstrip()


def json_lines(rows: Rows) -> Iterator[str]:
    """Give a JSON object for each row."""
    return (json.dumps(row, ensure_ascii=False) for row in rows)


def csv_text(columns: Sequence[str], rows: Rows) -> str:
    """Give rows as RFC 4180 has them; what a row has not is empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_parquet(columns: Sequence[str], rows: Rows, path: Path) -> None:
    """Write a Parquet file; say what to install, and exit with 1, where pyarrow is not there."""
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        refuse("Parquet needs pyarrow: pip install pyarrow; or choose csv or json")
    parquet.write_table(arrow.table({name: [row.get(name) for row in rows] for name in columns}), path)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, _NUMBERS) else printable(str(value))
