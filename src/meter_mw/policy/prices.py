"""The prices of a plan: what a period costs, and how the units of each meter are priced; frozen and checked.

Rule 1: money is Decimal, in one currency for each price list. No float takes part.
Rule 2: the edge of a tier belongs to it: `up_to: 5` ends with the fifth unit, as Stripe's `up_to` does.
Rule 3: tiers count the units of a period from the first one; included units are the first of them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.periods import Period

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from meter_mw.model import Meter
    from meter_mw.policy.currencies import Currency

NOTHING = Decimal(0)


class Rounding(Enum):
    """What becomes of exactly half of the smallest amount of a currency; the rest goes to the nearest."""

    HALF_UP = "half-up"
    """Away from zero: 0.125 USD is 0.13 USD, as invoices are mostly made."""
    HALF_EVEN = "half-even"
    """To the even neighbour: 0.125 USD is 0.12 USD and 0.135 USD is 0.14 USD (bankers' rounding)."""


class Proration(Enum):
    """What a price list is worth that held for a part of a period."""

    DAY = "day"
    """Its share of the days: of the base, the minimum, the cap, flat fees, included units and edges."""
    NONE = "none"
    """All of it."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Units up to an edge, which belongs to it, at a price each; `flat` is due once any unit is in it."""

    up_to: int | None
    unit: Decimal
    flat: Decimal = NOTHING

    def __post_init__(self) -> None:
        """Refuse an edge that no unit reaches, and amounts below zero."""
        if self.up_to is not None and self.up_to < 1:
            raise ValueError(f"a tier ends at 1 or more, not at {self.up_to}")
        _refuse_negative(unit=self.unit, flat=self.flat)


@dataclass(frozen=True, slots=True)
class PerUnit:
    """Each unit at the same price."""

    unit: Decimal

    def __post_init__(self) -> None:
        """Refuse a price below zero."""
        _refuse_negative(unit=self.unit)


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit at the price of the tier that it lies in."""

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        """Refuse tiers that do not follow each other to the end."""
        _refuse_gaps(self.tiers)


@dataclass(frozen=True, slots=True)
class Volume:
    """All units at the price of the tier that the last one lies in, so that one more may cost less."""

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        """Refuse tiers that do not follow each other to the end."""
        _refuse_gaps(self.tiers)


@dataclass(frozen=True, slots=True)
class Package:
    """So many units at a price for all of them; a package that is begun is due in full."""

    size: int
    unit: Decimal

    def __post_init__(self) -> None:
        """Refuse an empty package, and a price below zero."""
        if self.size < 1:
            raise ValueError(f"a package has 1 unit or more, not {self.size}")
        _refuse_negative(unit=self.unit)


@dataclass(frozen=True, slots=True)
class Percentage:
    """A share of the amount that the app reported, in per cent."""

    percent: Decimal

    def __post_init__(self) -> None:
        """Refuse a share below zero."""
        _refuse_negative(percent=self.percent)


Pricing: TypeAlias = PerUnit | Graduated | Volume | Package | Percentage


@dataclass(frozen=True, slots=True)
class Tariff:
    """How the units of one meter are priced: an entry of `charges`.

    `included` units cost nothing, and prices are for `per` units. With a `percentile` it is not the sum that
    is priced but the units per second that so many per cent of the samples, of 5 minutes each, do not exceed.
    `warn` are the units of a period that are announced. `source` is the place in the policy.
    """

    meter: Meter
    pricing: Pricing
    included: int = 0
    per: int = 1
    percentile: Decimal | None = None
    source: str = ""
    warn: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse amounts that mean nothing."""
        if self.included < 0 or self.per < 1:
            raise ValueError(f"a tariff has 0 or more units included and is for 1 or more: {self}")
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise ValueError(f"a percentile is above 0 and at most 100, not {self.percentile}")


@dataclass(frozen=True, slots=True)
class Credit:
    """Money paid beforehand, from which invoices are paid until it is used up or over.

    It pays for periods that have a day in common with it: `since` is its first day, `until` the day on which
    it is over. It is the `subject`'s, or where it names none every subject's on the plan.
    """

    name: str
    amount: Decimal
    since: date
    until: date | None = None
    subject: str | None = None

    def __post_init__(self) -> None:
        """Refuse a credit that is empty, or over before it begins."""
        if self.amount <= 0:
            raise ValueError(f"a credit is more than 0, not {self.amount}")
        if self.until is not None and self.until <= self.since:
            raise ValueError(f"the credit {self.name!r} is over on {self.until}, before it begins")


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a period on a plan costs, from a day on: base and tariffs, between the minimum and the cap.

    `since` is `None` for the first list of a plan. `source` is the place in the policy. The amounts of `warn`
    are announced when so much is due, before credits.
    """

    currency: Currency
    base: Decimal = NOTHING
    period: Period = Period.MONTH
    tariffs: tuple[Tariff, ...] = ()
    minimum: Decimal = NOTHING
    spend_cap: Decimal | None = None
    credits: tuple[Credit, ...] = ()
    rounding: Rounding = Rounding.HALF_UP
    proration: Proration = Proration.DAY
    since: date | None = None
    source: str = ""
    warn: tuple[Decimal, ...] = ()

    def __post_init__(self) -> None:
        """Refuse amounts that cannot be billed, and a cap below what is due in any case."""
        tiered = (each.pricing for each in self.tariffs if isinstance(each.pricing, Graduated | Volume))
        flats = (tier.flat for pricing in tiered for tier in pricing.tiers)
        capped = () if self.spend_cap is None else (self.spend_cap,)
        for amount in (self.base, self.minimum, *capped, *flats, *(each.amount for each in self.credits)):
            _refuse_negative(amount=amount)
            if amount != round(amount, self.currency.decimals):
                raise ValueError(f"found {amount}, which is no whole amount of {self.currency.code}")
        if self.spend_cap is not None and self.spend_cap < max(self.base, self.minimum):
            raise ValueError(f"the cap of {self.spend_cap} is below the base or the minimum")


def list_on(lists: Sequence[PriceList], day: date) -> PriceList | None:
    """Give the list in force on a day, of lists in the order of their days; `None` before the first."""
    begun = bisect_right(lists, day, key=lambda each: each.since or type(day).min)
    return lists[begun - 1] if begun else None


def _refuse_negative(**amounts: Decimal) -> None:
    for name, amount in amounts.items():
        if not amount.is_finite() or amount < 0:
            raise ValueError(f"the {name} is 0 or more, not {amount}")


def _refuse_gaps(tiers: tuple[Tier, ...]) -> None:
    """Refuse tiers whose edges do not grow, or of which not exactly the last is open."""
    if not tiers or tiers[-1].up_to is not None:
        raise ValueError("the last tier has no edge, so that every unit has a price")
    for earlier, later in pairwise(tiers):
        if earlier.up_to is None or (later.up_to is not None and later.up_to <= earlier.up_to):
            raise ValueError(f"the edges of tiers grow, and only the last has none: {tiers}")
