"""Amounts of money, and per cents, as a policy writes them: exact decimals, read from their text."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

from meter_mw.policy.yaml12 import Scalar

if TYPE_CHECKING:
    from meter_mw.policy.reading import Field

FINEST = 12
"""Decimals that a price may have, as many as Stripe's `unit_amount_decimal`."""

_LARGEST = Decimal(10) ** 12
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?")
_COMMA = re.compile(r"[0-9]+,[0-9]{1,2}")


def read_decimal(field: Field, expected: str, *, decimals: int = FINEST, of: str = "") -> Decimal | None:
    """Read an amount of 0 or more with at most so many decimals; `of` says whose decimals they are.

    A number in YAML is taken as it is written, and never as the float that it would be.
    """
    text = _text(field, expected)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        field.reject(expected, because=_why(text), meant=_meant(text))
        return None
    amount = Decimal(text)
    if amount > _LARGEST:
        field.reject(expected, because="which is more than 10^12")
        return None
    if amount != 0 and _decimals(amount) > decimals:
        most = f"the {decimals} decimals of {of}" if of else f"{decimals} decimals"
        field.reject(expected, because=f"which has more than {most}")
        return None
    return amount


def _text(field: Field, expected: str) -> str | None:
    """Give a number as it is written, in quotes or without."""
    node = field.node
    is_number = isinstance(node, Scalar) and isinstance(node.value, int | float)
    if isinstance(node, Scalar) and is_number and not isinstance(node.value, bool):
        return node.text
    return field.text(expected)


def _decimals(amount: Decimal) -> int:
    exponent = amount.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _why(text: str) -> str:
    if text.startswith("-"):
        return "which is less than nothing"
    return "which has a comma; decimals stand after a point" if _COMMA.fullmatch(text) else ""


def _meant(text: str) -> str | None:
    return text.replace(",", ".") if _COMMA.fullmatch(text) else None
