"""The lists `warn` of a price and its charges: amounts and units that are announced when they are reached."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

from meter_mw.policy.sections.amounts import read_part
from meter_mw.policy.sections.money import read_decimal
from meter_mw.policy.units import NotationError, share
from meter_mw.policy.yaml12 import Scalar

if TYPE_CHECKING:
    from meter_mw.model import Meter
    from meter_mw.policy.currencies import Currency
    from meter_mw.policy.reading import Field

_EXPECTED = "an amount, or a share of the spend cap, such as 100 or 80%"


def read_spend_thresholds(
    field: Field, spend_cap: Decimal | None, currency: Currency | None
) -> tuple[Decimal, ...]:
    """Read amounts, or shares of the spend cap, each rounded up to the smallest amount of the currency."""
    found = set()
    for item in field.items("a list of amounts: [100, 80%]") or ():
        amount = _of_cap(item, spend_cap, currency) if _is_share(item) else _amount(item, currency)
        if amount is not None and amount == 0:
            item.reject("more than 0")
        elif amount is not None:
            found.add(amount)
    return tuple(sorted(found))


def read_unit_thresholds(field: Field, included: int, meter: Meter) -> tuple[int, ...]:
    """Read units, or shares of the included ones, each rounded up to a whole unit."""
    found = set()
    for item in field.items("a list of units: [800000, 80%]") or ():
        if _is_share(item) and not included:
            item.complain("found a share, and the charge has no included units that it could be of")
            continue
        part = read_part(item, meter, included, "units, or a share of the included ones", example="80%")
        if part is not None:
            found.add(max(1, ceil(part)))
    return tuple(sorted(found))


def _is_share(field: Field) -> bool:
    return isinstance(field.node, Scalar) and field.node.text.rstrip().endswith("%")


def _amount(field: Field, currency: Currency | None) -> Decimal | None:
    if currency is None:
        return None
    return read_decimal(field, _EXPECTED, decimals=currency.decimals, of=currency.code)


def _of_cap(field: Field, spend_cap: Decimal | None, currency: Currency | None) -> Decimal | None:
    if spend_cap is None or currency is None:
        field.complain("found a share, and the price has no spend_cap that it could be of")
        return None
    text = field.text(_EXPECTED)
    try:
        part = share(text or "") * Fraction(spend_cap)
    except NotationError as error:
        field.reject(_EXPECTED, because=str(error))
        return None
    return Decimal(f"{ceil(part * 10**currency.decimals)}E-{currency.decimals}")
