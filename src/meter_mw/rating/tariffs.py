"""The units of one meter under its tariff, into lines of an invoice. Pure.

Rule 1: a quantity is the sum of a period, or of the stretch that the tariff held in: however usage is split
        and ordered, the lines are the same.
Rule 2: a quantity below zero, which corrections may leave, costs nothing; it is not paid out.
Rule 3: what holds for a part of the period has that part of the included units and of each edge, rounded up.
        A rate, which is what a percentile gives, is as high in a part as in the whole: it keeps its included
        units and edges, and costs its part.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

from meter_mw.policy.prices import Graduated, Package, Percentage, PerUnit, Volume
from meter_mw.policy.sections.amounts import is_sized
from meter_mw.policy.units import in_words
from meter_mw.rating.amounts import rounded, written
from meter_mw.rating.lines import Kind, Line
from meter_mw.rating.percentiles import SAMPLE_S, per_second, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from meter_mw.policy.prices import PriceList, Tariff, Tier
    from meter_mw.rating.usage import Stretch

_QUANTITY_DECIMALS = 6


def lines_of(tariff: Tariff, stretch: Stretch, share: Fraction) -> list[Line]:
    """Give the lines of one tariff for what was used in a stretch; one at least, even for nothing."""
    return list(_Rating(tariff, stretch, share).lines())


@dataclass(frozen=True, slots=True)
class _Part:
    """Units at a price: a line before it is rounded and written out."""

    units: Fraction
    amount: Fraction
    arithmetic: str
    tier: str = ""
    unit: Decimal | None = None


class _Rating:
    """One tariff, and what is rated under it."""

    def __init__(self, tariff: Tariff, stretch: Stretch, share: Fraction) -> None:
        self._tariff = tariff
        self._prices: PriceList = stretch.prices
        self._plan = stretch.plan
        self._share = share
        percent = "" if tariff.percentile is None else f", {written(tariff.percentile)} % of samples"
        self._name = tariff.meter.name + percent
        self._sized = is_sized(tariff.meter)
        is_rate = tariff.percentile is not None
        self._units_share, self._price_share = (Fraction(1), share) if is_rate else (share, Fraction(1))
        self._used, self._measured = self._measure(stretch)
        self._included = self._shared_units(tariff.included)
        self._billable = max(Fraction(), self._used - self._included)

    def lines(self) -> Iterator[Line]:
        """Give a line for the included units, if any, and those of what is beyond them, or of nothing."""
        parts = list(self._parts())
        due = [each for each in parts if each.units or each.amount]
        if not self._tariff.included:
            yield from (self._line(each) for each in due or parts[:1])
            return
        free = min(self._used, self._included)
        said = f"{self._measured}{self._units(free)} of {self._units(self._included)} included"
        yield self._line(_Part(free, Fraction(), said), ", included")
        yield from (self._line(each, ", beyond the included") for each in due)

    def _measure(self, stretch: Stretch) -> tuple[Fraction, str]:
        """Give what is priced, with words for how it was measured."""
        name = self._tariff.meter.name
        if self._tariff.percentile is None:
            quantity = stretch.quantity(name)
            if quantity < 0:
                return Fraction(), f"corrections leave {quantity:,}, which counts as 0: "
            return Fraction(quantity), ""
        sample = percentile(stretch.samples(name), stretch.intervals, self._tariff.percentile)
        rate = per_second(sample)
        said = f"{written(self._tariff.percentile)} % of {stretch.intervals:,} samples are at most"
        return rate, f"{said} {self._plain(Fraction(sample))} in {SAMPLE_S} s: "

    # -- the parts that cost something

    def _parts(self) -> Iterator[_Part]:
        match self._tariff.pricing:
            case PerUnit(unit):
                yield self._at(self._billable, unit)
            case Graduated(tiers):
                yield from self._graduated(tiers)
            case Volume(tiers):
                yield self._volume(tiers)
            case Package(size, unit):
                many = ceil(self._billable / size)
                said = f"{self._units(self._billable)} begin {many:,} × {self._plain(Fraction(size))}"
                arithmetic = f"{self._measured}{said}; {many:,} × {written(unit)}{self._for_a_part}"
                amount = many * Fraction(unit) * self._price_share
                yield _Part(self._billable, amount, arithmetic, unit=unit)
            case Percentage(percent):
                amount = self._billable / self._tariff.per * Fraction(percent) / 100
                arithmetic = f"{self._measured}{self._divided(self._billable)} × {written(percent)} %"
                yield _Part(self._billable, amount, arithmetic, unit=percent)

    def _graduated(self, tiers: tuple[Tier, ...]) -> Iterator[_Part]:
        """Give a part for each tier that the usage reaches; its edge belongs to it."""
        lower = Fraction()
        for tier in tiers:
            upper = None if tier.up_to is None else self._shared_units(tier.up_to)
            top = self._used if upper is None else min(self._used, upper)
            units = max(Fraction(), top - max(lower, self._included))
            flat = tier.flat if self._used > lower else None
            yield self._at(units, tier.unit, flat, self._tier(lower, upper))
            if upper is None or self._used <= upper:
                return
            lower = upper

    def _volume(self, tiers: tuple[Tier, ...]) -> _Part:
        """Give all units at the price of the tier that the last one lies in."""
        lower = Fraction()
        for tier in tiers:
            upper = None if tier.up_to is None else self._shared_units(tier.up_to)
            if upper is None or self._used <= upper:
                break
            lower = upper
        flat = tier.flat if self._used else None
        return self._at(self._billable, tier.unit, flat, self._tier(lower, upper))

    def _at(self, units: Fraction, unit: Decimal, flat: Decimal | None = None, tier: str = "") -> _Part:
        amount = units / self._tariff.per * Fraction(unit) * self._price_share
        arithmetic = f"{self._measured}{self._divided(units)} × {written(unit)}{self._for_a_part}"
        if flat:
            amount += Fraction(flat) * self._share
            arithmetic += f" + {self._shared(flat)} flat"
        return _Part(units, amount, arithmetic, tier, unit)

    def _shared_units(self, units: int) -> Fraction:
        """Give the units that are due for the stretch, of those of a whole period."""
        return Fraction(ceil(units * self._units_share))

    # -- words

    @property
    def _for_a_part(self) -> str:
        return "" if self._price_share == 1 else f" × {self._price_share}"

    def _line(self, part: _Part, note: str = "") -> Line:
        code, decimals = self._prices.currency.code, self._prices.currency.decimals
        amount = rounded(part.amount, decimals, self._prices.rounding)
        arithmetic = part.arithmetic
        if part.unit is not None:
            exact = "" if Fraction(amount) == part.amount else f"{written(part.amount)}, rounded "
            arithmetic += f" = {exact}{amount:,f} {code}"
        return Line(
            Kind.USAGE,
            self._name + note,
            amount,
            arithmetic,
            self._plan,
            self._tariff.source,
            self._tariff.meter.name,
            rounded(part.units, _QUANTITY_DECIMALS if part.units.denominator > 1 else 0),
            part.tier,
            part.unit,
        )

    def _plain(self, units: Fraction) -> str:
        return f"{written(units)} B" if self._sized else written(units)

    def _units(self, units: Fraction) -> str:
        """Write a quantity; a rate as it was measured, where a second has no whole units."""
        if self._tariff.percentile is None:
            return self._plain(units)
        if units.denominator == 1:
            return f"{self._plain(units)} a second"
        return f"{self._plain(units * SAMPLE_S)} / {SAMPLE_S} s"

    def _edge(self, units: Fraction) -> str:
        """Write an edge as the operator did: 10 GB."""
        rate = "/s" if self._tariff.percentile is not None else ""
        return (in_words(int(units), "bytes") if self._sized else written(units)) + rate

    def _divided(self, units: Fraction) -> str:
        """Write units as multiples of what a price is for: `2,500,000 / 1,000,000`."""
        per = self._tariff.per
        if per == 1:
            return self._units(units)
        return f"{self._units(units)} / {in_words(per, 'bytes') if self._sized else format(per, ',')}"

    def _shared(self, amount: Decimal) -> str:
        return written(amount) if self._share == 1 else f"{written(amount)} × {self._share}"

    def _tier(self, lower: Fraction, upper: Fraction | None) -> str:
        """Say which units a tier has; its upper edge is one of them."""
        if upper is None:
            return f"above {self._edge(lower)}" if lower else ""
        return (
            f"above {self._edge(lower)}, up to {self._edge(upper)}" if lower else f"up to {self._edge(upper)}"
        )
