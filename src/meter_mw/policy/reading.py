"""Typed readers: a field of the policy asked for a value, where what does not fit becomes a problem.

Rule 1: a reader notes its problem and gives `None`; nothing raises, so all problems are found at once.
Rule 2: what came in by a reference, or stands where secrets do, is never shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from meter_mw.policy.problems import Mark, Problem, likely, printable, quoted, step
from meter_mw.policy.substitution import UnresolvedReference, has_reference, is_reference, substitute
from meter_mw.policy.yaml12 import Entries, Items, Node, Scalar, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_T = TypeVar("_T")

_MOST_SUGGESTIONS = 200
"""Problems after which no likely names are looked for: each look takes a millisecond."""

NOT_YET = "is not supported yet; a later version reads it"


@dataclass(slots=True)
class Document:
    """One file, or mapping, that is being read, and the problems found so far."""

    label: str | None
    folder: Path
    environ: Mapping[str, str] = field(repr=False)
    problems: list[Problem]

    def complain(self, message: str, path: str, at: Mark | None, likely: str | None = None) -> None:
        """Note a problem."""
        line, column = (at.line, at.column) if at else (None, None)
        self.problems.append(Problem(printable(message), path, self.label, line, column, likely))

    @property
    def is_mapping(self) -> bool:
        """Whether the policy was passed by the program, which may know secrets that no file should."""
        return self.label is None


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a mapping may have, must have, and will have in a later version."""

    known: tuple[str, ...]
    needed: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    expected: str = ""
    """What a complaint of another name says is expected; else it lists the known ones."""


@dataclass(frozen=True, slots=True)
class Field:
    """A node of the policy and its place. `private` stands for: a secret may be here, so show nothing."""

    node: Node
    path: str
    document: Document
    named_at: Mark | None = None
    private: bool = False

    def child(self, node: Node, name: str | int, named_at: Mark | None = None) -> Field:
        """Give the field below this one."""
        return Field(node, step(self.path, name), self.document, named_at, self.private)

    def as_private(self) -> Field:
        """Give the same field as one whose values are not shown."""
        return Field(self.node, self.path, self.document, self.named_at, private=True)

    def as_shown(self) -> Field:
        """Give the same field as one whose values may be shown."""
        return Field(self.node, self.path, self.document, self.named_at)

    # -- problems

    def complain(self, message: str, meant: str | None = None) -> None:
        """Note a problem at the value; `meant` is what was probably meant."""
        if isinstance(self.node, Scalar) and not self.node.sound:
            return
        suffix = f"; did you mean {quoted(meant)}?" if meant is not None else ""
        self.document.complain(message + suffix, self.path, self.node.at, meant)

    def complain_of_name(self, message: str, meant: str | None = None) -> None:
        """Note a problem at the name that leads here."""
        suffix = f"; did you mean {quoted(meant)}?" if meant is not None else ""
        self.document.complain(message + suffix, self.path, self.named_at or self.node.at, meant)

    def reject(self, expected: str, *, because: str = "", meant: str | None = None) -> None:
        """Note that the value is not what was expected; why, and what was meant, where that may be shown."""
        if self.is_hidden:
            because, meant = "", None
        self.complain(f"found {self.found()}{because and ', ' + because}; expected {expected}", meant)

    def lacks(self, name: str, message: str) -> None:
        """Note that this mapping has no such name."""
        self.document.complain(message, step(self.path, name), self.node.at)

    def has(self, name: str) -> bool:
        """Say whether this mapping has a name, read or not."""
        return isinstance(self.node, Entries) and any(each.text == name for each, _ in self.node.pairs)

    def has_others(self, known: tuple[str, ...]) -> bool:
        """Say whether this mapping has a name beyond the known ones, whose problem is noted."""
        return isinstance(self.node, Entries) and any(each.text not in known for each, _ in self.node.pairs)

    @property
    def is_hidden(self) -> bool:
        """Whether the value must not be shown."""
        return self.private or (isinstance(self.node, Scalar) and has_reference(self.node.text))

    def found(self) -> str:
        """Say what stands here, as far as it may be shown."""
        if isinstance(self.node, Items):
            return "a list"
        if isinstance(self.node, Entries):
            return "a mapping"
        if self.node.value is None:
            return "nothing"
        if self.private:
            return "a text" if isinstance(self.node.value, str) else "a value"
        if has_reference(self.node.text):
            return f"{quoted(self.node.text)} (what it stands for is not shown)"
        return quoted(self.node.text) if isinstance(self.node.value, str) else quoted(self.node.text)[1:-1]

    def suggestion(self, word: str, known: Iterable[str], *, closeness: float = 0.6) -> str | None:
        """Give the known word that was probably meant, while there are not too many problems."""
        if self.private or len(self.document.problems) > _MOST_SUGGESTIONS:
            return None
        return likely(word, known, closeness=closeness)

    # -- structure

    def section(self, names: Names) -> dict[str, Field] | None:
        """Read a mapping whose names are given; others are problems."""
        if isinstance(self.node, Scalar) and not self.is_hidden and _is_joined(self.node.text, names):
            self.complain(f"found {self.found()}; a space is missing after the colon")
            return None
        fields = self.entries("a mapping")
        if fields is None:
            return None
        meant = set()
        for name in [name for name in fields if name not in names.known]:
            stray = fields.pop(name)
            if name in names.later:
                stray.complain_of_name(f"{name} {NOT_YET}")
            else:
                meant.add(self._complain_of_stray(name, stray, names))
        for name in names.needed:
            if name not in fields and name not in meant:
                self.lacks(name, f"{name} is missing")
        return fields

    def _complain_of_stray(self, name: str, stray: Field, names: Names) -> str | None:
        """Note an unknown name, and give the one that was probably meant."""
        known = (*names.known, *names.later)
        at = stray.named_at or self.node.at
        if self.private:
            meant = likely(name, known)
            message = "unknown name (not shown, as secrets may stand here)"
            path = self.path
        elif _is_joined(name, names):
            begun, _, rest = name.partition(":")
            stray.complain_of_name(
                f"found {quoted(name)}; a space is missing after the colon", f"{begun}: {rest}"
            )
            return begun
        else:
            meant = self.suggestion(name, known)
            message = f"unknown name {quoted(name)}"
            path = stray.path
        end = (
            f"; did you mean {quoted(meant)}?"
            if meant
            else f"; expected one of {names.expected or ', '.join(names.known)}"
        )
        self.document.complain(message + end, path, at, meant)
        return meant

    def entries(self, expected: str) -> dict[str, Field] | None:
        """Read a mapping of any names."""
        if not isinstance(self.node, Entries):
            self.reject(expected)
            return None
        return {name.text: self.child(node, name.text, name.at) for name, node in self.node.pairs}

    def items(self, expected: str) -> list[Field] | None:
        """Read a list."""
        if not isinstance(self.node, Items):
            self.reject(expected)
            return None
        return [self.child(node, index) for index, node in enumerate(self.node.nodes)]

    # -- values

    def text(self, expected: str, *, quotable: bool = False, advice: str = "") -> str | None:
        """Read a text, its references replaced; `quotable` where a number in quotes would be one too.

        `advice` is what to do about a reference that stands for nothing.
        """
        if isinstance(self.node, Scalar) and isinstance(self.node.value, str):
            return self._substituted(self.node.text, advice)
        is_number = isinstance(self.node, Scalar) and isinstance(self.node.value, int | float)
        self.reject(expected, because="which is a text only in quotes" if quotable and is_number else "")
        return None

    def _substituted(self, text: str, advice: str = "") -> str | None:
        if not has_reference(text):
            return text
        try:
            return substitute(text, self.document.environ, self.document.folder)
        except UnresolvedReference as error:
            for fault in error.faults:
                self.complain(fault + advice)
            return None

    def secret(self, expected: str, advice: str = "") -> str | None:
        """Read a secret: in a file one reference and nothing else, in a mapping a literal as well."""
        hidden = self.as_private()
        if not isinstance(self.node, Scalar) or not isinstance(self.node.value, str):
            hidden.reject(expected)
            return None
        if is_reference(self.node.text):
            return hidden.text(expected, advice=advice)
        if self.document.is_mapping:
            return self.node.text
        hidden.complain(
            "a secret stands in the file itself (it is not shown);"
            " write ${NAME} and set that environment variable, or ${file:/path}"
        )
        return None

    def location(self, expected: str) -> str | None:
        """Read the path of a file or a folder, as it is written."""
        text = self.text(expected)
        if text is None:
            return None
        if text.startswith("~"):
            self.complain("a path here cannot begin with ~; write the whole path, or ${HOME}/…")
        elif not text.strip() or not text.isprintable():
            self.reject(expected)
        else:
            return text
        return None

    def scalar(self) -> object:
        """Give the value, where a text that has references counts as if its value stood there unquoted."""
        if not isinstance(self.node, Scalar):
            return self.node
        if isinstance(self.node.value, str) and has_reference(self.node.text):
            text = self._substituted(self.node.text)
            return _UNRESOLVED if text is None else plain(text)
        return self.node.value

    def integer(self, expected: str, *, least: int, most: int) -> int | None:
        """Read a whole number."""
        value = self.scalar()
        if value is _UNRESOLVED:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        because, meant = _why_no_number(value)
        self.reject(expected, because=because, meant=meant)
        return None

    def boolean(self) -> bool | None:
        """Read true or false."""
        value = self.scalar()
        if isinstance(value, bool):
            return value
        if value is not _UNRESOLVED:
            words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
            is_quoted = value in ("true", "false")
            because = "which is a text; write the word without quotes" if is_quoted else ""
            self.reject("true or false", because=because, meant=words.get(str(value).lower()))
        return None

    def choice(self, words: Mapping[str, _T], later: tuple[str, ...] = ()) -> _T | None:
        """Read one of some words; `later` holds those that a later version takes."""
        expected = (
            " or ".join((", ".join((*words,)[:-1]), (*words,)[-1])) if len(words) > 1 else next(iter(words))
        )
        text = self.text(expected)
        if text is None:
            return None
        if text in words:
            return words[text]
        if text in later and not self.is_hidden:
            self.complain(f"{text} {NOT_YET}")
        else:
            self.reject(expected, meant=self.suggestion(text, words))
        return None


_UNRESOLVED = object()
"""What a field gives whose problem is already noted."""


def _is_joined(text: str, names: Names) -> bool:
    """Say whether a text is a known name, a colon and, without a space between, a value."""
    begun, colon, _ = text.partition(":")
    return bool(colon) and begun in (*names.known, *names.later)


def _why_no_number(value: object) -> tuple[str, str | None]:
    """Say why a value is no whole number, and which was probably meant."""
    if isinstance(value, float):
        whole = value == value and abs(value) <= 2**53 and value == int(value)  # noqa: PLR0124 - not NaN
        return "which is not a whole number" if not whole else "which is written as a fraction", (
            str(int(value)) if whole else None
        )
    if not isinstance(value, str):
        return "", None
    digits = value.replace("_", "").replace(",", "").replace(" ", "")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        return "", None
    if digits == value and not value.startswith("0"):
        return "which is a text; write the number without quotes", None
    reason = "which has leading zeros" if digits == value else "which has more than digits"
    return reason, str(int(digits))
