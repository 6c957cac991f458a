"""Route templates: a path with parameters, read once into a checked value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.model import MeterError
from meter_mw.policy.paths import ODD_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Iterator


class TemplateError(MeterError):
    """A template that cannot be read; the message says what was found, what is expected and what to write."""


class Kind(Enum):
    """What a parameter takes."""

    STR = "str"
    INT = "int"
    FLOAT = "float"
    UUID = "uuid"
    SLUG = "slug"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named hole in a template."""

    name: str
    kind: Kind = Kind.STR

    def __str__(self) -> str:
        suffix = "" if self.kind is Kind.STR else f":{self.kind.value}"
        return f"{{{self.name}{suffix}}}"


Piece: TypeAlias = str | Parameter


@dataclass(frozen=True, slots=True)
class Template:
    """A path template in normal form, so that two spellings of one template are equal.

    Each segment is its literals and parameters in order. A trailing slash is no part of the form,
    as it is none of a canonical path's.

    Several parameters may share a segment if a literal stands between them and all are plain
    (`{base}...{head}`): then one pass over the segment decides. A path parameter stands alone or
    before a literal (`{page:path}.html`), once in a template.
    """

    segments: tuple[tuple[Piece, ...], ...]

    def __post_init__(self) -> None:
        parameters = [piece for pieces in self.segments for piece in pieces if isinstance(piece, Parameter)]
        names = [parameter.name for parameter in parameters]
        for name in names:
            if names.count(name) > 1:
                raise TemplateError(
                    f"{str(self)!r} names two parameters {name!r}; each needs a name of its own,"
                    f" such as {name + '_2'!r}"
                )
        if sum(parameter.kind is Kind.PATH for parameter in parameters) > 1:
            raise TemplateError(
                f"{str(self)!r} has several path parameters; one is allowed, so give the others the"
                " form {name}, which takes one segment"
            )
        for pieces in self.segments:
            fault = _fault(pieces)
            if fault is not None:
                raise TemplateError(f"{str(self)!r}: in {''.join(map(str, pieces))!r} {fault}")

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read the spelling of Starlette (`{id:int}`), Flask or Django (`<int:id>`).

        Raises TemplateError.
        """
        if not text.startswith("/"):
            raise TemplateError(f"{text!r} does not begin with a slash; write {'/' + text!r}")
        segments: list[list[Piece]] = [[]]
        for piece in _pieces(text):
            if isinstance(piece, Parameter):
                segments[-1].append(piece)
                continue
            first, *others = piece.split("/")
            segments[-1] += [first] if first else []
            segments += [[other] if other else [] for other in others]
        if not segments[-1]:
            segments.pop()
        for pieces in segments:
            _check_literal(text, pieces)
        return cls(tuple(map(tuple, segments)))

    def __str__(self) -> str:
        return "/" + "/".join("".join(map(str, pieces)) for pieces in self.segments)


_KINDS = {"string": Kind.STR, "default": Kind.STR, **{kind.value: kind for kind in Kind}}

_TOKEN = re.compile(r"\{(?P<braces>[^{}<>]*)\}|<(?P<angles>[^{}<>]*)>|(?P<literal>[^{}<>]+)")

_REFUSED = (
    (re.compile("[?#]"), "a template is a path alone; end it before the query or fragment"),
    (ODD_CHARACTER, "requests with this character are refused, so drop it"),
    (re.compile("%[0-9A-Fa-f]{2}"), "paths are matched percent-decoded; write the character itself"),
    (
        re.compile(r"\*"),
        "there are no wildcards; write {name} for one segment, {rest:path} for all that follow",
    ),
)


def _pieces(text: str) -> Iterator[Piece]:
    """Yield the literals and parameters after the leading slash."""
    position = 1
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise TemplateError(
                f"{text!r} has an unbalanced {text[position]!r} at character {position + 1};"
                " a parameter is written {id} or {id:int}"
            )
        if token["literal"] is None:
            yield _parameter(text, token)
        else:
            for refused, advice in _REFUSED:
                found = refused.search(token["literal"])
                if found is not None:
                    raise TemplateError(
                        f"{text!r} has {found.group()!r} at character"
                        f" {token.start() + found.start() + 1}; {advice}"
                    )
            yield token["literal"]
        position = token.end()


def _parameter(text: str, token: re.Match[str]) -> Parameter:
    inside = token["braces"] if token["angles"] is None else token["angles"]
    before, colon, after = inside.rpartition(":")
    name, kind = (after, before) if token["braces"] is None else (before, after)
    if not colon:
        name, kind = inside, "str"
    if kind in _KINDS and name.isidentifier():
        return Parameter(name, _KINDS[kind])
    found = f"{text!r} has the parameter {token.group()!r}"
    if kind not in _KINDS:
        raise TemplateError(
            f"{found}, whose converter {kind!r} is unknown; {_advice(name.strip(), kind.strip())}"
        )
    example = Parameter(name.strip() if name.strip().isidentifier() else "id", _KINDS[kind])
    raise TemplateError(f"{found}, whose name is not an identifier; write it like {str(example)!r}")


def _advice(name: str, kind: str) -> str:
    """Say what to write in place of an unknown converter."""
    if name in _KINDS and kind.isidentifier():  # {int:id}, <id:int>
        return f"did you mean {str(Parameter(kind, _KINDS[name]))!r}?"
    if "(" in kind:  # Flask's <any(a, b):x>
        return f"converter arguments are not understood, and {str(Parameter(name))!r} takes any segment"
    likely = get_close_matches(kind.lower(), _KINDS, n=1)
    if likely:
        return f"did you mean {str(Parameter(name, _KINDS[likely[0]]))!r}?"
    return f"expected one of {', '.join(member.value for member in Kind)}"


def _check_literal(text: str, pieces: list[Piece]) -> None:
    """Refuse the segments that could never match a canonical path, or mean something elsewhere."""
    if not pieces:
        raise TemplateError(f"{text!r} has an empty segment; write one slash where two meet")
    head = pieces[0]
    if pieces in (["."], [".."]):
        raise TemplateError(f"{text!r} has the segment {head!r}; write the path that it leads to")
    if isinstance(head, str) and head.startswith(":") and head[1:].isidentifier():
        raise TemplateError(f"{text!r} has the segment {head!r}; a parameter is written {{{head[1:]}}}")


def _fault(pieces: tuple[Piece, ...]) -> str | None:
    """Return what keeps a segment from being decided in one pass, and what to write instead."""
    kinds = [piece.kind for piece in pieces if isinstance(piece, Parameter)]
    if any(isinstance(left, Parameter) and isinstance(right, Parameter) for left, right in pairwise(pieces)):
        return "nothing separates two parameters; put a literal between them or make them one"
    if Kind.PATH in kinds and (len(kinds) > 1 or isinstance(pieces[0], str)):
        return (
            "a path parameter shares its segment; give it a segment of its own,"
            " or only a literal after it as in '{page:path}.html'"
        )
    if len(kinds) > 1 and set(kinds) != {Kind.STR}:
        plain = "".join(str(Parameter(p.name)) if isinstance(p, Parameter) else p for p in pieces)
        return f"several parameters share a segment and not all are plain; write {plain!r}"
    return None
