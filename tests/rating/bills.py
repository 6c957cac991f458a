"""Short ways to prices and invoices."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

from meter_mw.model import Count, Meter
from meter_mw.policy.currencies import Currency
from meter_mw.policy.prices import (
    Credit,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    PriceList,
    Pricing,
    Tariff,
    Tier,
    Volume,
)
from meter_mw.rating.invoices import Balance, Invoice, rate
from meter_mw.rating.usage import BillingPeriod, Stretch, Usage

NOVEMBER = BillingPeriod(date(2026, 11, 1), date(2026, 12, 1))
USD = Currency("USD")
INTERVALS = 288


def meter(name: str) -> Meter:
    """Give a meter; one that is named after bytes counts those."""
    return Meter(name, Count.RESPONSE_BYTES if name == "egress" else Count.REPORTED)


def tariff(name: str, pricing: Pricing, **more: Any) -> Tariff:
    """Give a tariff of a meter."""
    return Tariff(meter(name), pricing, **more)


def per_unit(price: str) -> PerUnit:
    return PerUnit(Decimal(price))


def package(size: int, price: str) -> Package:
    return Package(size, Decimal(price))


def percentage(percent: str) -> Percentage:
    return Percentage(Decimal(percent))


def tiers(*said: tuple[int | None, str] | tuple[int | None, str, str]) -> tuple[Tier, ...]:
    """Give tiers from edges, prices and flat fees."""
    return tuple(Tier(edge, *map(Decimal, amounts)) for edge, *amounts in said)


def graduated(*said: tuple[int | None, str] | tuple[int | None, str, str]) -> Graduated:
    return Graduated(tiers(*said))


def volume(*said: tuple[int | None, str] | tuple[int | None, str, str]) -> Volume:
    return Volume(tiers(*said))


def prices(*tariffs: Tariff, base: str = "0", minimum: str = "0", **more: Any) -> PriceList:
    """Give a price list in USD."""
    more = {"currency": USD} | more
    return PriceList(base=Decimal(base), minimum=Decimal(minimum), tariffs=tariffs, **more)


def stretch(listed: PriceList, days: int = 30, samples: tuple[int, ...] = (), **units: int) -> Stretch:
    """Give so many days on a price list, with units by meter; samples are those of every meter."""
    usage = tuple(Usage(name, quantity, samples) for name, quantity in units.items())
    return Stretch("pro", listed, days, usage, days * INTERVALS)


def invoice(listed: PriceList, *, samples: tuple[int, ...] = (), **units: int) -> Invoice:
    """Rate a whole November."""
    (found,) = rate([stretch(listed, samples=samples, **units)], NOVEMBER, balances(listed))
    return found


def balances(listed: PriceList) -> list[Balance]:
    """Give the credits of a price list, untouched."""
    return [Balance(each, each.amount, listed.currency) for each in listed.credits]


def credit(
    amount: str, since: date = NOVEMBER.start, until: date | None = None, name: str = "credit"
) -> Credit:
    return Credit(name, Decimal(amount), since, until)


def amounts(found: Invoice) -> list[str]:
    """Give the amounts of the lines that cost something."""
    return [str(line.amount) for line in found.lines if line.amount]
