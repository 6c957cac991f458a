"""The nouns that every other room speaks in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, NewType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RequestId = NewType("RequestId", str)
"""A UUIDv7 (RFC 9562, section 5.7) that we make: one request, and the `id` of its usage event."""

SubjectId = NewType("SubjectId", str)
"""Who is metered, as events name them: the policy's name, or the pseudonym of an unlisted key."""

LARGEST_COST = 2**52
"""Units beyond this are refused: Lua's numbers are exact to 2^53, and one addition must stay below it."""

_LONGEST = 32
"""Digits of a declared length that are read; what has more is as much too large without the rest."""

UNMATCHED = "<unmatched>"
"""The route name of a request that no route of the policy matches."""


class MeterError(Exception):
    """The root of the errors that this package raises."""


class Count(Enum):
    """What a meter counts."""

    REQUESTS = "requests"
    REQUEST_BYTES = "request-bytes"
    RESPONSE_BYTES = "response-bytes"
    REQUEST_MESSAGES = "request-messages"
    """WebSocket messages from the client."""
    RESPONSE_MESSAGES = "response-messages"
    """WebSocket messages to the client."""
    REPORTED = "reported"
    CONCURRENT = "concurrent"
    """Requests in flight: what a limit on concurrency counts; no meter of a policy does."""


MESSAGES = frozenset((Count.REQUEST_MESSAGES, Count.RESPONSE_MESSAGES))
"""What only WebSockets have."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A named count of something used.

    A reported one may be told by the app in a field of its response, `from_header`, which `strip` takes
    out before the client sees it.
    """

    name: str
    count: Count
    from_header: str | None = None
    strip: bool = False

    @property
    def field(self) -> str:
        """The field of an event's data that the units are in."""
        return _FIELDS.get(self.count, self.name)


_FIELDS = {
    Count.REQUEST_BYTES: "request_bytes",
    Count.RESPONSE_BYTES: "response_bytes",
    Count.REQUEST_MESSAGES: "request_messages",
    Count.RESPONSE_MESSAGES: "response_messages",
}


IN_FLIGHT = Meter("concurrent", Count.CONCURRENT)
"""What limits on concurrency are on."""


class Request(NamedTuple):
    """The facts of one request that the policy is asked about, as they entered the edge.

    `path` is percent-decoded and without the mount prefix (`root_path`, `SCRIPT_NAME`), so it is
    what a router sees. `field` gives every value of a header field by its lower-case name.
    `peer` is the address at the other end of the socket, `None` on a Unix socket. What is sent in `frames`
    (HTTP/2, WebSocket) needs no length to be declared. `is_socket` says that it is a WebSocket's handshake.
    """

    method: str
    path: str
    query: str
    field: Callable[[str], Sequence[str]]
    peer: str | None
    frames: bool = False
    is_socket: bool = False

    @property
    def declared(self) -> int | None:
        """The length of the body as the client declares it, at most the largest cost.

        It is 0 without one, and `None` where the client does not say.
        """
        if self.field("transfer-encoding"):
            return None
        lengths = self.field("content-length")
        if not lengths:
            return None if self.frames else 0
        if len(lengths) != 1 or not lengths[0].isdecimal():
            return None
        return min(int(lengths[0][:_LONGEST]), LARGEST_COST)

    @property
    def is_preflight(self) -> bool:
        """Whether this is a CORS preflight, which browsers send without credentials (Fetch, 4.8)."""
        return (
            self.method == "OPTIONS"
            and bool(self.field("origin"))
            and bool(self.field("access-control-request-method"))
        )


class Receipt(NamedTuple):
    """The final counts of one exchange, or of a part of one.

    `limited_by` names the limits that stopped it on its way; one that was `refused` so got no answer of the
    app's, and costs nothing but the bytes that had passed.
    """

    request_bytes: int
    response_bytes: int
    reported: dict[str, int]
    status: int
    duration_us: int
    request_messages: int = 0
    response_messages: int = 0
    limited_by: tuple[str, ...] = ()
    refused: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing passed."""
        counts = (self.request_bytes, self.response_bytes, self.request_messages, self.response_messages)
        return not any(counts) and not any(self.reported.values())


REQUEST_EVENT = "meter_mw.request.v1"
"""The type of the events that usage is billed by."""

THRESHOLD_EVENT = "meter_mw.threshold.v1"
"""The type of the events that tell of a cap whose threshold was reached."""

ADJUSTMENT_EVENT = "meter_mw.adjustment.v1"
"""The type of the events by which an operator corrects what was recorded."""

BILLING_THRESHOLD_EVENT = "meter_mw.billing_threshold.v1"
"""The type of the events that tell of a bill, or of units on it, that has reached an amount."""

SIGNAL_EVENT = "meter_mw.signal.{}.v1"
"""The types of the events that tell of changes in how a subject uses the API, by kind of signal."""

WINDOW_EVENT = "meter_mw.window.v1"
"""The type of the records that sum up the events of a subject in a span of time."""

ERASURE_EVENT = "meter_mw.erasure.v1"
"""The type of the events that tell that a subject's identity was erased."""


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One counted request, as it leaves for billing: unique by `source` and `id` (CloudEvents 1.0)."""

    id: str
    source: str
    subject: SubjectId
    time_us: int
    data: dict[str, object]
    type: str = REQUEST_EVENT
