"""What a period on a plan costs, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.policy.prices import Graduated, Package, Percentage, PerUnit, Proration, Rounding, Volume
from meter_mw.policy.sections.amounts import is_sized
from meter_mw.policy.units import in_words
from meter_mw.rating.amounts import money, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.policy.prices import Credit, PriceList, Tariff, Tier

_BEYOND = {Rounding.HALF_EVEN: "halves to even", Proration.NONE: "parts of a period at full price"}
"""What is said of rounding and proration where they are not the usual ones."""


def price_in_words(prices: PriceList) -> Iterator[str]:
    """Give what one price list says, line by line."""
    code = prices.currency.code
    bounds = [f"at least {money(prices.minimum, code)}"] if prices.minimum else []
    bounds += [] if prices.spend_cap is None else [f"at most {money(prices.spend_cap, code)}"]
    bounds += [f"announced at {', '.join(map(written, prices.warn))}"] if prices.warn else []
    bounds += [_BEYOND[each] for each in (prices.rounding, prices.proration) if each in _BEYOND]
    since = f" from {prices.since}" if prices.since else ""
    yield f"price{since}: " + ", ".join((f"{money(prices.base, code)} a {prices.period.word}", *bounds))
    yield from (f"  {_tariff(each)}" for each in prices.tariffs)
    yield from (f"  {_credit(each, code)}" for each in prices.credits)


def _tariff(tariff: Tariff) -> str:
    what = tariff.meter.name
    if tariff.percentile is not None:
        what += f", a second, in {written(tariff.percentile)} % of five minutes"
    free = f"{_units(tariff, tariff.included)} included, then " if tariff.included else ""
    each = " each" if tariff.per == 1 else f" for {_units(tariff, tariff.per)}"
    match tariff.pricing:
        case PerUnit(unit):
            said = f"{written(unit)}{each}"
        case Graduated(tiers):
            said = _tiers(tariff, tiers, each)
        case Volume(tiers):
            said = f"all at the price of the last: {_tiers(tariff, tiers, each)}"
        case Package(size, unit):
            said = f"{written(unit)} for each {_units(tariff, size)} begun"
        case Percentage(percent):
            said = f"{written(percent)} % of it" + (f", {tariff.per:,} being 1" if tariff.per > 1 else "")
    announced = ", ".join(_units(tariff, each) for each in tariff.warn)
    return f"{what}: {free}{said}{announced and f', announced at {announced}'}"


def _tiers(tariff: Tariff, tiers: tuple[Tier, ...], each: str) -> str:
    said = []
    for tier in tiers:
        flat = f" and {written(tier.flat)} at once" if tier.flat else ""
        edge = "beyond" if tier.up_to is None else f"up to {_units(tariff, tier.up_to)}"
        said.append(f"{written(tier.unit)}{each}{flat} {edge}")
    return ", ".join(said)


def _units(tariff: Tariff, units: int) -> str:
    return in_words(units, "bytes") if is_sized(tariff.meter) else f"{units:,}"


def _credit(credit: Credit, code: str) -> str:
    until = f" until {credit.until}" if credit.until else ""
    whose = f" of {credit.subject}" if credit.subject else ""
    return f"{credit.name}{whose}: {money(credit.amount, code)} from {credit.since}{until}"
