"""A signal: what changed in how a subject uses the API, when, by which figures, and how clearly. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from meter_mw.policy.signals import Kind

Figure: TypeAlias = "int | float | str"

MOST = 100.0
"""The highest score."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What changed for a subject on a day of UTC, the first on which it could be told.

    `about` is the route or limit that it is about, "" for all. `score` says how many times beyond its
    threshold the figure is that is nearest to one: 1 has just reached it. `evidence` are the figures.
    """

    subject: str
    kind: Kind
    day: date
    score: float
    evidence: Mapping[str, Figure]
    about: str = ""

    def __post_init__(self) -> None:
        """Refuse a score that says that a threshold was not reached."""
        if not 1 <= self.score <= MOST:
            raise ValueError(f"found the score {self.score}; expected 1 to {MOST:.0f}")


def score(*reached: float) -> float:
    """Give the score of figures as multiples of their thresholds, all of which were reached."""
    return round(max(1.0, min(MOST, *reached)), 2)
