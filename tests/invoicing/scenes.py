"""A shop with prices, a customer, and usage that a test makes up."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from meter_mw.invoicing.bills import Billing
from meter_mw.invoicing.customers import Customer
from meter_mw.invoicing.source import DayUse
from meter_mw.ledger.reports import SAMPLE_US, Sample
from meter_mw.policy.loader import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.invoicing.bills import Bill
    from meter_mw.ledger.spans import Span
    from meter_mw.policy.policy import Policy

SECRET = {"METER_KEY_SECRET": "a-secret-of-the-shop"}
PRO = {
    "currency": "USD",
    "base": "30.00",
    "charges": [{"meter": "requests", "included": 100, "unit": "0.10"}],
}
TEAM = {"currency": "USD", "base": "60.00", "charges": [{"meter": "requests", "unit": "0.05"}]}
ACME = Customer("acme", "pro", "UTC")


def us(day: date, hour: float = 12) -> int:
    """Give a moment in UTC."""
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hour)
    return int(moment.timestamp()) * 1_000_000


def shop(**plans: object) -> Policy:
    """Give the policy of a shop whose plans have these prices."""
    priced = {name: {"price": price} if price else {} for name, price in plans.items()}
    return load({"version": 1, "service": "shop", "plans": priced}, SECRET)


@dataclass
class Facts:
    """Usage by the moment it was used at: a source of usage without a ledger."""

    used: list[tuple[int, str, str, int]] = field(default_factory=list)
    asked: int = 0

    def use(
        self, day: date, units: int, plan: str = "pro", field: str = "requests", hour: float = 12
    ) -> None:
        self.used.append((us(day, hour), plan, field, units))

    def by_day(self, subject: str, span: Span, zone: str) -> Sequence[DayUse]:
        self.asked += 1
        found: dict[tuple[int, str, str], int] = defaultdict(int)
        for at_us, plan, name, units in self.used:
            if subject == "acme" and span.start_us <= at_us < span.end_us:
                found[at_us - at_us % 86_400_000_000, plan, name] += units
        return [DayUse(*key, units) for key, units in found.items()]

    def samples(self, subject: str, field: str, span: Span) -> Sequence[Sample]:
        return [
            Sample(at_us - at_us % SAMPLE_US, units)
            for at_us, _, name, units in self.used
            if name == field and span.start_us <= at_us < span.end_us
        ]

    def subjects(self, span: Span) -> Sequence[str]:
        return ["acme"] if self.used else []


def billing(policy: Policy, facts: Facts, now: date = date(2027, 1, 15), hour: float = 12) -> Billing:
    """Give what bills from these facts at a moment."""
    return Billing(policy, facts, us(now, hour))


def bill(policy: Policy, facts: Facts, name: str = "2026-11", customer: Customer = ACME) -> Bill:
    """Bill a period by its name."""
    return billing(policy, facts).bill(customer, *customer.named(name))


def shown(found: Bill) -> list[tuple[str, str, str]]:
    """Give plan, description and amount of every line that costs something."""
    lines = (line for invoice in found.invoices for line in invoice.lines)
    return [(line.plan, line.description, str(line.amount)) for line in lines if line.amount]
