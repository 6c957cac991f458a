"""Which amounts and units that were to be announced are reached in a period. Pure.

Rule 1: a threshold has one id in a period, made of what it is about alone. Whoever announces it again, after
        a restart or from another machine, sends the same id, and it counts once.
Rule 2: the thresholds are those of the price list that holds now. What is compared is the whole period.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from decimal import Decimal

    from meter_mw.policy.prices import PriceList
    from meter_mw.rating.invoices import Invoice
    from meter_mw.rating.usage import BillingPeriod

SPEND = "spend"


class Reached(NamedTuple):
    """A threshold that is reached: of the spend in a currency, or of the units of a meter."""

    id: str
    of: str
    """`spend`, or the name of a meter."""
    threshold: Decimal | int
    found: Decimal | int
    currency: str | None


def reached(
    who: tuple[str, str], prices: PriceList, invoice: Invoice, used: Mapping[str, int]
) -> Iterator[Reached]:
    """Give what is reached of an invoice in the currency of a price list, and of the units used by meter.

    `who` is the source of events and the subject. The spend is what is due before credits.
    """
    code = prices.currency.code
    for amount in prices.warn:
        if invoice.currency == prices.currency and amount <= invoice.due:
            name = _id(who, invoice.period, SPEND, code, f"{amount:f}")
            yield Reached(name, SPEND, amount, invoice.due, code)
    seen = set()
    for tariff in prices.tariffs:
        meter = tariff.meter.name
        for units in tariff.warn:
            if units <= used.get(meter, 0) and (meter, units) not in seen:
                seen.add((meter, units))
                name = _id(who, invoice.period, "units", meter, str(units))
                yield Reached(name, meter, units, used[meter], None)


def _id(who: tuple[str, str], period: BillingPeriod, *what: str) -> str:
    parts = (*who, period.start.isoformat(), period.end.isoformat(), *what)
    return sha256("".join(f"{len(each)}:{each}" for each in parts).encode()).hexdigest()[:32]
