"""What was measured: for each contender and setting, one figure a round."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.contenders import Contender
    from bench.workload import Setting


@dataclass(frozen=True, slots=True)
class Spread:
    """Figures of several rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Sum them up."""
        return cls(statistics.median(values), min(values), max(values))


def p99(values: Sequence[float]) -> float:
    """Give what 99 of 100 values do not pass; of fewer than 100 the largest."""
    if not values:
        raise ValueError("nothing was measured, so it has no p99")
    return sorted(values)[min(len(values) - 1, math.ceil(len(values) * 0.99) - 1)]


@dataclass(slots=True)
class Figures:
    """One quantity, of everyone."""

    rounds: dict[tuple[Contender, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, contender: Contender, setting: Setting, value: float) -> None:
        """Note the figure of one round."""
        self.rounds[contender, setting.title].append(value)

    def has(self, contender: Contender, title: str) -> bool:
        """Whether there is any figure."""
        return (contender, title) in self.rounds

    def spread(self, contender: Contender, title: str) -> Spread:
        """Give a contender's own figures."""
        return Spread.of(self.rounds[contender, title])

    def beyond(self, contender: Contender, bare: Contender, title: str) -> Spread:
        """Give the difference to the bare app, round by round."""
        pairs = zip(self.rounds[contender, title], self.rounds[bare, title], strict=True)
        return Spread.of([mine - base for mine, base in pairs])

    def share(self, contender: Contender, bare: Contender, title: str) -> Spread:
        """Give the ratio to the bare app, round by round."""
        pairs = zip(self.rounds[contender, title], self.rounds[bare, title], strict=True)
        return Spread.of([mine / base for mine, base in pairs])
