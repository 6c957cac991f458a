"""Stripe's stream of meter events: a hundred a request, checked after it has answered.

The stream knows a session by its token, which lives for 15 minutes and is renewed before it ends.
"""

from __future__ import annotations

import json
from datetime import datetime  # noqa: TC003 - msgspec reads the annotation
from typing import TYPE_CHECKING

import msgspec

from meter_mw.sinks.answers import Answer
from meter_mw.sinks.base import Retry, Unknown
from meter_mw.sinks.stripe.answers import SESSION_EXPIRED, fault_of, reason_of
from meter_mw.sinks.stripe.calls import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.sinks.poster import Poster
    from meter_mw.sinks.stripe.lines import MeterEvent

MOST = 100
"""The most meter events of one request."""

_SESSION = "/v2/billing/meter_event_session"
_STREAM = "/v2/billing/meter_event_stream"
_RENEWED_BEFORE_S = 60.0


class _Session(msgspec.Struct):
    authentication_token: str
    created: datetime
    expires_at: datetime


class Stream:
    """Sends meter events under a session. `clock` gives seconds and never goes back."""

    def __init__(
        self,
        api: Poster,
        events: Poster,
        secret: str,
        keys: tuple[str, str],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._events = events
        self._secret = secret
        self._keys = keys
        self._clock = clock
        self._token = ""
        self._until = clock()

    def tell(self, orders: Sequence[MeterEvent]) -> Answer | Retry | Unknown:
        """Send up to a hundred meter events as one request, and give the answer.

        A session that ended before its time is renewed, once.
        """
        body = json.dumps({"events": [self._form(each) for each in orders]}, ensure_ascii=False).encode()
        answer = self._attempt(body)
        if isinstance(answer, Answer) and answer.status == 401:
            fault = fault_of(answer)
            self._token = ""
            if fault is not None and fault.code == SESSION_EXPIRED:
                answer = self._attempt(body)
        return answer

    def _attempt(self, body: bytes) -> Answer | Retry | Unknown:
        failure = self._renew() if not self._token or self._clock() >= self._until else None
        return failure or self._events.post(body, _fields(self._token), target=_below(self._events, _STREAM))

    def _renew(self) -> Retry | None:
        """Open a session; where that fails nothing is sent."""
        began = self._clock()
        answer = self._api.post(b"{}", _fields(self._secret), target=_below(self._api, _SESSION))
        if not isinstance(answer, Answer):
            return Retry(reason=answer.reason)
        if not answer.accepts:
            return Retry(answer.retry_after, f"no session: {reason_of(answer)}")
        try:
            session = msgspec.json.decode(answer.body, type=_Session)
        except msgspec.MsgspecError as error:
            return Retry(reason=f"{self._api.origin}: no session: {error!s:.200}")
        # Both moments are Stripe's, so how long it lasts does not depend on whose clock is right.
        lasts = (session.expires_at - session.created).total_seconds()
        self._token, self._until = session.authentication_token, began + lasts - _RENEWED_BEFORE_S
        return None

    def _form(self, order: MeterEvent) -> dict[str, object]:
        customer, value = self._keys
        return {
            "event_name": order.event_name,
            "identifier": order.identifier,
            "timestamp": order.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "payload": {customer: order.customer, value: str(order.value)},
        }


def _below(poster: Poster, path: str) -> str:
    return poster.target.rstrip("/") + path


def _fields(token: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Stripe-Version": VERSION,
    }
