"""Which route a request is on: a trie of templates, walked once and never back.

Rule 1: the first entry in order that matches wins, whatever the trie looks like.
Rule 2: a request costs at most (segments + 1) visits of each node, and only of the nodes whose
prefix it has: a literal costs one look-up, however many routes stand beside it.
Rule 3: a template takes whatever any supported router would lead to its handler, and rather more
than less: what escapes its route escapes its limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from meter_mw.policy.paths import OddPath, canonical, routed_path, unresolved
from meter_mw.policy.templates import Kind, Parameter, Piece, Template, TemplateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Matcher", "OddPath", "Template", "TemplateError", "canonical", "routed_path"]

T = TypeVar("T")

_TAKES = {
    # Rule 3: Werkzeug's digits are Unicode's, Starlette's UUID may lack its hyphens.
    Kind.INT: re.compile(r"\d+"),
    Kind.FLOAT: re.compile(r"\d+(?:\.\d+)?"),
    Kind.UUID: re.compile("[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}"),
    Kind.SLUG: re.compile("[-a-zA-Z0-9_]+"),
}


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A segment with parameters, but for the plain `{id}`: one forward pass decides it."""

    kind: Kind
    prefix: str = ""
    between: tuple[str, ...] = ()
    suffix: str = ""

    @property
    def check(self) -> Callable[[str], object]:
        """What is truthy for a segment that the pattern takes, made ready for many calls."""
        is_bare = not (self.prefix or self.suffix) and self.kind in _TAKES
        return _TAKES[self.kind].fullmatch if is_bare else self.takes

    def takes(self, segment: str) -> bool:
        end = len(segment) - len(self.suffix)
        if not (segment.startswith(self.prefix) and segment.endswith(self.suffix)):
            return False
        if self.kind is Kind.PATH:  # the last segment of `{page:path}.html`, which may be `.html`
            return True
        position = len(self.prefix)
        if self.kind is not Kind.STR:
            return _TAKES[self.kind].fullmatch(segment, position, end) is not None
        # The leftmost place of each literal leaves the most for the rest: no need to go back.
        for literal in self.between:
            found = segment.find(literal, position + 1, end)
            if found < 0:
                return False
            position = found + len(literal)
        return position < end


class _Wild(Enum):
    ONE = "one segment"
    MANY = "one segment or more, and then others"
    REST = "all that is left, or nothing"


_Token: TypeAlias = str | _Pattern | _Wild


class _Node:
    """A place in the trie: where each next segment leads, and what ends here.

    `ends` and `rest` give the first entry for a method, `None` standing for any method: `ends` if
    the path ends here, `rest` however it goes on. A `loops` node stays alive over any segment.
    """

    __slots__ = ("checks", "ends", "literals", "loops", "many", "one", "patterns", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.patterns: dict[_Pattern, _Node] = {}
        self.checks: list[tuple[Callable[[str], object], _Node]] = []
        self.one: _Node | None = None
        self.many: _Node | None = None
        self.loops = False
        self.ends: dict[str | None, int] = {}
        self.rest: dict[str | None, int] = {}

    def grow(self, token: _Token) -> _Node:
        """Return the child of a token, made if need be."""
        match token:
            case str():
                return self.literals.setdefault(token, _Node())
            case _Pattern():
                if token not in self.patterns:
                    self.patterns[token] = _Node()
                    self.checks.append((token.check, self.patterns[token]))
                return self.patterns[token]
            case _Wild.ONE:
                self.one = self.one or _Node()
                return self.one
            case _:
                self.many = self.many or _Node()
                self.many.loops = True
                return self.many


class Matcher(Generic[T]):
    """The routes of a policy, compiled: which value a method and a path belong to.

    Built from (template, methods, value) in the order of the policy. `None` stands for any method;
    GET includes HEAD (RFC 9110, section 9.3.2). Methods are compared in upper case, as Django
    does, so that no spelling of a method escapes its route.
    """

    def __init__(self, entries: Iterable[tuple[Template, frozenset[str] | None, T]]) -> None:
        self._root = _Node()
        self._values: list[T] = []
        self._routes: list[tuple[list[tuple[_Token, ...]], frozenset[str | None]]] = []
        for index, (template, methods, value) in enumerate(entries):
            sequences, verbs = _sequences(template), _verbs(methods)
            self._values.append(value)
            self._routes.append((sequences, verbs))
            for sequence in sequences:
                self._plant(sequence, verbs, index)

    def match(self, method: str, path: str) -> T | None:
        """Return the value of the first entry that matches a canonical path, or None."""
        index = self._first(method.upper(), path)
        return self._values[index] if index < len(self._values) else None

    def resolve(self, method: str, path: str) -> T | None:
        """Return the value of the first entry that matches a path in any spelling, or None.

        Raises OddPath where `canonical` does, and where dot segments lead from one route to another:
        no router resolves them, so `/paid/../free` would run the one and be charged as the other.
        """
        plain = canonical(path)
        index = self._first(method.upper(), plain)
        if plain != path and self._first(method.upper(), unresolved(path)) != index:
            raise OddPath("the path has dot segments that lead from one route to another; send it resolved")
        return self._values[index] if index < len(self._values) else None

    def unreachable(self) -> tuple[tuple[T, T], ...]:
        """Return each value whose entry can never match, with the value of an earlier one that covers it.

        Sound, not complete: an entry that only several others cover together is not found.
        """
        found = []
        for index, (sequences, verbs) in enumerate(self._routes):
            covers = [self._covering(sequence, verb) for sequence in sequences for verb in verbs]
            if max(covers) < index:
                found.append((self._values[index], self._values[min(covers)]))
        return tuple(found)

    def _plant(self, sequence: tuple[_Token, ...], verbs: frozenset[str | None], index: int) -> None:
        node = self._root
        for token in sequence:
            if token is not _Wild.REST:
                node = node.grow(token)
        ends = node.rest if sequence[-1:] == (_Wild.REST,) else node.ends
        for verb in verbs:
            ends.setdefault(verb, index)

    def _first(self, method: str, path: str) -> int:
        """Return the lowest index that matches, or one beyond the last.

        A node has one parent and at most one path parameter above it, so it is never reached twice
        by one segment: the live nodes need no deduplication, and no more than all of them live.
        """
        none = best = len(self._values)
        live = [self._root]
        for segment in path[1:].split("/") if len(path) > 1 else ():
            for node in live:
                if node.rest:
                    best = min(best, node.rest.get(method, none), node.rest.get(None, none))
            live = _step(live, segment)
            if not live:
                return best
        return _best_end(live, method, best)

    def _covering(self, sequence: tuple[_Token, ...], verb: str | None) -> int:
        """Return the lowest index whose entry matches all that a sequence of tokens does."""
        none = best = len(self._values)
        live = [self._root]
        for token in sequence:
            for node in live:
                best = min(best, node.rest.get(verb, none), node.rest.get(None, none))
            live = [child for node in live for child in _wider(node, token)]
        return _best_end(live, verb, best)


def _step(live: list[_Node], segment: str) -> list[_Node]:
    """Return the nodes that a segment leads to."""
    after: list[_Node] = []
    for node in live:
        child = node.literals.get(segment)
        if child is not None:
            after.append(child)
        if node.one is not None:
            after.append(node.one)
        if node.checks:
            after += [child for check, child in node.checks if check(segment)]
        if node.many is not None:
            after.append(node.many)
        if node.loops:
            after.append(node)
    return after


def _best_end(live: list[_Node], verb: str | None, best: int) -> int:
    """Return the lowest index that ends at a node, or the best so far."""
    for node in live:
        for ends in (node.ends, node.rest):
            if ends:
                best = min(best, ends.get(verb, best), ends.get(None, best))
    return best


def _wider(node: _Node, token: _Token) -> list[_Node]:
    """Return the children that take every segment that a token takes."""
    if token is _Wild.REST:
        return []
    children = [node.many, node if node.loops else None]
    if token is not _Wild.MANY:
        children.append(node.one)
    if isinstance(token, str):
        children.append(node.literals.get(token))
        children += [child for check, child in node.checks if check(token)]
    elif isinstance(token, _Pattern):
        children.append(node.patterns.get(token))
    return [child for child in children if child is not None]


def _verbs(methods: frozenset[str] | None) -> frozenset[str | None]:
    if methods is None:
        return frozenset({None})
    if not methods:
        raise ValueError("an entry of no method can never match; use None for any method")
    verbs = {method.upper() for method in methods}
    return frozenset(verbs | {"HEAD"} if "GET" in verbs else verbs)


def _sequences(template: Template) -> list[tuple[_Token, ...]]:
    """Return the one or two sequences of tokens that a template stands for."""
    sequences: list[tuple[_Token, ...]] = [()]
    for position, pieces in enumerate(template.segments, 1):
        is_last = position == len(template.segments)
        sequences = [before + after for before in sequences for after in _tokens(pieces, is_last=is_last)]
    return sequences


def _tokens(pieces: tuple[Piece, ...], *, is_last: bool) -> list[tuple[_Token, ...]]:
    head = pieces[0]
    if isinstance(head, Parameter) and head.kind is Kind.PATH:
        if len(pieces) == 1:
            return [(_Wild.REST,)] if is_last else [(), (_Wild.MANY,)]
        suffix = _Pattern(Kind.PATH, suffix="".join(map(str, pieces[1:])))
        return [(suffix,), (_Wild.MANY, suffix)]
    if len(pieces) == 1:
        if isinstance(head, str):
            return [(head,)]
        if head.kind is Kind.STR:
            return [(_Wild.ONE,)]
    tail = pieces[-1]
    pattern = _Pattern(
        kind=next(piece.kind for piece in pieces if isinstance(piece, Parameter)),
        prefix=head if isinstance(head, str) else "",
        between=tuple(piece for piece in pieces[1:-1] if isinstance(piece, str)),
        suffix=tail if isinstance(tail, str) else "",
    )
    return [(pattern,)]
