"""The arithmetic of rates and caps, in whole units and whole microseconds, exact and pure.

Rule 1: a rate is GCRA (ITU-T I.371, annex A; "virtual scheduling"). Its state is the theoretical
arrival time (TAT) of the next unit, kept as a whole number of microseconds and a part in
1/`denominator` of one, so a rate of 3/second is three a second for ever and never drifts.
Rule 2: a cap counts units in calendar windows whose boundaries are computed beforehand; no lifetime
of a key decides a period.
Rule 3: what does not fit now is told apart from what can never fit.
Rule 4: `meter.lua` does the same sums; a property test holds the two together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from math import gcd
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meter_mw.model import LARGEST_COST

if TYPE_CHECKING:
    from meter_mw.periods import Period, Windows

HORIZON_US = 10 * 366 * 86_400 * 1_000_000
"""Ten years: no span of time in a rate's state reaches further, so all sums stay below 2^53."""

RATE_ID = "r"
"""What a store's id of a rate begins with; a cap's begins with another letter."""


class Span(NamedTuple):
    """A length or a moment of time: `whole` µs, and `part` of 1/denominator µs."""

    whole: int
    part: int


AT_REST = Span(0, 0)
"""The state of a quota that nothing has been charged to."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Sustained `units` per `period_us`, of which `burst` may come at once.

    A rate of 10 a second with burst 20: 20 units conform at rest, then one every 100 ms; after two
    idle seconds all 20 are back.
    """

    units: int
    period_us: int
    burst: int
    numerator: int = field(init=False, repr=False, compare=False)
    denominator: int = field(init=False, repr=False, compare=False)
    tolerance: Span = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what allows nothing, or what the exact arithmetic cannot hold."""
        if min(self.units, self.period_us, self.burst) < 1:
            raise ValueError(f"a rate needs positive numbers, got {self}")
        if max(self.units, self.burst) > LARGEST_COST:
            raise ValueError(f"a rate counts at most 2^52 units, got {self}")
        if self.burst * self.period_us >= HORIZON_US * self.units:
            raise ValueError(f"a burst must come back within ten years, got {self}")
        common = gcd(self.period_us, self.units)
        object.__setattr__(self, "numerator", self.period_us // common)
        object.__setattr__(self, "denominator", self.units // common)
        object.__setattr__(self, "tolerance", self.span(self.burst))

    def span(self, units: int) -> Span:
        """Give the time that `units` take at this rate, at most the horizon."""
        whole, part = divmod(units * self.numerator, self.denominator)
        return Span(whole, part) if whole < HORIZON_US else Span(HORIZON_US, 0)

    def backlog(self, arrival: Span, now_us: int) -> int:
        """Give how far the theoretical arrival lies ahead of now, in 1/denominator µs."""
        return max(0, (arrival.whole - now_us) * self.denominator + arrival.part)

    def remaining(self, arrival: Span, now_us: int) -> int:
        """Give the units that would conform at once.

        A rate of 10 a second with burst 5, two units after rest, has 3 remaining.
        """
        return max(0, self.burst + -self.backlog(arrival, now_us) // self.numerator)

    def wait_us(self, arrival: Span, now_us: int, need: int) -> int | None:
        """Give the µs until `need` units conform: 0 for now, `None` for never."""
        if need > self.burst:
            return None
        lacking = self.backlog(arrival, now_us) + (need - self.burst) * self.numerator
        return max(0, -(-lacking // self.denominator))

    def reset_us(self, arrival: Span, now_us: int) -> int:
        """Give the µs until the whole burst is back."""
        return -(-self.backlog(arrival, now_us) // self.denominator)


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `units` per calendar `period`; the next one is refused."""

    units: int
    period: Period

    def __post_init__(self) -> None:
        """Refuse a cap that no number can hold."""
        if not 0 <= self.units <= LARGEST_COST:
            raise ValueError(f"a cap is 0 to 2^52 units, got {self.units}")

    def remaining(self, used: int) -> int:
        """Give the units that still fit; 0 when more was booked than the cap."""
        return max(0, self.units - used)


Quota: TypeAlias = Rate | Cap


def normal(state: Span, rate: Rate) -> Span:
    """Read a state that another denominator may have written: a part that is too large rounds up."""
    return state if state.part < rate.denominator else Span(state.whole + 1, 0)


def plus(moment: Span, span: Span, denominator: int) -> Span:
    """Add a span to a moment, carrying the part."""
    part = moment.part + span.part
    carry = 1 if part >= denominator else 0
    return Span(moment.whole + span.whole + carry, part - carry * denominator)


def minus(moment: Span, span: Span, denominator: int) -> Span:
    """Take a span from a moment, borrowing for the part."""
    part = moment.part - span.part
    borrow = 1 if part < 0 else 0
    return Span(moment.whole - span.whole - borrow, part + borrow * denominator)


def arrival(state: Span, rate: Rate, now_us: int) -> Span:
    """Give the theoretical arrival as of now: never in the past, never beyond the horizon."""
    moment = normal(state, rate)
    if moment.whole < now_us:
        return Span(now_us, 0)
    return moment if moment.whole < now_us + HORIZON_US else Span(now_us + HORIZON_US, 0)


def conforms(state: Span, rate: Rate, now_us: int, need: int) -> bool:
    """Say whether `need` units fit the rate now."""
    ahead = rate.backlog(arrival(state, rate, now_us), now_us)
    return ahead + need * rate.numerator <= rate.burst * rate.numerator


def charged(state: Span, rate: Rate, now_us: int, take: int) -> Span:
    """Give the state after `take` more units."""
    return plus(arrival(state, rate, now_us), rate.span(take), rate.denominator)


def booked(state: Span, rate: Rate, now_us: int, *, taken: int, actual: int) -> Span:
    """Give the state when `taken` units turn out to be `actual`; this cannot be refused.

    More than was taken may put the rate into debt; less gives the rest back.
    """
    if actual >= taken:
        return charged(state, rate, now_us, actual - taken)
    return minus(normal(state, rate), rate.span(taken - actual), rate.denominator)


def standing_window(start: int, windows: Windows, now_us: int) -> tuple[int, int]:
    """Give the opening and closing of the window that counts now, for a cap last used in the one at `start`.

    When the clock has gone back into an earlier window the later one goes on counting: a window that
    has been opened is not reopened by an older one.
    """
    moment = max(start, now_us)
    for opening, closing in itertools.pairwise(windows):
        if opening <= moment < closing:
            return opening, closing
    return start, max(start, windows[-1])


def used_in(state: Span, start: int) -> int:
    """Give the units that a cap's state counts in the window that opens at `start`."""
    return state.part if state.whole == start else 0


def recounted(state: Span, window: int, *, taken: int, actual: int) -> Span:
    """Give a cap's state when `taken` units, charged in `window`, turn out to be `actual`.

    A window that is over is no longer counted, and one that nothing was counted in has nothing to give
    back; the count stays within 0 and the largest cost.
    """
    if state.whole > window or (state.whole < window and actual <= taken):
        return state
    return Span(window, min(LARGEST_COST, max(0, used_in(state, window) + actual - taken)))
