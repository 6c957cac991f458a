"""What an HTTP answer says about each event of a batch. Pure.

* 2xx: all delivered, save what the body says otherwise.
* 207: only what the body says; events that it does not name are sent again.
* 400, 413, 422: the batch is to be halved until the event that is refused stands alone: permanent.
* 409: halved likewise; an event alone is a duplicate.
* 429, 503: retry, after `Retry-After` if there is one. Any other status is retried too: a wrong
  address or token is the operator's mistake, and no event is given up for it.

The body of a 2xx answer may name events; `after` (seconds) and `reason` are optional, and `status`
may be an HTTP status code instead:

    {"results": [{"id": "…", "status": "delivered" | "duplicate" | "permanent" | "retry",
                  "reason": "…", "after": 3}]}
"""

from __future__ import annotations

import email.utils
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LONGEST_REASON = 200
_REFUSALS = frozenset({400, 413, 422})
_PASSING = frozenset({408, 425, 429})
_CONFLICT = 409
_MULTI_STATUS = 207


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; `retry_after` in seconds, the names of `fields` in lower case."""

    status: int
    retry_after: float | None
    body: bytes
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def accepts(self) -> bool:
        """Whether the request as a whole was accepted."""
        return 200 <= self.status < 300

    @property
    def divides(self) -> bool:
        """Whether some event of the batch is refused, and halving the batch finds it."""
        return self.status in _REFUSALS or self.status == _CONFLICT

    @property
    def blames_operator(self) -> bool:
        """Whether waiting cures nothing: an address, a token or a certificate is wrong."""
        return not (self.accepts or self.divides or self.status in _PASSING or self.status >= 500)

    @property
    def reason(self) -> str:
        """What a log or a parked event says of it, without line ends."""
        text = self.body[:_LONGEST_REASON].decode("utf-8", "replace")
        return f"HTTP {self.status} {text!r}" if text else f"HTTP {self.status}"


def outcomes(answer: Answer, batch: Sequence[bytes]) -> list[Outcome]:
    """Return what the answer says of each event."""
    if not answer.accepts:
        return [_by_status(answer.status, answer.reason, answer.retry_after)] * len(batch)
    unnamed: Outcome = Unknown("not named in a 207") if answer.status == _MULTI_STATUS else Delivered()
    results = _results(answer)
    if not results:
        return [unnamed] * len(batch)
    return [results.get(_event_id(payload), unnamed) for payload in batch]


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` field asks for (RFC 9110, 10.2.3); `None` for nonsense."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _by_status(status: int, reason: str, after: float | None) -> Outcome:
    if 200 <= status < 300:
        return Delivered()
    if status == _CONFLICT:
        return Duplicate()
    if status in _REFUSALS:
        return Permanent(reason)
    return Retry(after, reason)


def _results(answer: Answer) -> dict[str, Outcome]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    listed = document.get("results") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        return {}
    items = [item for item in listed if isinstance(item, dict)]
    return {item["id"]: _named(item) for item in items if isinstance(item.get("id"), str)}


def _named(item: dict[str, object]) -> Outcome:
    status = item.get("status")
    reason = str(item.get("reason", status))[:_LONGEST_REASON]
    after = item.get("after")
    seconds = float(after) if isinstance(after, int | float) and 0 <= after < 1e9 else None
    match status:
        case "delivered":
            return Delivered()
        case "duplicate":
            return Duplicate()
        case "permanent":
            return Permanent(reason)
        case "retry":
            return Retry(seconds, reason)
        case int():
            return _by_status(status, f"HTTP {status} {reason!r}", seconds)
        case _:
            return Unknown(f"a status that is not known: {reason!r}")


def _event_id(payload: bytes) -> str:
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return ""
    return str(event.get("id")) if isinstance(event, dict) else ""
