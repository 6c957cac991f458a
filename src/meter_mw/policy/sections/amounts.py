"""Amounts as limits write them: units of a meter, shares of a whole, units per period."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from meter_mw.model import LARGEST_COST, Count
from meter_mw.policy.units import NotationError, amount, cap, rate, share
from meter_mw.policy.yaml12 import Scalar

if TYPE_CHECKING:
    from meter_mw.model import Meter
    from meter_mw.policy.reading import Field
    from meter_mw.policy.units import PerPeriod

_BYTES = frozenset([Count.REQUEST_BYTES, Count.RESPONSE_BYTES])
PASSING = _BYTES | {Count.REQUEST_MESSAGES, Count.RESPONSE_MESSAGES}
"""What passes while an exchange goes on, so that only its end tells how much it was."""


def is_sized(meter: Meter) -> bool:
    """Say whether amounts of a meter are sizes, such as 20 MB."""
    return meter.count in _BYTES


def read_per_period(field: Field, meter: Meter, *, is_rate: bool) -> PerPeriod | None:
    """Read the units per period of a rate or a cap."""
    sized = is_sized(meter)
    if is_rate:
        expected = f"a rate such as {'5 MB' if sized else '10'}/second"
    else:
        expected = f"a cap such as {'1 GiB' if sized else '10000'}/month"
    text = field.text(expected)
    if text is None:
        return None
    try:
        return rate(text, sized=sized) if is_rate else cap(text, sized=sized)
    except NotationError as error:
        field.reject(expected, because=str(error), meant=error.meant)
        return None


def read_units(
    field: Field, meter: Meter, what: str, *, example: tuple[str, str], least: int = 1
) -> int | None:
    """Read an amount of a meter; `example` has one of bytes and one of anything else."""
    sized = is_sized(meter)
    expected = f"{what}, such as {example[0] if sized else example[1]}"
    if not sized or not _is_text(field):
        return field.integer(expected, least=least, most=LARGEST_COST)
    text = field.text(expected)
    if text is None:
        return None
    try:
        units = amount(text, sized=True)
    except NotationError as error:
        field.reject(expected, because=str(error), meant=error.meant)
        return None
    if units < least:
        field.reject(expected, because="which allows nothing")
        return None
    return units


def read_part(field: Field, meter: Meter, whole: int, what: str, *, example: str) -> Fraction | None:
    """Read an amount of a meter, or a share of a whole; a share may be no whole number of units."""
    sized = is_sized(meter)
    expected = f"{what}, such as {example} or {'500 MB' if sized else '500'}"
    if not _is_text(field):
        units = field.integer(expected, least=1, most=LARGEST_COST)
        return None if units is None else Fraction(units)
    text = field.text(expected)
    if text is None:
        return None
    try:
        part = share(text) * whole if text.rstrip().endswith("%") else Fraction(amount(text, sized=sized))
    except NotationError as error:
        field.reject(expected, because=str(error), meant=error.meant)
        return None
    return part


def _is_text(field: Field) -> bool:
    return isinstance(field.node, Scalar) and isinstance(field.node.value, str)
