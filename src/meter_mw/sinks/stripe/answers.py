"""What an answer of Stripe's says of what it was sent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.sinks.answers import Answer

SESSION_EXPIRED = "billing_meter_event_session_expired"

_MISSING = "resource_missing"
_DUPLICATE_CODE = "duplicate_meter_event"
_DUPLICATE_TEXT = "already exists with identifier"
_LONGEST_REASON = 200
_PASSING = frozenset({401, 403, 408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class Fault:
    """Stripe's own error, as both of its APIs word it."""

    code: str
    message: str


class _Error(msgspec.Struct):
    type: str = ""
    code: str = ""
    message: str = ""


class _Body(msgspec.Struct):
    error: _Error


def fault_of(answer: Answer) -> Fault | None:
    """Give the error that Stripe itself wrote; None where something else on the way answered."""
    try:
        error = msgspec.json.decode(answer.body, type=_Body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return Fault(error.code or error.type, error.message)


def reason_of(answer: Answer) -> str:
    """Say what came back, for a log or a parked event."""
    fault = fault_of(answer)
    if fault is None:
        return answer.reason
    return f"HTTP {answer.status} {fault.code}: {fault.message}"[:_LONGEST_REASON]


def outcome_of(answer: Answer | Retry | Unknown) -> Outcome:
    """Say what became of a call.

    A wrong key or a missing permission is the operator's to cure, and no event is given up for it; nor
    for an error that is not Stripe's own.
    """
    if isinstance(answer, Retry | Unknown):
        return answer
    if answer.accepts:
        return Delivered()
    reason, fault = reason_of(answer), fault_of(answer)
    if answer.status >= 500:
        return Unknown(reason, answer.retry_after)
    if fault and (fault.code == _DUPLICATE_CODE or _DUPLICATE_TEXT in fault.message):
        return Duplicate()
    # https://docs.stripe.com/error-low-level: the field goes beyond what the status says.
    is_passing = answer.status in _PASSING or answer.fields.get("stripe-should-retry") == "true"
    # A 404 that names nothing that is missing is about the URL.
    is_lost = fault is None or (answer.status == 404 and fault.code != _MISSING)
    return Retry(answer.retry_after, reason) if is_passing or is_lost else Permanent(reason)


def together(outcomes: Sequence[tuple[str, Outcome]]) -> Outcome:
    """Give the outcome of an event of which each meter had one of its own.

    What was taken for one meter and not for another is in doubt: sent again, it is taken once.
    """
    taken = [name for name, each in outcomes if isinstance(each, Delivered | Duplicate)]
    for _, each in outcomes:
        if isinstance(each, Retry | Unknown):
            why = f"taken for {', '.join(taken)}; {each.reason}"
            return Unknown(why, each.after) if taken else each
    refused = [f"{name}: {each.reason}" for name, each in outcomes if isinstance(each, Permanent)]
    if refused:
        return Permanent("; ".join([*refused, *([f"taken for {', '.join(taken)}"] if taken else [])]))
    new = any(isinstance(each, Delivered) for _, each in outcomes)
    return Delivered() if new or not outcomes else Duplicate()
