"""What every contender is asked for: the same limits, callers, route and answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
PATH = "/v1/items/7"
KEYS = tuple(f"bench-key-{number:02}" for number in range(64))
"""The API keys that take turns; each has a count of its own."""

SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in `number` periods, for each API key; as text it is in the notation of `limits`."""

    amount: int
    period: str
    number: int = 1

    def __post_init__(self) -> None:
        """Refuse a period that not every contender knows."""
        if self.period not in SECONDS or self.amount < 1 or self.number < 1:
            raise ValueError(f"a limit is so many requests in so many of {', '.join(SECONDS)}, got {self!r}")

    @property
    def seconds(self) -> int:
        """How long its period is."""
        return self.number * SECONDS[self.period]

    def __str__(self) -> str:
        return f"{self.amount}/{f'{self.number} ' if self.number > 1 else ''}{self.period}"


LIMITS = (
    Limit(1_000_000, "second"),
    Limit(60_000_000, "minute"),
    Limit(1_000_000_000, "day"),
    Limit(10_000_000, "second", 10),
    Limit(300_000_000, "minute", 10),
    Limit(500_000_000, "hour"),
    Limit(700_000_000, "hour", 6),
    Limit(800_000_000, "hour", 12),
)
"""None of them is reached in a run, so that everyone admits everything.

By their periods they rise in amount and fall in density, as some contenders ask for.
"""

SPENT = (*LIMITS[:2], Limit(1, "day"))
"""Three limits of which one is used up by each key's first request."""

SPENT_RISING = (Limit(1, "hour"), Limit(2, "hour", 6), Limit(3, "day"))
"""The same for contenders that take limits only if they rise."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where counts are kept: `url` is a Redis, `None` means the memory of the process."""

    name: str
    url: str | None

    @property
    def is_far(self) -> bool:
        """Whether the way there was made longer, so that fewer requests must do."""
        return self.name == FAR


MEMORY, TCP, UNIX, FAR = "memory", "Redis", "Redis by unix socket", "Redis 1 ms away"


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a contender keeps its counts, its limits, and how many processes share them.

    `refuses` says that the limits are used up, so that every request of a turn is to be refused.
    """

    limits: tuple[Limit, ...]
    store: Store
    folder: Path
    workers: int = 1
    refuses: bool = False
    paced: int = 0
    """Requests a second of one key, where they are not one after the other."""

    @property
    def redis(self) -> str | None:
        """The URL of the Redis, if it is one."""
        return self.store.url

    @property
    def has_crowds(self) -> bool:
        """Whether CPU time is taken too, with many in flight; where it says nothing new, it is not."""
        return not (self.store.is_far or self.refuses)

    @property
    def uri(self) -> str:
        """The store in the notation of `limits`."""
        return re.sub("^unix:", "redis+unix:", self.store.url or "memory://")

    @property
    def title(self) -> str:
        """The head of its column."""
        number = len(self.limits)
        parts = [self.store.name, f"{number} limit{'s'[: number != 1]}"]
        parts += ["refused"] * self.refuses + [f"{self.paced:,}/s of one key"] * bool(self.paced)
        return ", ".join(parts + [f"{self.workers} workers"] * (self.workers > 1))
