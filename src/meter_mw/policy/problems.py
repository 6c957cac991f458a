"""What is wrong with a policy: every problem at once, each on one line, none with a secret in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from meter_mw.model import MeterError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_SHOWN = 60
"""Characters of a found text that a message quotes."""

_PLAIN_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; both numbers count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where, and what was expected instead.

    `path` leads to it from the top (`plans.pro.limits[0].rate`). `likely` is what a misspelt name
    or value was probably meant to be; the message says it too. `file`, `line` and `column` are
    `None` for a policy that was passed as a mapping.
    """

    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    likely: str | None = None

    def __str__(self) -> str:
        place = [self.file] if self.file is not None else []
        if self.line is not None:
            place += [str(self.line), str(self.column)]
        return ": ".join(part for part in (":".join(place), self.path, self.message) if part)


class PolicyError(MeterError):
    """A policy that cannot be used, with all that is wrong with it in `problems`."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def printable(text: str) -> str:
    """Give a text in which nothing can end the line or steer a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def quoted(text: str) -> str:
    """Give a text as a message shows it: on one line, in double quotes, cut short where it is long."""
    shown = text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
    shown = shown.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(shown)}"'


def step(path: str, name: str | int) -> str:
    """Extend a path by a name or an index: `routes` and 2 give `routes[2]`."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    if not _PLAIN_STEP.fullmatch(name) or len(name) > _LONGEST_SHOWN:
        return f"{path}[{quoted(name)}]"
    return f"{path}.{name}" if path else name


def likely(word: str, known: Iterable[str], *, closeness: float = 0.6) -> str | None:
    """Give the known word that a misspelt one was probably meant to be."""
    if len(word) > _LONGEST_SHOWN:  # comparing takes time that grows with the square of the length
        return None
    folded = {each.lower(): each for each in known}
    close = get_close_matches(word.lower(), folded, n=1, cutoff=closeness)
    return folded[close[0]] if close else None
