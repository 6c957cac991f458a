"""Echoes: what a call ends with, so does its reply; one that strayed is never taken for another's.

A reply that comes twice, or after its connection was given to somebody else, would shift all that follow.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 4
_MOST = 1 << 8 * SIZE
_numbers = count()


class Echo(bytes):
    """The last argument of a call whose reply ends with it: as its last bytes, or its last element."""

    __slots__ = ()


def new_echo() -> Echo:
    """Give an echo that no other call of this process has had for long."""
    return Echo((next(_numbers) % _MOST).to_bytes(SIZE, "big"))


def is_stray(call: Sequence[object], reply: object) -> bool:
    """Say whether a reply is the answer to another call."""
    echo = call[-1]
    if not isinstance(echo, Echo) or isinstance(reply, Exception):
        return False
    if isinstance(reply, bytes):
        return reply[-SIZE:] != echo
    return not isinstance(reply, list) or not reply or reply[-1] != echo
