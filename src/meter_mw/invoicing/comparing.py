"""The same usage under two sets of prices: who would pay more, and who less.

Rule 1: what is compared is due before credits: they are paid already, whatever the prices.
Rule 2: amounts of two currencies are not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meter_mw.invoicing.bills import Billing
    from meter_mw.invoicing.customers import Customer
    from meter_mw.ledger.spans import Span
    from meter_mw.periods import Period

_PERCENT = Decimal("0.1")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a subject owes for a period in one currency, now and then; None where it has no such invoice.

    `notes` tell what the other prices would not bill.
    """

    subject: str
    currency: str
    now: Decimal | None
    then: Decimal | None
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> Decimal | None:
        """How much more it would be; less is below zero."""
        return None if self.now is None or self.then is None else self.then - self.now

    @property
    def percent(self) -> Decimal | None:
        """The difference in per cent of what it is now, with one decimal."""
        if self.difference is None or not self.now:
            return None
        return (self.difference / self.now * 100).quantize(_PERCENT)


@dataclass(frozen=True, slots=True)
class Sum:
    """What all subjects owe in one currency, now and then, and how many would pay more or less."""

    currency: str
    now: Decimal
    then: Decimal
    more: int
    less: int
    same: int


def compare(
    now: Billing, then: Billing, customer: Customer, kind: Period, span: Span
) -> Iterator[Comparison]:
    """Bill the usage of a customer in a period under both prices; raises the errors of the source."""
    before = now.bill_of(customer, kind, span, now.days(customer, span), {})
    after = then.bill_of(customer, kind, span, then.days(customer, span), {})
    old = {each.currency.code: each.due for each in before.invoices}
    new = {each.currency.code: each.due for each in after.invoices}
    notes = tuple(note for note in after.notes if note not in before.notes)
    for code in dict.fromkeys((*old, *new)):
        yield Comparison(customer.subject, code, old.get(code), new.get(code), notes)


def sums(found: Iterable[Comparison]) -> list[Sum]:
    """Add up comparisons by currency."""
    by_code: dict[str, list[Comparison]] = {}
    for each in found:
        by_code.setdefault(each.currency, []).append(each)
    return [_sum(code, rows) for code, rows in sorted(by_code.items())]


def _sum(code: str, rows: list[Comparison]) -> Sum:
    changes = [(each.then or Decimal()) - (each.now or Decimal()) for each in rows]
    return Sum(
        code,
        sum((each.now or Decimal() for each in rows), Decimal()),
        sum((each.then or Decimal() for each in rows), Decimal()),
        sum(each > 0 for each in changes),
        sum(each < 0 for each in changes),
        sum(each == 0 for each in changes),
    )
