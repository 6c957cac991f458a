"""Invoices: the usage of a period under the prices of its plans, line by line, and what is paid from credits.

Rule 1: an invoice has one currency. Plans with prices in others give an invoice each; nothing is converted.
Rule 2: every line is rounded by itself, and the total is the sum of the lines: it adds up by hand.
Rule 3: the minimum and the cap bound what is due for a plan's days, base and usage together; credits pay
        what is then due, never more.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from meter_mw.rating.amounts import rounded, total, written
from meter_mw.rating.lines import Kind, Line
from meter_mw.rating.tariffs import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date
    from decimal import Decimal

    from meter_mw.policy.currencies import Currency
    from meter_mw.policy.prices import Credit
    from meter_mw.rating.usage import BillingPeriod, Stretch


@dataclass(frozen=True, slots=True)
class Balance:
    """What is left of a credit before an invoice is paid."""

    credit: Credit
    left: Decimal
    currency: Currency

    def pays(self, period: BillingPeriod) -> bool:
        """Say whether it is good in a period: they have a day in common."""
        until = self.credit.until
        return self.credit.since < period.end and (until is None or period.start < until)


@dataclass(frozen=True, slots=True)
class Invoice:
    """What is due for a period in one currency; the amounts are sums of the lines of their kind."""

    currency: Currency
    period: BillingPeriod
    lines: tuple[Line, ...]

    @property
    def subtotal(self) -> Decimal:
        """What the base and the usage come to."""
        return self._sum(Kind.BASE, Kind.USAGE)

    @property
    def minimum(self) -> Decimal:
        """What lacked to the minimum commitment."""
        return self._sum(Kind.MINIMUM)

    @property
    def spend_cap(self) -> Decimal:
        """What was taken off beyond the cap: 0 or less."""
        return self._sum(Kind.SPEND_CAP)

    @property
    def due(self) -> Decimal:
        """What is due before credits pay for it."""
        return self._sum(Kind.BASE, Kind.USAGE, Kind.MINIMUM, Kind.SPEND_CAP)

    @property
    def credits(self) -> Decimal:
        """What credits paid: 0 or less."""
        return self._sum(Kind.CREDIT)

    @property
    def total(self) -> Decimal:
        """What is left to pay."""
        return self._sum(*Kind)

    @property
    def drawn(self) -> dict[str, Decimal]:
        """What was paid from each credit, by its name."""
        paid = (each for each in self.lines if each.kind is Kind.CREDIT)
        return {each.description: each.amount.copy_negate() for each in paid}

    def _sum(self, *kinds: Kind) -> Decimal:
        return total((each.amount for each in self.lines if each.kind in kinds), self.currency.decimals)


def rate(
    stretches: Iterable[Stretch], period: BillingPeriod, balances: Sequence[Balance] = ()
) -> tuple[Invoice, ...]:
    """Rate the stretches of a period: an invoice for each currency, in the order of the stretches.

    Balances of a currency pay its invoice, those that are over first before the others.
    """
    found: dict[Currency, list[Line]] = {}
    for stretch in stretches:
        found.setdefault(stretch.prices.currency, []).extend(_stretch(stretch, period))
    return tuple(
        Invoice(currency, period, (*lines, *_paid(currency, lines, period, balances)))
        for currency, lines in found.items()
    )


def _stretch(stretch: Stretch, period: BillingPeriod) -> list[Line]:
    """Give what is due for the days of one price list."""
    prices, share = stretch.prices, stretch.share(period)
    lines = [_prorated(stretch, period, Kind.BASE, "base fee", prices.base)] if prices.base else []
    for tariff in prices.tariffs:
        lines += lines_of(tariff, stretch, share)
    decimals = prices.currency.decimals
    due = total((each.amount for each in lines), decimals)
    if prices.minimum:
        least = _prorated(stretch, period, Kind.MINIMUM, "minimum commitment", prices.minimum)
        if due < least.amount:
            return [*lines, _made_up(least, due, decimals)]
    if prices.spend_cap is not None:
        most = _prorated(stretch, period, Kind.SPEND_CAP, "spend cap", prices.spend_cap)
        if due > most.amount:
            return [*lines, _made_up(most, due, decimals)]
    return lines


def _prorated(stretch: Stretch, period: BillingPeriod, kind: Kind, description: str, amount: Decimal) -> Line:
    """Give an amount of a whole period as what it is for the days of a stretch."""
    prices, share = stretch.prices, stretch.share(period)
    exact = Fraction(amount) * share
    due = rounded(exact, prices.currency.decimals, prices.rounding)
    arithmetic = f"{rounded(Fraction(amount), prices.currency.decimals):,f}"
    if share != 1:
        said = "" if Fraction(due) == exact else f"{written(exact)}, rounded "
        arithmetic += f" × {stretch.days} of {period.days} days = {said}{due:,f}"
    return Line(kind, description, due, f"{arithmetic} {prices.currency.code}", stretch.plan, prices.source)


def _made_up(bound: Line, due: Decimal, decimals: int) -> Line:
    """Give the line that brings what is due to a bound."""
    amount = total((bound.amount, due.copy_negate()), decimals)
    arithmetic = f"{bound.arithmetic} − {due:,f} = {amount:,f}"
    return Line(bound.kind, bound.description, amount, arithmetic, bound.plan, bound.source)


def _paid(
    currency: Currency, lines: Iterable[Line], period: BillingPeriod, balances: Sequence[Balance]
) -> Iterable[Line]:
    """Pay what is due from credits, those that are over first before the others."""
    due = total((each.amount for each in lines), currency.decimals)
    good = (each for each in balances if each.currency == currency and each.pays(period))
    for balance in sorted(good, key=_end):
        paid = total((min(due, balance.left),), currency.decimals)
        if paid <= 0:
            continue
        due = total((due, paid.copy_negate()), currency.decimals)
        left = total((balance.left, paid.copy_negate()), currency.decimals)
        before = total((balance.left,), currency.decimals)
        arithmetic = f"{paid:,f} of {before:,f} {currency.code}; {left:,f} left"
        if balance.credit.until is not None:
            arithmetic += f" until {balance.credit.until}"
        yield Line(Kind.CREDIT, balance.credit.name, paid.copy_negate(), arithmetic, "", "")


def _end(balance: Balance) -> tuple[bool, date]:
    until = balance.credit.until
    return (until is None, until or balance.credit.since)
