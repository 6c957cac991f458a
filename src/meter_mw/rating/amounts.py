"""Exact amounts: rounded once, to the smallest amount of a currency, and written out. Pure.

Rule 1: what is worked out is a Fraction, as a third of a month's base has no Decimal; what is billed is a
        Decimal, rounded where a line ends and nowhere before.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from meter_mw.policy.prices import Rounding

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_DECIMALS = 12
"""Decimals that an exact amount is written out with; what goes on after them is marked."""


def rounded(amount: Fraction, decimals: int, rounding: Rounding = Rounding.HALF_UP) -> Decimal:
    """Round to so many decimals, to the nearest; `rounding` decides exactly half."""
    scaled = amount * 10**decimals
    if rounding is Rounding.HALF_EVEN:
        whole = round(scaled)  # a Fraction rounds half to even (numbers.Rational)
    else:
        whole = int(abs(scaled) + Fraction(1, 2)) * (-1 if scaled < 0 else 1)
    return Decimal(f"{whole}E-{decimals}")


def total(amounts: Iterable[Decimal], decimals: int) -> Decimal:
    """Add up amounts of one currency, exactly: a context's 28 digits are no bound here."""
    return rounded(sum(map(Fraction, amounts), Fraction()), decimals)


def money(amount: Decimal, code: str) -> str:
    """Write an amount with its currency: `1,234.50 USD`."""
    return f"{amount:,f} {code}"


def written(amount: Fraction | Decimal) -> str:
    """Write an exact amount, without zeros at its end: `0.00002`, `1,234.5`, `3.333333333333…`."""
    fraction = Fraction(amount)
    cut = rounded(fraction, _MOST_DECIMALS)
    text = f"{cut:,f}".rstrip("0").removesuffix(".")
    return text if Fraction(cut) == fraction else f"{text}…"
