"""Puts the tables where a document keeps them."""

from __future__ import annotations

OPEN, CLOSE = "<!-- bench -->", "<!-- /bench -->"


def replaced(document: str, tables: str) -> str:
    """Give the document with `tables` between its two marks.

    Where only the first mark is there, the table right after it is replaced, and the second mark is added.
    Raises ValueError where there is no mark.
    """
    before, mark, after = document.partition(OPEN + "\n")
    if not mark:
        raise ValueError(f"the document has no line {OPEN}")
    rest = after.partition(CLOSE)[2] if CLOSE in after else "\n\n" + _without_table(after).lstrip("\n")
    return f"{before}{OPEN}\n\n{tables.strip()}\n\n{CLOSE}{rest}"


def _without_table(text: str) -> str:
    lines = text.lstrip("\n").split("\n")
    while lines and lines[0].startswith("|"):
        del lines[0]
    return "\n".join(lines)
