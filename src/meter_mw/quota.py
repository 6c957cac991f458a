"""The arithmetic of rates and caps, in whole units and whole microseconds, exact and pure.

Rule 1: a rate is GCRA (ITU-T I.371, annex A; "virtual scheduling"). Its state is the theoretical
arrival time (TAT) of the next unit, kept as a whole number of microseconds and a part in
1/`denominator` of one, so a rate of 3/second is three a second for ever and never drifts.
Rule 2: a cap counts units in calendar windows whose boundaries are computed beforehand; no lifetime
of a key decides a period. A count that has begun goes on until the window around it closes, whatever
became of the windows meanwhile.
Rule 3: what does not fit now is told apart from what can never fit.
Rule 4: `meter.lua` does the same sums; a property test holds the two together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from enum import Enum
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

    def size(self, span: Span) -> int:
        """Give a span as a number of 1/denominator µs."""
        return span.whole * self.denominator + span.part

    def spanning(self, size: int) -> Span:
        """Give the span of so many 1/denominator µs."""
        return Span(*divmod(size, self.denominator))

    def backlog(self, arrival: Span, now_us: int) -> int:
        """Give how far the theoretical arrival lies ahead of now, in 1/denominator µs."""
        return max(0, (arrival.whole - now_us) * self.denominator + arrival.part)

    def remaining(self, arrival: Span, now_us: int) -> int:
        """Give the units that would conform at once.

        A rate of 10 a second with burst 5, two units after rest, has 3 remaining.
        """
        return max(0, self.burst + -self.backlog(arrival, now_us) // self.numerator)

    def wait_us(self, arrival: Span, now_us: int, need: int) -> int | None:
        """Give the µs until `need` units conform: 0 for now, `None` for never; nothing conforms at once."""
        if need > self.burst:
            return None
        if need == 0:
            return 0
        lacking = self.backlog(arrival, now_us) + (need - self.burst) * self.numerator
        return max(0, -(-lacking // self.denominator))

    def reset_us(self, arrival: Span, now_us: int) -> int:
        """Give the µs until the whole burst is back."""
        return -(-self.backlog(arrival, now_us) // self.denominator)


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `units` per calendar `period`, and what becomes of those beyond.

    `grace` more are served as if they belonged to it. What comes after those is refused; or where the
    cap `bills`, it is served as overage up to a count of `ceiling`, without an end where there is none.
    `warn` are the counts that are announced when they are reached, in rising order.
    """

    units: int
    period: Period
    grace: int = 0
    bills: bool = False
    ceiling: int | None = None
    warn: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a cap that no number can hold, or whose parts contradict each other."""
        if not 0 <= self.units <= LARGEST_COST:
            raise ValueError(f"a cap is 0 to 2^52 units, got {self.units}")
        if not 0 <= self.grace <= LARGEST_COST - self.units:
            raise ValueError(f"a cap and its grace are at most 2^52 units, got {self}")
        if self.ceiling is not None and not (self.bills and self.included <= self.ceiling <= LARGEST_COST):
            raise ValueError(f"a ceiling is for a cap that bills, and not below it, got {self}")
        if list(self.warn) != sorted(set(self.warn)) or (self.warn and self.warn[0] < 1):
            raise ValueError(f"thresholds are positive and rise, got {self}")

    @property
    def included(self) -> int:
        """The count beyond which units are refused, or are overage."""
        return self.units + self.grace

    @property
    def most(self) -> int:
        """The largest count that is served."""
        if self.bills:
            return LARGEST_COST if self.ceiling is None else self.ceiling
        return self.included

    def remaining(self, used: int) -> int:
        """Give the units that still belong to the cap; 0 when more was booked than that."""
        return max(0, self.units - used)

    def resized(self, units: int) -> Cap:
        """Give the same cap with other units, and all that was a share of them in proportion.

        Raises ValueError where units and grace would be more than any number holds.
        """
        if self.units == 0:
            return Cap(units, self.period, 0, self.bills, None if self.ceiling is None else units)

        def share(part: int) -> int:
            return min(LARGEST_COST, part * units // self.units)

        grace = share(self.grace)
        ceiling = None if self.ceiling is None else max(share(self.ceiling), units + grace)
        warn = tuple(sorted({max(1, -(-each * units // self.units)) for each in self.warn}))
        return Cap(units, self.period, grace, self.bills, ceiling, warn)


@dataclass(frozen=True, slots=True)
class Slots:
    """At most `units` at the same time: each is held while it is used, and given back after that."""

    units: int

    def __post_init__(self) -> None:
        """Refuse what allows nothing, or what no number can hold."""
        if not 1 <= self.units <= LARGEST_COST:
            raise ValueError(f"slots are 1 to 2^52 units, got {self.units}")

    def remaining(self, used: int) -> int:
        """Give the slots that are free."""
        return max(0, self.units - used)


Quota: TypeAlias = Rate | Cap | Slots

LETTERS: dict[type[Quota], str] = {Rate: RATE_ID, Cap: "c", Slots: "s"}
"""What a store's id of each kind of quota begins with."""


class OnDeny(Enum):
    """Which rates a denied request counts against all the same; a cap counts what is served."""

    NONE = "none"
    SELF = "self"
    """Those that had no room."""
    ALL = "all"


class Used(NamedTuple):
    """What a cap has counted since `start_us`, in the window that closes at `until_us`.

    Of the `used` units `held` are reserved: how many of them will be used is not known yet. `overage` of
    the known ones have been marked as such, and thresholds up to `warned` units have been announced.
    Of slots only `used` means something.
    """

    start_us: int = 0
    until_us: int = 0
    used: int = 0
    held: int = 0
    overage: int = 0
    warned: int = 0

    @property
    def known(self) -> int:
        """The units that will not be given back."""
        return self.used - self.held


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


def conforms(state: Span, rate: Rate, now_us: int, need: Span) -> bool:
    """Say whether `need`, the time that some units take, fits the rate now; nothing always fits."""
    return has_room(arrival(state, rate, now_us), rate, now_us, need)


def has_room(arrival: Span, rate: Rate, now_us: int, need: Span) -> bool:
    """Say whether `need` fits beside a theoretical arrival that is as of now."""
    return need == AT_REST or plus(Span(arrival.whole - now_us, arrival.part), need, rate.denominator) <= (
        rate.tolerance
    )


def charged(state: Span, rate: Rate, now_us: int, span: Span) -> Span:
    """Give the state after units that take the time `span`."""
    return plus(arrival(state, rate, now_us), span, rate.denominator)


def penalised(state: Span, rate: Rate, now_us: int, span: Span) -> Span:
    """Give the state when a refused request counts: what is left of the burst may go, and no debt arises."""
    full = plus(Span(now_us, 0), rate.tolerance, rate.denominator)
    return max(arrival(state, rate, now_us), min(charged(state, rate, now_us, span), full))


def beyond(span: Span, held: Span, rate: Rate) -> Span:
    """Give how much longer `span` is than what is held already."""
    return rate.spanning(max(0, rate.size(span) - rate.size(normal(held, rate))))


def returned(state: Span, rate: Rate, span: Span, due_us: int, now_us: int) -> Span:
    """Give the state when a `span` that was charged until `due_us` is given back.

    What of it has drained by now is gone: giving it back would allow more than a burst at once.
    """
    left_us = due_us - now_us
    if left_us <= 0:
        return normal(state, rate)
    given = span if span.whole <= left_us else Span(left_us, 0)
    return minus(normal(state, rate), given, rate.denominator)


def booked(state: Span, rate: Rate, now_us: int, *, taken: Span, due_us: int, actual: Span) -> Span:
    """Give the state when `taken`, charged until `due_us`, turns out to be `actual`; it cannot be refused.

    More than was taken may put the rate into debt; less gives the rest back.
    """
    more = rate.size(actual) - rate.size(normal(taken, rate))
    if more >= 0:
        return charged(state, rate, now_us, rate.spanning(more)) if more else state
    return returned(state, rate, rate.spanning(-more), due_us, now_us)


def standing(used: Used, windows: Windows, now_us: int) -> Used:
    """Give what counts now: the same count while its window is open, else a new one.

    Windows that have moved since, with a zone or an anchor, keep the count: it goes on to the close of
    the window that stands now. A clock that went back reopens nothing.
    """
    moment = max(used.start_us, now_us)
    for opening, closing in itertools.pairwise(windows):
        if opening <= moment < closing:
            if now_us >= used.until_us:
                return Used(opening, closing)
            return used if closing == used.until_us else used._replace(until_us=closing)
    return used


def closing_of(windows: Windows, opening_us: int) -> int:
    """Give where the window closes that opens then, or around then; the same moment where none does."""
    for opening, closing in itertools.pairwise(windows):
        if opening <= opening_us < closing:
            return closing
    return opening_us


def recounted(used: Used, cap: Cap, change: int, *, held: int = 0, unmarked: int = 0) -> Used:
    """Give the count after `change` units more or less, by `held` of which the reserved ones change.

    `unmarked` units of overage are taken back. The count stays within 0 and the largest cost, and what was
    announced stays announced. Of the units that became known, those beyond what is included are overage.
    """
    count = min(LARGEST_COST, max(0, used.used + change))
    reserved = min(count, max(0, used.held + held))
    known = count - reserved
    overage = max(0, used.overage - unmarked)
    if cap.bills:
        became_known = max(0, known - used.known)
        overage = max(overage, min(overage + became_known, known - cap.included))
    warned = max((each for each in cap.warn if each <= known), default=0)
    return Used(used.start_us, used.until_us, count, reserved, overage, max(used.warned, warned))
