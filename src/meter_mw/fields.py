"""What may be recorded: every field of every event, what it is for, and whether it may say who somebody is.

Rule 1: this list is all there is. What `permitted` does not find here, and is not the units of a meter, is
left out of an event before it is written; so it reaches no disk, no sink and no log.
Rule 2: a text is in the list or nowhere: what is not listed can be a whole number alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from meter_mw.model import (
    ADJUSTMENT_EVENT,
    BILLING_THRESHOLD_EVENT,
    ERASURE_EVENT,
    REQUEST_EVENT,
    SIGNAL_EVENT,
    THRESHOLD_EVENT,
    WINDOW_EVENT,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A field that may be recorded, in events of some types, and what it is for.

    `personal`: alone or with what others know, it may say who somebody is (GDPR, Art. 4(1)).
    """

    name: str
    purpose: str
    types: tuple[str, ...]
    personal: bool = False

    def __post_init__(self) -> None:
        """Refuse a field that nobody could explain."""
        if not (self.name and self.purpose and self.types):
            raise ValueError(f"a recorded field has a name, a purpose and events, got {self}")


_R, _T, _A = REQUEST_EVENT, THRESHOLD_EVENT, ADJUSTMENT_EVENT
_W, _E = WINDOW_EVENT, ERASURE_EVENT
_B, _S = BILLING_THRESHOLD_EVENT, SIGNAL_EVENT.format("*")
_USAGE = (_R, _A, _W)
_EVERY = (_R, _T, _A, _W, _B, _S, _E)

ENVELOPE = (
    Recorded("specversion", "the form of the event (CloudEvents 1.0)", _EVERY),
    Recorded("id", "counts each event once, wherever it goes", _EVERY),
    Recorded("source", "which service recorded it", _EVERY),
    Recorded("type", "what kind of event it is", _EVERY),
    Recorded("subject", "whose usage it is: a name by the operator, or a pseudonym", _EVERY, personal=True),
    Recorded("time", "the period that it counts in", _EVERY, personal=True),
    Recorded("datacontenttype", "the form of its data", _EVERY),
)
"""The members of an event beside its data."""

METERS = Recorded("(each meter)", "units of a meter of the policy: what is billed", _USAGE)
"""What stands for the quantities that a policy names."""

DATA = (
    Recorded("requests", "how many requests are billed", _USAGE),
    Recorded("request_bytes", "bytes that the client sent", _USAGE),
    Recorded("response_bytes", "bytes that were sent to the client", _USAGE),
    Recorded("request_messages", "messages that a WebSocket's client sent", _USAGE),
    Recorded("response_messages", "messages that a WebSocket's client was sent", _USAGE),
    Recorded("route", "the name of the policy's route, never the path itself", (_R, _A)),
    Recorded("method", "the method of the request", (_R, _A)),
    Recorded("status", "the status of the response", (_R,)),
    Recorded("plan", "the terms that hold", (_R, _T, _A, _B)),
    Recorded("key", "which key of a subject it was: a pseudonym", (_R, _T, _A), personal=True),
    Recorded(
        "account", "who shares limits and the bill: a name by the operator", (_R, _T, _A), personal=True
    ),
    Recorded("duration_us", "how long the request took", (_R,)),
    Recorded("policy", "which version of the policy decided", (_R, _T, _A, _B, _S, _E)),
    Recorded("charged", "that a request costs nothing", (_R,)),
    Recorded("overage", "units beyond what a limit includes, by limit", (_R,)),
    Recorded("limited_by", "which limits stopped it on its way", (_R,)),
    Recorded("would_deny", "which limits in shadow would have refused it", (_R,)),
    Recorded("exchange", "which long exchange it is a part of", (_R,)),
    Recorded("part", "the number of that part", (_R,)),
    Recorded("reaped", "that its process was killed before it ended", (_R,)),
    Recorded("amends", "which event it adds to or corrects", (_R, _A)),
    Recorded("ip", "the network of the client's address, where the policy asks for it", (_R,), personal=True),
    Recorded(
        "user_agent", "the family of the client's program, where the policy asks for it", (_R,), personal=True
    ),
    Recorded("limit", "which limit's threshold was reached", (_T,)),
    Recorded("meter", "what that limit counts", (_T,)),
    Recorded("threshold", "the units, or the amount, that were reached", (_T, _B)),
    Recorded("cap", "the units of the limit", (_T,)),
    Recorded("period", "the period of the limit or of the bill", (_T, _B)),
    Recorded("since_us", "when that period began", (_T,)),
    Recorded("scope", "who shares the limit", (_T,)),
    Recorded("reason", "why an operator corrected an event, in his words", (_A,)),
    Recorded("by", "which operator did so", (_A, _E), personal=True),
    Recorded("window", "the span of time that a record sums up, and of how many events", (_W,)),
    Recorded("of", "what of a bill has reached an amount", (_B,)),
    Recorded("found", "how much it was then", (_B,)),
    Recorded("currency", "the currency of the amount", (_B,)),
    Recorded("since", "the first day of the bill", (_B,)),
    Recorded("until", "the day on which it ends", (_B,)),
    Recorded("day", "the day on which a change in usage was seen", (_S,)),
    Recorded("about", "the route or the limit that it is about", (_S,)),
    Recorded("score", "how unusual it is", (_S,)),
    Recorded("evidence", "the sums and shares by which it was seen", (_S,)),
    Recorded("secret", "which secret the name of an erased subject was made under", (_E,)),
)
"""The fields of an event's data that are not left to the policy."""

FIELDS = (*ENVELOPE, METERS, *DATA)
"""All of them, in the order of an event."""

_NAMES = frozenset(each.name for each in DATA)


def permitted(data: dict[str, object]) -> dict[str, object]:
    """Give what of an event's data may be written: fields of the list, and whole numbers."""
    if _NAMES.issuperset(data):
        return data
    stray = [name for name in data if name not in _NAMES and type(data[name]) is not int]
    if not stray:
        return data
    # The values are what must not be known, and the names are ours.
    _log.error("left out of an event, as no list says that it may be recorded: %s", ", ".join(sorted(stray)))
    return {name: value for name, value in data.items() if name not in stray}
