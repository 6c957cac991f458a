"""What Stripe is told of an event: a meter event for each quantity, or the cancelling of one. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST_S = 35 * 86_400 - 300
"""Stripe takes timestamps of the last 35 calendar days; five minutes less, as its clock is not ours."""

FARTHEST_S = 300
"""Stripe takes timestamps up to five minutes ahead."""

LONGEST_IDENTIFIER = 100

_CUSTOMER = re.compile(r"cus_[A-Za-z0-9]+")
_THRESHOLD = "meter_mw.threshold.v1"
_ADJUSTMENT = "meter_mw.adjustment.v1"


class Refused(Exception):
    """An event that Stripe could not bill; says why."""


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


class _Event(msgspec.Struct):
    id: str
    type: str
    time: datetime | None = None
    subject: str = ""
    data: dict[str, object] = {}


_decoder = msgspec.json.Decoder(_Event)


class Ledger:
    """Writes orders: `meters` gives the event name of each quantity, `customers` the id of a subject."""

    def __init__(self, meters: Mapping[str, str], customers: Mapping[str, str]) -> None:
        self._meters = meters
        self._customers = customers

    def orders(self, payload: bytes, now: float) -> list[Order]:
        """Give what Stripe is to be told, nothing where there is nothing to bill.

        Depends on `now` (seconds since 1970) only in what is refused, so a retry tells the same.
        Raises `Refused`.
        """
        try:
            event = _decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Refused(f"no usage event: {error!s:.200}") from None
        quantities = {} if event.type == _THRESHOLD else self._quantities(event)
        if not quantities:
            return []
        customer = self.customer(event.subject)
        if customer is None:
            raise Refused(f"no customer for subject {event.subject!r:.100}")
        time = _time(event, now)
        values = [
            MeterEvent(name := self._meters[field], identifier(name, event.id), customer, quantity, time)
            for field, quantity in quantities.items()
        ]
        original = _taken_back(event)
        if original is None:
            return list(values)
        return [Cancel(identifier(each.event_name, original), each) for each in values]

    def customer(self, subject: str) -> str | None:
        """Give the customer of a subject; a subject that is a customer's id stands for itself."""
        return self._customers.get(subject) or (subject if _CUSTOMER.fullmatch(subject) else None)

    def _quantities(self, event: _Event) -> dict[str, int]:
        found = {}
        for field in self._meters:
            quantity = event.data.get(field, 0)
            if not isinstance(quantity, int) or isinstance(quantity, bool):
                raise Refused(f"data.{field} is {quantity!r:.50}; Stripe takes whole numbers")
            if quantity:
                found[field] = quantity
        return found


def identifier(event_name: str, event_id: str) -> str:
    """Give `<event_name>:<id>`, what is too long of it as a digest; Stripe takes 100 characters."""
    whole = f"{event_name}:{event_id}"
    if len(whole) <= LONGEST_IDENTIFIER:
        return whole
    shorter = f"{sha256(event_name.encode()).hexdigest()[:16]}:{event_id}"
    return shorter if len(shorter) <= LONGEST_IDENTIFIER else sha256(whole.encode()).hexdigest()


def _time(event: _Event, now: float) -> datetime:
    if event.time is None or event.time.tzinfo is None:
        raise Refused("the event has no time with a time zone")
    age = now - event.time.timestamp()
    when = event.time.astimezone(UTC).isoformat()
    if age > OLDEST_S:
        raise Refused(f"of {when}: Stripe takes no usage that is older than 35 days")
    if age < -FARTHEST_S:
        raise Refused(f"of {when}: Stripe takes no usage of more than 5 minutes ahead")
    return event.time.astimezone(UTC)


def _taken_back(event: _Event) -> str | None:
    """Give the id of the original where the event takes back all of it."""
    original = event.data.get("amends")
    is_void = event.type == _ADJUSTMENT and event.id == f"void-{original}"
    return original if is_void and isinstance(original, str) else None
