"""Stripe's first API: a form a call, checked while one waits, and the totals that Stripe has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from urllib.parse import urlencode
from uuid import uuid4

import msgspec

from meter_mw.sinks.answers import Answer
from meter_mw.sinks.base import Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.stripe.answers import outcome_of, reason_of
from meter_mw.sinks.stripe.lines import MeterEvent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meter_mw.sinks.poster import Poster
    from meter_mw.sinks.stripe.lines import Order

VERSION = "2026-06-24.dahlia"
"""The version of the API that this sink speaks."""

_EVENTS = "/v1/billing/meter_events"
_ADJUSTMENTS = "/v1/billing/meter_event_adjustments"
_METERS = "/v1/billing/meters"
_PAGE = 100


class _Meter(msgspec.Struct):
    id: str
    event_name: str


class _Summary(msgspec.Struct):
    id: str
    aggregated_value: float | int


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool = False


class Calls:
    """Calls with the secret key. `keys` are the names of customer and value in a meter event's payload."""

    def __init__(self, poster: Poster, secret: str, keys: tuple[str, str]) -> None:
        self._poster = poster
        self._base = poster.target.rstrip("/")
        self._fields = {"Authorization": f"Bearer {secret}", "Stripe-Version": VERSION}
        self._keys = keys
        self._meters: dict[str, str] = {}

    def tell(self, order: Order) -> Outcome:
        """Make one call, or two, and say what became of it."""
        if isinstance(order, MeterEvent):
            # A key of its own for each attempt: Stripe repeats the answer that it gave to a key, failures
            # among them, for a day. What is not to be counted twice it knows by the identifier.
            return outcome_of(self._post(_EVENTS, self._form(order), str(uuid4())))
        # One key for all attempts: nothing but Stripe's memory tells whether an attempt that had no
        # answer has cancelled, and whether it is to be said by the value.
        form = {"event_name": order.event_name, "type": "cancel", "cancel[identifier]": order.identifier}
        outcome = outcome_of(self._post(_ADJUSTMENTS, form, f"cancel:{order.identifier}"))
        return self.tell(order.otherwise) if isinstance(outcome, Permanent) else outcome

    def total(self, event_name: str, customer: str, start: int, end: int) -> int | None:
        """Give what Stripe has of a customer in [start, end), Unix seconds of whole minutes.

        None where no active meter takes the event name. Raises `ConnectionError`.
        """
        meter = self._meter(event_name)
        if meter is None:
            return None
        query = {"customer": customer, "start_time": str(start), "end_time": str(end)}
        pages = self._pages(f"{_METERS}/{meter}/event_summaries", query)
        values = [msgspec.json.decode(each, type=_Summary).aggregated_value for each in pages]
        return sum(each if isinstance(each, int) else round(each) for each in values if math.isfinite(each))

    def _post(self, target: str, form: Mapping[str, str], key: str) -> Answer | Retry | Unknown:
        fields = {
            **self._fields,
            "Content-Type": "application/x-www-form-urlencoded",
            "Idempotency-Key": key,
        }
        return self._poster.post(urlencode(form).encode(), fields, target=self._base + target)

    def _form(self, order: MeterEvent) -> dict[str, str]:
        customer, value = self._keys
        return {
            "event_name": order.event_name,
            "identifier": order.identifier,
            "timestamp": str(math.floor(order.time.timestamp())),
            f"payload[{customer}]": order.customer,
            f"payload[{value}]": str(order.value),
        }

    def _meter(self, event_name: str) -> str | None:
        if event_name not in self._meters:
            meters = (
                msgspec.json.decode(each, type=_Meter) for each in self._pages(_METERS, {"status": "active"})
            )
            self._meters = {each.event_name: each.id for each in meters}
        return self._meters.get(event_name)

    def _pages(self, target: str, query: Mapping[str, str]) -> Iterator[msgspec.Raw]:
        after: dict[str, str] = {}
        while True:
            page = self._page(f"{target}?{urlencode({**query, 'limit': str(_PAGE), **after})}")
            yield from page.data
            if not page.has_more or not page.data:
                return
            after = {"starting_after": msgspec.json.decode(page.data[-1], type=dict)["id"]}

    def _page(self, target: str) -> _Page:
        answer = self._poster.request("GET", self._base + target, None, self._fields)
        if not isinstance(answer, Answer):
            raise ConnectionError(answer.reason)
        if not answer.accepts:
            raise ConnectionError(f"{self._poster.origin}: {reason_of(answer)}")
        try:
            return msgspec.json.decode(answer.body, type=_Page)
        except msgspec.MsgspecError as error:
            raise ConnectionError(f"{self._poster.origin}: no list: {error!s:.200}") from None
