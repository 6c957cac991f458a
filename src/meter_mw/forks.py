"""Forks: what owns descriptors, locks or threads starts afresh in a child.

Rule 1: an open file with a lock on it is created and registered with its owner inside `GATE`.
Rule 2: no fork happens inside `GATE`, so a child knows of every lock it inherited.
Rule 3: a child closes inherited locks and never unlocks them: `LOCK_UN` would unlock the parent's.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet

GATE = threading.Lock()
"""Held while locked files are opened; a fork waits for it."""


class Forked(Protocol):
    """Something that must not use in a child what it opened in the parent."""

    def forget(self) -> None:
        """Drop, in the child, what belongs to the parent."""


_registered: WeakSet[Forked] = WeakSet()


def register(owner: Forked) -> None:
    """Have `owner.forget` called in every child."""
    _registered.add(owner)


def _in_child() -> None:
    try:
        for owner in list(_registered):
            owner.forget()
    finally:
        GATE.release()


os.register_at_fork(before=GATE.acquire, after_in_parent=GATE.release, after_in_child=_in_child)
