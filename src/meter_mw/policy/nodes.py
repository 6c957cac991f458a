"""A mapping that a program passed as a policy, into the nodes that a file gives."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

from meter_mw.policy.yaml12 import DEEPEST, Entries, Items, Name, Node, Scalar

_MOST_NODES = 1_000_000


def nodes_of(value: object) -> Node | str:
    """Give the nodes of a mapping that a program passed, or what is wrong with it."""
    budget = [_MOST_NODES]
    try:
        return _node_of(value, 1, budget)
    except _Unfit as error:
        return str(error)


class _Unfit(Exception):
    """A value that no policy can hold."""


def _node_of(value: object, depth: int, budget: list[int]) -> Node:
    budget[0] -= 1
    if budget[0] < 0:
        raise _Unfit(f"found more than {_MOST_NODES} values")
    if isinstance(value, Mapping | list | tuple):
        if depth > DEEPEST:
            raise _Unfit(f"found more than {DEEPEST} levels of lists and mappings")
        if not isinstance(value, Mapping):
            return Items(tuple(_node_of(each, depth + 1, budget) for each in value))
        strange = [name for name in value if not isinstance(name, str)]
        if strange:
            raise _Unfit(f"found a name of type {type(strange[0]).__name__} in a mapping; expected texts")
        pairs = ((Name(str(name)), _node_of(each, depth + 1, budget)) for name, each in value.items())
        return Entries(tuple(pairs))
    return _leaf(value)


def _leaf(value: object) -> Scalar:
    if value is None:
        return Scalar(None, "")
    if isinstance(value, bool):
        return Scalar(value, str(value).lower())
    if isinstance(value, str | Path) or (isinstance(value, date) and not isinstance(value, datetime)):
        text = str(value)
        if any("\ud800" <= each <= "\udfff" for each in text):
            raise _Unfit("found a text with half of a surrogate pair")
        return Scalar(text, text)
    if isinstance(value, Decimal):
        return Scalar(str(value), str(value))
    if isinstance(value, int | float):
        is_short = isinstance(value, float) or abs(value) < 10**60
        return Scalar(value, str(value) if is_short else "a number of more than 60 digits")
    if callable(value):  # a resolver
        return Scalar(value, "a callable")
    raise _Unfit(f"found a value of type {type(value).__name__}; expected texts, numbers, lists and mappings")
