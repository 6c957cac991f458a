"""What Stripe is told of an event: a meter event for each quantity, or the cancelling of one. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.model import ADJUSTMENT_EVENT
from meter_mw.sinks.translating import Refused, read_usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.sinks.translating import Usage

OLDEST_S = 35 * 86_400 - 300
"""Stripe takes timestamps of the last 35 calendar days; five minutes less, as its clock is not ours."""

FARTHEST_S = 300
"""Stripe takes timestamps up to five minutes ahead."""

LONGEST_IDENTIFIER = 100

_CUSTOMER = re.compile(r"cus_[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """A meter event. `value` may be negative in a correction."""

    event_name: str
    identifier: str
    customer: str
    value: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Cancel:
    """The cancelling of a meter event by its identifier; `otherwise` says the same by its value."""

    identifier: str
    otherwise: MeterEvent

    @property
    def event_name(self) -> str:
        """The name of both meter events."""
        return self.otherwise.event_name


Order: TypeAlias = MeterEvent | Cancel


class Translator:
    """Writes orders: `meters` gives the event name of each quantity, `customers` the id of a subject."""

    def __init__(self, meters: Mapping[str, str], customers: Mapping[str, str]) -> None:
        self._meters = meters
        self._customers = customers

    def orders(self, payload: bytes, now: float) -> list[Order]:
        """Give what Stripe is to be told, nothing where there is nothing to bill.

        Depends on `now` (seconds since 1970) only in what is refused, so a retry tells the same.
        Raises `Refused`.
        """
        usage = read_usage(payload, tuple(self._meters))
        quantities = {field: units for field, units in usage.quantities.items() if units} if usage else {}
        if usage is None or not quantities:
            return []
        customer = self.customer(usage.subject)
        if customer is None:
            raise Refused(f"no customer for subject {usage.subject!r:.100}")
        time = _time(usage, now)
        values = [
            MeterEvent(name := self._meters[field], identifier(name, usage.id), customer, units, time)
            for field, units in quantities.items()
        ]
        original = _taken_back(usage)
        if original is None:
            return list(values)
        return [Cancel(identifier(each.event_name, original), each) for each in values]

    def customer(self, subject: str) -> str | None:
        """Give the customer of a subject; a subject that is a customer's id stands for itself."""
        return self._customers.get(subject) or (subject if _CUSTOMER.fullmatch(subject) else None)


def identifier(event_name: str, event_id: str) -> str:
    """Give `<event_name>:<id>`, what is too long of it as a digest; Stripe takes 100 characters."""
    whole = f"{event_name}:{event_id}"
    if len(whole) <= LONGEST_IDENTIFIER:
        return whole
    shorter = f"{sha256(event_name.encode()).hexdigest()[:16]}:{event_id}"
    return shorter if len(shorter) <= LONGEST_IDENTIFIER else sha256(whole.encode()).hexdigest()


def _time(usage: Usage, now: float) -> datetime:
    time = datetime.fromisoformat(usage.time).astimezone(UTC)
    age = now - time.timestamp()
    if age > OLDEST_S:
        raise Refused(f"of {time.isoformat()}: Stripe takes no usage that is older than 35 days")
    if age < -FARTHEST_S:
        raise Refused(f"of {time.isoformat()}: Stripe takes no usage of more than 5 minutes ahead")
    return time


def _taken_back(usage: Usage) -> str | None:
    """Give the id of the original where the event takes back all of it."""
    original = usage.data.get("amends")
    is_void = usage.type == ADJUSTMENT_EVENT and usage.id == f"void-{original}"
    return original if is_void and isinstance(original, str) else None
