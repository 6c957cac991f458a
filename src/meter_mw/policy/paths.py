"""The form of a request's path that routes are matched on.

Rule 1: every spelling that a router could lead to a handler has one canonical form, or is refused.
Rule 2: the form is for matching alone; the app always receives its path unchanged.
"""

from __future__ import annotations

import re

from meter_mw.model import MeterError

ODD_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
"""What no path may hold once it is decoded: controls, the backslash, half of a surrogate pair.

RFC 3986 allows none of them raw, and a router's `$` lets a final line feed pass unseen.
"""

_CANONICAL = re.compile(r"/|(?:/(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f\\\ud800-\udfff]++)++")

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/]*")
"""RFC 9112, section 3.2.2: scheme and authority, which some servers leave in the path."""


class OddPath(MeterError):
    """A path that has no canonical form; its message quotes nothing of the path."""


def canonical(path: str) -> str:
    """Return the one form of a decoded path that templates are matched on.

    `//v1/./chat/`, `v1/chat` and `http://host/v1/chat` are all `/v1/chat`. Case is kept.

    The path is percent-decoded once, as ASGI's `scope["path"]` gives it, or PATH_INFO read as
    UTF-8. Raises OddPath for control characters, a backslash or a lone surrogate.
    """
    if _CANONICAL.fullmatch(path):
        return path
    segments: list[str] = []
    # RFC 3986, section 5.2.4: a `..` that climbs above the root is dropped.
    for segment in _segments(path):
        if segment == "..":
            del segments[-1:]
        elif segment != ".":
            segments.append(segment)
    return "/" + "/".join(segments)


def unresolved(path: str) -> str:
    """Return the canonical form with its dot segments kept, as a router that resolves none reads it.

    `/files/../health` stays what it is, while `canonical` makes it `/health`.
    Raises OddPath as `canonical` does.
    """
    return "/" + "/".join(_segments(path))


def routed_path(path: str, root_path: str) -> str:
    """Return what a router mounted at `root_path` will see of `path`.

    Under `/api`, `/api/v1` is `/v1` and `/api` is empty; `/apis` and anything else stay whole.
    This is Starlette's `get_route_path`, whose answer decides the handler. WSGI servers have
    already split SCRIPT_NAME from PATH_INFO and need no call.
    """
    if not root_path or not path.startswith(root_path):
        return path
    rest = path[len(root_path) :]
    return rest if not rest or rest.startswith("/") else path


def _segments(path: str) -> list[str]:
    odd = ODD_CHARACTER.search(path)
    if odd is not None:
        raise OddPath(
            f"the path holds U+{ord(odd.group()):04X} at character {odd.start() + 1};"
            " control characters, backslashes and lone surrogates are refused in every spelling"
        )
    absolute = _ABSOLUTE_FORM.match(path)
    tail = path[absolute.end() :] if absolute else path
    return [segment for segment in tail.split("/") if segment]
