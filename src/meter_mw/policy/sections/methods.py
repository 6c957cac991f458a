"""The methods of a route, as HTTP registers them or an app made them up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meter_mw.policy.yaml12 import Scalar

if TYPE_CHECKING:
    from meter_mw.policy.reading import Field

_METHOD = re.compile(r"[A-Z]+(?:-[A-Z]+)*")
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "QUERY",
    "PURGE",
    "ACL",
    "COPY",
    "LINK",
    "LOCK",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "PROPFIND",
    "PROPPATCH",
    "REPORT",
    "SEARCH",
    "UNLINK",
    "UNLOCK",
    "BIND",
    "REBIND",
    "UNBIND",
    "CHECKIN",
    "CHECKOUT",
    "MERGE",
    "LABEL",
)
"""The methods that HTTP registers, and a few that are common beside them."""

_LONGEST_METHOD = 32
_ANY_METHOD = ("ANY", "ALL", "*")
"""What other configurations call every method."""


def read_methods(field: Field) -> frozenset[str] | None:
    """Read the methods of a route; None stands for a problem that is noted."""
    if _is_any(field):
        return None
    if isinstance(field.node, Scalar) and isinstance(field.node.value, str):
        field.reject("a list of methods", meant=None if field.is_hidden else f"[{field.node.text[:40]}]")
        return None
    items = field.items("a list of methods: [GET, POST]")
    if items is None:
        return None
    if not items:
        field.complain("found no method; leave methods out for every method")
    methods = [_method(item) for item in items]
    known = [method for method in methods if method is not None]
    if len(set(known)) < len(known):
        field.complain("found one method twice")
    return frozenset(known) if items and len(known) == len(methods) else None


def _is_any(field: Field) -> bool:
    """Note that every method is written by leaving the list out."""
    is_any = isinstance(field.node, Scalar) and field.node.text.upper() in _ANY_METHOD
    if is_any:
        field.complain(f"found {field.found()}, which is no method; leave methods out for every method")
    return is_any


def _method(field: Field) -> str | None:
    if _is_any(field):
        return None
    expected = "a method in capitals, such as GET"
    text = field.text(expected)
    if text is None or text in METHODS:
        return text
    meant = field.suggestion(text, METHODS, closeness=0.75)
    if meant is None and len(text) <= _LONGEST_METHOD and _METHOD.fullmatch(text):
        return text
    field.reject(expected, meant=meant)
    return None
