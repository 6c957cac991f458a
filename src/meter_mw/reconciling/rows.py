"""A row of a reconciliation: one quantity of one subject at one place, and why it is not what was recorded.

Rule 1: an event is counted in the window that its own time lies in, wherever it was recorded and whenever.
Rule 2: what is under way to a place, or parked before it, is no drift: it is said, and explains.
Rule 3: nothing is corrected here. A backend that has less gets the events again by `parked retry` or its own
        import, one that has more is a question to people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

JOURNAL = "journal"

AGREES = ""
IN_FLIGHT = "in flight: the forwarder has not delivered it yet"
PARKED = "parked: see meter-mw parked ls"
BOTH = "in flight and parked"
MISSING = "missing: delivered, and not there"
SURPLUS = "more than was recorded: counted twice, reported by others, or recorded elsewhere"
SILENT = "did not answer"


@dataclass(frozen=True, slots=True)
class Amount:
    """What one place is compared about: a field of a subject."""

    subject: str
    field: str


@dataclass(frozen=True, slots=True)
class Row:
    """How much of an amount was recorded in [`start_us`, `end_us`), and how much a place has of it.

    `found` is None where the place did not answer, and `said` is what it said instead. `late` units were
    recorded after the window had closed; they are among the recorded ones.
    """

    amount: Amount
    start_us: int
    end_us: int
    place: str
    recorded: int
    found: int | None
    in_flight: int = 0
    parked: int = 0
    late: int = 0
    said: str = ""

    @property
    def drift(self) -> int:
        """How many units the place has more (or, negative, less) than was recorded."""
        return 0 if self.found is None else self.found - self.recorded

    @property
    def unexplained(self) -> int:
        """The part of the drift that neither events under way nor parked ones account for.

        An event under way may have arrived with its answer still out: up to all of them is explained.
        """
        if self.drift >= 0:
            return self.drift
        return min(0, self.drift + max(0, self.in_flight) + max(0, self.parked))

    @property
    def agrees(self) -> bool:
        """Whether the place has what it can have by now."""
        return self.found is not None and self.unexplained == 0

    @property
    def cause(self) -> str:
        """Say why the place has not what was recorded, as far as that can be told from here."""
        if self.found is None:
            return f"{SILENT}: {self.said}" if self.said else SILENT
        if self.drift == 0:
            return AGREES
        if self.unexplained:
            return MISSING if self.drift < 0 else SURPLUS
        if self.in_flight > 0 and self.parked > 0:
            return BOTH
        return PARKED if self.parked > 0 else IN_FLIGHT


def rows(
    place: str,
    window_us: tuple[int, int],
    recorded: Mapping[Amount, int],
    found: Mapping[Amount, int],
    *,
    in_flight: Mapping[Amount, int],
    parked: Mapping[Amount, int],
    late: Mapping[Amount, int],
) -> Iterable[Row]:
    """Compare one place with what was recorded, in the order of subjects and fields."""
    for amount in sorted({*recorded, *found}, key=lambda each: (each.subject, each.field)):
        yield Row(
            amount,
            *window_us,
            place,
            recorded.get(amount, 0),
            found.get(amount, 0),
            in_flight.get(amount, 0),
            parked.get(amount, 0),
            late.get(amount, 0),
        )


def silent(
    place: str, window_us: tuple[int, int], recorded: Mapping[Amount, int], said: str
) -> Iterable[Row]:
    """Give the rows of a place that could not be asked."""
    for amount in sorted(recorded, key=lambda each: (each.subject, each.field)):
        yield Row(amount, *window_us, place, recorded[amount], None, said=said)
