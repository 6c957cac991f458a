"""One request and its response while they pass: what has been counted so far, and what the app may ask."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

from meter_mw.model import LARGEST_COST, Count, MeterError, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.core import Admission
    from meter_mw.model import SubjectId
    from meter_mw.policy.policy import Policy

_CLIENT_GONE = 499
"""The status on record for a request whose client left before a response began (nginx's number)."""

_BODILESS = frozenset({204, 304})

MARK = "meter_mw.exchange"
"""Where a scope or an environ carries its exchange, so that a meter inside another one counts nothing."""


class UsageError(MeterError, ValueError):
    """The app asked or reported something that the policy does not know."""


class Exchange:
    """What is known of one request on its way; `current()` gives it to the app.

    Counting is done by the edge, from one thread at a time; `add` may be called from any.
    """

    __slots__ = (
        "_declared",
        "_late",
        "_lock",
        "_policy",
        "_reported",
        "admission",
        "bodiless",
        "ended",
        "method",
        "request_bytes",
        "response_bytes",
        "started_us",
        "status",
    )

    def __init__(
        self,
        policy: Policy,
        admission: Admission,
        method: str,
        started_us: int,
        late: Callable[[Exchange, str, int], None],
    ) -> None:
        self._policy = policy
        self.admission = admission
        self.method = method
        self.started_us = started_us
        self._late = late
        self._lock = threading.Lock()
        self._reported: dict[str, int] = {}
        self._declared: int | None = None
        self.request_bytes = 0
        self.response_bytes = 0
        self.status = 0
        self.bodiless = False
        self.ended = False

    @property
    def subject(self) -> SubjectId | None:
        """Who is metered; `None` on an exempt route."""
        caller = self.admission.caller
        return None if caller is None else caller.subject

    @property
    def plan(self) -> str | None:
        """The name of the plan that applies; `None` on an exempt route."""
        caller = self.admission.caller
        return None if caller is None else caller.plan.name

    def remaining(self, meter: str = "requests") -> int | None:
        """Give the units of `meter` that still fit at once, by the tightest of its limits.

        As of the admission of this request, itself included; `None` where nothing limits the meter,
        or the store did not answer.
        """
        self._known(meter)
        left = [each.remaining for each in self.admission.standings if each.line.limit.meter.name == meter]
        return min(left, default=None)

    def add(self, meter: str, units: int) -> None:
        """Report `units` of a meter that counts what only the app knows.

        Units reported after the response has ended become a usage event of their own that names this
        request; on an exempt route nothing is counted. Raises UsageError for a meter that the policy does
        not have, or that counts by itself, and for units that are not a whole number from 0 to 2^52.
        """
        if self._known(meter) is not Count.REPORTED:
            raise UsageError(
                f"meter {meter!r} counts by itself; only a meter with `count: reported` is added to"
            )
        if type(units) is not int or not 0 <= units <= LARGEST_COST:
            raise UsageError(f"units are a whole number from 0 to 2^52, got {units!r} for {meter!r}")
        if self.admission.caller is None:
            return
        with self._lock:
            if not self.ended:
                total = self._reported.get(meter, 0) + units
                if total > LARGEST_COST:
                    raise UsageError(f"meter {meter!r} would pass 2^52 units in one request")
                self._reported[meter] = total
                return
        self._late(self, meter, units)

    def _known(self, name: str) -> Count:
        for meter in self._policy.meters:
            if meter.name == name:
                return meter.count
        names = ", ".join(meter.name for meter in self._policy.meters)
        raise UsageError(f"the policy has no meter {name!r}; it has {names}")

    def begin(self, status: int, length: str | None) -> None:
        """Note the status of the response, and the Content-Length that it declares.

        A response to HEAD, and one of 1xx, 204 or 304, has no content whatever is declared or sent
        (RFC 9110, sections 6.4.1 and 9.3.2).
        """
        self.status = status
        self._declared = int(length) if length is not None and length.isdecimal() else None
        self.bodiless = self.method == "HEAD" or status in _BODILESS or status < 200

    def passes(self, size: int) -> None:
        """Count `size` bytes of response body; servers send none beyond the declared length."""
        if self.bodiless:
            return
        self.response_bytes += size
        if self._declared is not None and self.response_bytes > self._declared:
            self.response_bytes = self._declared

    def completes(self, size: int = 0) -> bool:
        """Whether the client will have the whole response with `size` more bytes than counted so far."""
        return self.bodiless or (self._declared is not None and self.response_bytes + size >= self._declared)

    def end(self, ended_us: int) -> Receipt | None:
        """Close the count and give it, the first time; `None` after that."""
        with self._lock:
            if self.ended:
                return None
            self.ended = True
        return Receipt(
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            reported=dict(self._reported),
            status=self.status or _CLIENT_GONE,
            duration_us=max(0, ended_us - self.started_us),
        )


_CURRENT: ContextVar[Exchange | None] = ContextVar("meter_mw_exchange", default=None)


def current() -> Exchange:
    """Give the exchange that this handler serves.

    Works in handlers, dependencies, tasks and the thread pools of the frameworks. A bare thread has no
    context of its own: take `current()` before you start it, and hand it over. Raises UsageError outside
    of a metered request.
    """
    exchange = _CURRENT.get()
    if exchange is None:
        raise UsageError(
            "there is no metered request here: is MeterMiddleware installed, and does a request run this? "
            "A bare thread must be handed the exchange."
        )
    return exchange


def enter(exchange: Exchange | None) -> Exchange | None:
    """Make `exchange` the one that `current()` gives in this context; return the one that it was."""
    outer = _CURRENT.get()
    if outer is not exchange:
        _CURRENT.set(exchange)
    return outer
