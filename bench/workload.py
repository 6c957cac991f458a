"""What every contender is asked for: the same limits, callers, route and answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
PATH = "/v1/items/7"
KEYS = tuple(f"bench-key-{number:02}" for number in range(64))
"""The API keys that take turns; each has a count of its own."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in a period, for each API key; as text it is in the notation of `limits`."""

    amount: int
    period: str

    def __str__(self) -> str:
        return f"{self.amount}/{self.period}"


LIMITS = (Limit(1_000_000, "second"), Limit(60_000_000, "minute"), Limit(1_000_000_000, "day"))
"""None of them is reached in a run, so that everyone admits everything."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a contender keeps its counts (`redis` is a URL, `None` means memory), and its limits."""

    limits: tuple[Limit, ...]
    redis: str | None
    folder: Path

    @property
    def title(self) -> str:
        """The head of its column."""
        number = len(self.limits)
        return f"{'memory' if self.redis is None else 'Redis'}, {number} limit{'s'[: number > 1]}"


def settings(stores: tuple[str, ...], numbers: tuple[int, ...], redis: str, folder: Path) -> list[Setting]:
    """Give every store with every number of limits."""
    return [
        Setting(LIMITS[:number], redis if store == "redis" else None, folder)
        for store in stores
        for number in numbers
    ]
