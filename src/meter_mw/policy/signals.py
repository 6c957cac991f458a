"""From when on a change in how a subject uses the API is a signal: thresholds, frozen and checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date


class Kind(Enum):
    """What a signal tells."""

    DROP = "drop"
    """Much less than usual: the customer may leave."""
    SILENCE = "silence"
    """Nothing at all."""
    SPIKE = "spike"
    """Much more than usual: the customer grows, or a key has leaked."""
    PRESSURE = "pressure"
    """A limit is in the way."""
    ERRORS = "errors"
    """An unusual share of answers are errors."""
    FIRST_USE = "first_use"
    """A subject has come."""
    NEW_ROUTE = "new_route"
    """A subject has taken up a route."""


@dataclass(frozen=True, slots=True)
class SignalRules:
    """The thresholds of signals; shares are parts of one.

    A day is compared with the same weekday of up to `weeks` weeks before, of three at least. It is unusual
    from so many `deviations` on, and of note where `least` calls are at stake. What is in `off` is not
    looked for, and `holidays` are neither judged nor compared with.
    """

    weeks: int = 8
    deviations: float = 4.0
    least: int = 50
    drop_share: float = 0.5
    """The part of what was expected that is missing."""
    drop_days: int = 7
    """Days that are added up."""
    silence_days: int = 3
    spike_times: float = 3.0
    """How many times what was expected."""
    pressure_level: float = 0.8
    """The part of a cap above which it presses."""
    pressure_time: float = 0.25
    """The part of 28 days that ended above that."""
    pressure_refused: float = 0.05
    """The part of a week's answers that a limit stopped or refused."""
    errors_share: float = 0.05
    """The least part of a day's answers."""
    errors_times: float = 3.0
    """How many times the usual part."""
    new_route_calls: int = 5
    """Answers of 2xx in the first week."""
    off: frozenset[Kind] = frozenset()
    holidays: frozenset[date] = frozenset()

    def __post_init__(self) -> None:
        """Refuse thresholds that everything, or nothing, is beyond."""
        counts = (self.least, self.drop_days, self.silence_days, self.new_route_calls)
        shares = (
            self.drop_share,
            self.pressure_level,
            self.pressure_time,
            self.pressure_refused,
            self.errors_share,
        )
        if self.weeks < 3 or self.deviations <= 0 or min(counts) < 1:
            raise ValueError(f"found {self}; expected 3 weeks, and counts of 1, at least")
        if not all(0 < each <= 1 for each in shares) or min(self.spike_times, self.errors_times) <= 1:
            raise ValueError(f"found {self}; expected shares of 0 to 1, and times above 1")
