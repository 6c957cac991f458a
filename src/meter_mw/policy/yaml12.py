"""YAML text into frozen nodes that know their place, with the scalars of YAML 1.2's core schema.

Rule 1: no aliases, anchors, merge keys or tags, so a document is never larger than its text.
Rule 2: every name and value keeps its line and column.
Rule 3: whatever the bytes are, the answer is a node or problems, in time that the size bounds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import yaml

from meter_mw.policy.problems import Mark, quoted, step

if TYPE_CHECKING:
    from collections.abc import Callable

    Complain: TypeAlias = Callable[[str, str, Mark], None]
    """Takes a message, the path and the place that it is about."""

LARGEST_BYTES = 1 << 20
MOST_PROBLEMS = 1000
"""Problems of one document after which the rest of it is not read."""

DEEPEST = 20

_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,29})|0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

# YAML 1.1 breaks lines at these, YAML 1.2 does not: no two readers would count the same lines.
_DOUBTFUL = re.compile("[\x85\u2028\u2029]")

_JOINED = re.compile(r" *(?:- +)*(?P<name>[A-Za-z_][A-Za-z0-9_-]*):(?!//)[^\s:]")
"""A line whose first name has a colon and no space behind it: `service:shop`, but no URL."""

_LONGEST_NUMBER = 64


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value. `text` is what stands in the file, `value` what the core schema makes of it.

    One that is not `sound` stands for something that is refused already, whatever is expected there.
    """

    value: object = field(repr=False)
    text: str = field(repr=False)
    at: Mark | None = None
    sound: bool = True


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    nodes: tuple[Node, ...]
    at: Mark | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a mapping, as it is written."""

    text: str = field(repr=False)
    at: Mark | None = None


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping, in the order of the file; no name stands twice."""

    pairs: tuple[tuple[Name, Node], ...]
    at: Mark | None = None


Node: TypeAlias = Scalar | Items | Entries


class _Unreadable(Exception):
    """The rest of the document cannot be read."""


def plain(text: str) -> object:
    """Give the value of an unquoted scalar (YAML 1.2.2, section 10.3.2).

    `no`, `on` and `12:30` are text, as is `010`: neither eight nor ten.
    """
    if len(text) > _LONGEST_NUMBER:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return math.nan if "n" in text[1:2].lower() else math.copysign(math.inf, -1 if text[0] == "-" else 1)
    return text


def parse(data: bytes, complain: Complain, *, private: str | None = None) -> Node | None:
    """Read one document, or give `None` when it cannot be read; problems go to `complain`.

    Where a path begins with `private` no name is quoted, as it may be a secret out of place.
    """
    text = _decoded(data, complain)
    if text is None:
        return None
    composer = None
    try:
        composer = _Composer(text, complain, private)
        return composer.document()
    except _Unreadable:
        return None
    except yaml.reader.ReaderError as error:
        complain(
            f"found the character U+{error.character:04X}, which YAML does not allow;"
            ' remove it, or write it as an escape in double quotes ("\\u…")',
            "",
            _place(text, error.position),
        )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if "stream" in (error.problem or "") and error.context_mark:  # where it began says more
            mark = error.context_mark
        at = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        joined = _joined(error, text)
        if joined is not None:  # the parser is past it, so the path is that of something else
            complain("found no space after the colon of a name; write one, as in service: shop", "", joined)
        else:
            complain(_explained(error, text, at), composer.path if composer else "", at)
    except (ValueError, OverflowError, IndexError):  # PyYAML's own slips, such as "\UFFFFFFFF"
        at = composer.here() if composer else Mark(1, 1)
        complain("found an escape or a number that YAML cannot hold", composer.path if composer else "", at)
    return None


def _decoded(data: bytes, complain: Complain) -> str | None:
    top = Mark(1, 1)
    if len(data) > LARGEST_BYTES:
        complain(f"found {len(data)} bytes; a policy file has at most {LARGEST_BYTES} (1 MiB)", "", top)
    elif data.startswith((b"\xff\xfe", b"\xfe\xff")):
        complain("found UTF-16; save the file as UTF-8", "", top)
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8-sig", "replace")
            complain(
                "found bytes that are not UTF-8; save the file as UTF-8", "", _place(before, len(before))
            )
            return None
        doubtful = _DOUBTFUL.search(text)
        if doubtful is None:
            return text
        complain(
            f"found U+{ord(doubtful.group()):04X}, a line break in YAML 1.1 and none in 1.2; remove it",
            "",
            _place(text, doubtful.start()),
        )
    return None


def _place(text: str, position: int) -> Mark:
    before = text[:position].replace("\r\n", "\n").replace("\r", "\n")
    return Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))


_EXPLANATIONS = {
    "mapping values are not allowed here": "found a colon where no name can stand; quote a text that has one,"
    " and indent the names of one mapping alike",
    "expected <block end>": "found a line that does not fit the indentation of those above it",
    "could not find expected ':'": "found a name without a colon after it",
    "found unexpected end of stream": "found no end of this quoted text",
    "but got '<stream end>'": "found no end of this list or mapping",
    "expected ',' or": "found no comma between two items, or no closing bracket; quote a text"
    " that has one of ,?[]{} in it",
    "found incompatible YAML document": "found a %YAML directive of another version; remove it",
}

_CHARACTERS = {
    "\t": "found a tab where YAML allows only spaces; indent with spaces",
    "@": 'found a text that begins with "@"; put it in quotes',
    "`": 'found a text that begins with "`"; put it in quotes',
    "%": 'found a text that begins with "%"; put it in quotes',
}


def _explained(error: yaml.MarkedYAMLError, text: str, at: Mark) -> str:
    """Say a parser's complaint in the words of the file; it quotes nothing that may be a secret."""
    problem = error.problem or "not YAML"
    if "cannot start any token" in problem:
        lines = re.split("\r\n|\r|\n", text)
        line = lines[at.line - 1] if at.line <= len(lines) else ""
        return _CHARACTERS.get(
            line[at.column - 1 : at.column], "found a character that begins nothing; quote it"
        )
    for found, explained in _EXPLANATIONS.items():
        if found in problem:
            return explained
    return f"not YAML: {re.sub(chr(39) + '.*' + chr(39), 'something else', problem)}"


def _joined(error: yaml.MarkedYAMLError, text: str) -> Mark | None:
    """Find the name whose colon has no space after it, where that is why a mapping cannot be read."""
    problem = error.problem or ""
    lines = re.split("\r\n|\r|\n", text)
    if "could not find expected ':'" in problem and error.context_mark:
        number = error.context_mark.line
    elif "mapping values are not allowed here" in problem and error.problem_mark:
        number = error.problem_mark.line - 1  # the line that was read on into this one
    else:
        return None
    found = _JOINED.match(lines[number]) if 0 <= number < len(lines) else None
    return Mark(number + 1, found.start("name") + 1) if found else None


class _Composer:
    """Builds nodes from the events of PyYAML's parser, noting what the rules of the file refuse."""

    def __init__(self, text: str, complain: Complain, private: str | None) -> None:
        self._loader = yaml.SafeLoader(text)
        self._note = complain
        self._noted = 0
        self._private = private
        self._event = self._next()
        self.path = ""

    def here(self) -> Mark:
        """Give the place that the parser has come to."""
        mark = self._loader.get_mark()
        return Mark(mark.line + 1, mark.column + 1)

    def document(self) -> Node | None:
        """Read the whole stream: one document."""
        self._advance()
        if isinstance(self._event, yaml.StreamEndEvent):
            return Scalar(None, "", Mark(1, 1))
        self._advance()
        node = self._node("", 1)
        self.path = ""
        self._advance()
        self._advance()
        if not isinstance(self._event, yaml.StreamEndEvent):
            self._fatal("found a second document; a policy file holds one", "")
        return node

    def _advance(self) -> None:
        self._event = self._next()

    def _next(self) -> yaml.Event:
        event: yaml.Event = self._loader.get_event()  # type: ignore[no-untyped-call]  # its stubs say nothing
        return event

    def _at(self) -> Mark:
        mark = self._event.start_mark
        return Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)

    def _complain(self, message: str, path: str, at: Mark) -> None:
        self._note(message, path, at)
        self._noted += 1
        if self._noted > MOST_PROBLEMS:
            raise _Unreadable

    def _fatal(self, message: str, path: str) -> NoReturn:
        self._complain(message, path, self._at())
        raise _Unreadable

    def _node(self, path: str, depth: int) -> Node:
        """Read the node that the current event begins, and leave at its last event."""
        self.path = path
        event, at = self._event, self._at()
        if isinstance(event, yaml.AliasEvent):
            self._complain("found an alias (*); write the value out", path, at)
            return Scalar(None, "", at, sound=False)
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._complain("found an anchor (&), which nothing may refer to; remove it", path, at)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path, at)
        if depth > DEEPEST:
            self._fatal(f"found more than {DEEPEST} levels of lists and mappings", path)
        if isinstance(event, yaml.CollectionStartEvent):
            self._refuse_tag(event.tag, path, at)
        if isinstance(event, yaml.SequenceStartEvent):
            return Items(self._items(path, depth), at)
        return Entries(self._pairs(path, depth), at)

    def _refuse_tag(self, tag: str | None, path: str, at: Mark) -> None:
        if tag is not None:
            self._complain("found a tag (!); values here have no types of their own, so remove it", path, at)

    def _scalar(self, event: yaml.ScalarEvent, path: str, at: Mark) -> Scalar:
        self._refuse_tag(event.tag, path, at)
        text = event.value
        if not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text):
            self._complain("found half of a surrogate pair; write the character itself", path, at)
            return Scalar(None, "", at, sound=False)
        return Scalar(plain(text) if event.implicit[0] else text, text, at)

    def _items(self, path: str, depth: int) -> tuple[Node, ...]:
        nodes: list[Node] = []
        self._advance()
        while not isinstance(self._event, yaml.SequenceEndEvent):
            nodes.append(self._node(step(path, len(nodes)), depth + 1))
            self._advance()
        return tuple(nodes)

    def _pairs(self, path: str, depth: int) -> tuple[tuple[Name, Node], ...]:
        pairs: dict[str, tuple[Name, Node]] = {}
        self._advance()
        while not isinstance(self._event, yaml.MappingEndEvent):
            at = self._at()
            is_plain = isinstance(self._event, yaml.ScalarEvent) and self._event.implicit[0]
            key = self._node(path, depth + 1)
            self._advance()
            if not isinstance(key, Scalar):
                self._fatal("found a list or a mapping where a name is expected", path)
            hidden = self._private is not None and step(path, "x").startswith(self._private)
            below = path if hidden else step(path, key.text)
            node = self._node(below, depth + 1)
            self._advance()
            if key.text == "<<" and is_plain:
                self._complain("found a merge key (<<); write the names out", path, at)
            elif key.text in pairs:
                shown = "the same name" if hidden else quoted(key.text)
                first = pairs[key.text][0].at
                also = f", first on line {first.line}" if first else ""
                self._complain(f"found {shown} twice in one mapping{also}; names must differ", path, at)
            else:
                pairs[key.text] = (Name(key.text, at), node)
        return tuple(pairs.values())
