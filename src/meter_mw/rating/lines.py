"""A line of an invoice: what is due for what, with the arithmetic that a reader can repeat."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal


class Kind(Enum):
    """What a line is for."""

    BASE = "base"
    USAGE = "usage"
    MINIMUM = "minimum"
    """What lacks to the minimum commitment."""
    SPEND_CAP = "spend_cap"
    """What is taken off beyond the cap."""
    CREDIT = "credit"
    """What is paid from a credit."""


@dataclass(frozen=True, slots=True)
class Line:
    """An amount, rounded to the smallest of its currency, and how it came about.

    A line of usage has its meter, the units that it is about, the tier that they lie in, if any, and the
    price of one unit, package or per cent. `source` is the price's place in the policy.
    """

    kind: Kind
    description: str
    amount: Decimal
    arithmetic: str
    plan: str
    source: str
    meter: str | None = None
    quantity: Decimal | None = None
    tier: str = ""
    unit: Decimal | None = None
