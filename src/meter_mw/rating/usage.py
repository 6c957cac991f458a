"""What is rated: the usage of the days on which one price list held, and the period that they are part of."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from meter_mw.policy.prices import Proration

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from meter_mw.policy.prices import PriceList


@dataclass(frozen=True, slots=True)
class Usage:
    """Units of one meter, by its name.

    Several may tell of one meter, in any order: they are added up. `samples` are the units of five minutes
    each, for a tariff by percentile; those of nothing may be left out.
    """

    meter: str
    quantity: int
    samples: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """The days from `start` up to, and not including, `end`, in the zone of who is billed."""

    start: date
    end: date

    def __post_init__(self) -> None:
        """Refuse a period without a day."""
        if self.days < 1:
            raise ValueError(f"a period has a day or more, not {self.start} to {self.end}")

    @property
    def days(self) -> int:
        """How many days there are."""
        return (self.end - self.start).days

    def __str__(self) -> str:
        return f"{self.start} to {self.end} (not included)"


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many days of a period on which one price list of a plan held, and what was used in them.

    `intervals` are the five minutes that there were in those days: 288 in each, but for clock changes.
    """

    plan: str
    prices: PriceList
    days: int
    usage: tuple[Usage, ...]
    intervals: int

    def __post_init__(self) -> None:
        """Refuse a time that cannot be."""
        if self.days < 0 or self.intervals < 0:
            raise ValueError(f"found {self.days} days and {self.intervals} intervals; expected 0 or more")

    def quantity(self, meter: str) -> int:
        """Give the units of a meter; corrections may leave less than nothing."""
        return sum(each.quantity for each in self.usage if each.meter == meter)

    def samples(self, meter: str) -> tuple[int, ...]:
        """Give the samples of a meter."""
        return tuple(sample for each in self.usage if each.meter == meter for sample in each.samples)

    def share(self, period: BillingPeriod) -> Fraction:
        """Give the part of a period's price that is due for these days."""
        return Fraction(1) if self.prices.proration is Proration.NONE else Fraction(self.days, period.days)


def combined(usage: Iterable[Usage]) -> tuple[Usage, ...]:
    """Give one usage a meter, by name: that of a month from those of its days."""
    found: dict[str, Usage] = {}
    for each in usage:
        old = found.get(each.meter, Usage(each.meter, 0))
        found[each.meter] = Usage(each.meter, old.quantity + each.quantity, old.samples + each.samples)
    return tuple(found[meter] for meter in sorted(found))
