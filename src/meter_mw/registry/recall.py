"""What the registry last said of each key, for as long as a worker may believe it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meter_mw.policy.terms import KeyEntry
    from meter_mw.registry.records import Key

BELIEVED_S = 2.0
"""Seconds for which an answer is used again: what is done to a key acts after this at the latest."""

STALE_S = 60.0
"""Seconds for which it still helps beyond that, while Redis is away."""

MOST_KEPT = 10_000
"""Answers of each kind that are remembered at most."""


@dataclass(frozen=True, slots=True)
class Known:
    """A key of the registry, and the terms of its subject."""

    key: Key
    entry: KeyEntry


class Recall:
    """Answers by pseudonym; unknown keys have a table of their own, and so displace none that are known."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Known | None]] = {}
        self._unknown: dict[str, tuple[float, Known | None]] = {}
        self._lock = threading.Lock()

    def find(self, key: str, now_s: float, stale_s: float = 0.0) -> tuple[Known | None] | None:
        """Give the answer in a tuple of one, or None where there is none, or none so young."""
        kept = self._known.get(key) or self._unknown.get(key)
        return (kept[1],) if kept is not None and now_s < kept[0] + BELIEVED_S + stale_s else None

    def keep(self, key: str, answer: Known | None, now_s: float) -> None:
        """Remember an answer; the oldest of its kind make room."""
        table, other = (self._unknown, self._known) if answer is None else (self._known, self._unknown)
        with self._lock:
            other.pop(key, None)
            table.pop(key, None)
            while len(table) >= MOST_KEPT:
                del table[next(iter(table))]
            table[key] = (now_s, answer)

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)
