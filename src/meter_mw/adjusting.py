"""Adjustments: what an operator corrects is a new event that names the one before, never a changed one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.model import ADJUSTMENT_EVENT, LARGEST_COST, REQUEST_EVENT, MeterError, SubjectId, UsageEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.model import RequestId
    from meter_mw.policy.policy import Policy

_KEPT = ("route", "method", "plan", "key", "account")
"""Fields of the original by which backends group, so the correction falls where the original fell."""


class AdjustmentError(MeterError):
    """A correction that cannot be made; says why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded request, as far as a correction needs it. `quantities` are whole units by field."""

    id: str
    subject: SubjectId
    time: str
    data: Mapping[str, object]
    quantities: Mapping[str, int]

    @classmethod
    def decode(cls, policy: Policy, payload: bytes) -> Recorded:
        """Read an event as it was recorded; raises AdjustmentError for one that holds no usage."""
        try:
            event = json.loads(payload)
            data, kind, name = event["data"], event["type"], str(event["id"])
            found = {field: data[field] for field in policy.quantities if type(data.get(field)) is int}
            recorded = cls(name, SubjectId(event["subject"]), str(event["time"]), data, found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise AdjustmentError("not a usage event") from None
        if kind != REQUEST_EVENT:
            raise AdjustmentError(f"{name} is of type {kind}; only {REQUEST_EVENT} holds usage to correct")
        return recorded


def parse_changes(policy: Policy, words: tuple[str, ...]) -> dict[str, int]:
    """Read `requests=-1` and the like; raises AdjustmentError."""
    changes: dict[str, int] = {}
    for word in words:
        field, equals, number = word.partition("=")
        if field not in policy.quantities:
            raise AdjustmentError(f"found {field!r}; expected one of {', '.join(policy.quantities)}")
        digits = number.removeprefix("-")
        if not equals or not digits.isascii() or not digits.isdecimal() or int(digits[:20]) > LARGEST_COST:
            raise AdjustmentError(f"found {word!r}; expected {field}=UNITS, whole units such as {field}=-1")
        if field in changes:
            raise AdjustmentError(f"{field} is named twice")
        changes[field] = int(number)
    if not any(changes.values()):
        raise AdjustmentError("nothing would change; expected FIELD=UNITS, such as requests=-1")
    return {field: units for field, units in changes.items() if units}


def void(original: Recorded) -> dict[str, int]:
    """Give the changes that take all of an event back; raises AdjustmentError where there is nothing."""
    changes = {field: -units for field, units in original.quantities.items() if units}
    if not changes:
        raise AdjustmentError(f"{original.id} counted nothing")
    return changes


def adjustment(
    policy: Policy,
    original: Recorded,
    changes: Mapping[str, int],
    *,
    rid: RequestId | str,
    time_us: int,
    reason: str,
    by: str,
) -> UsageEvent:
    """Give the event that corrects another one; `time_us` decides the period that it counts in.

    Raises AdjustmentError where it would take back more than was recorded.
    """
    for field, units in changes.items():
        had = original.quantities.get(field, 0)
        if had + units < 0:
            raise AdjustmentError(f"{original.id} recorded {field}={had}; {units} takes back more than that")
    if not reason.strip():
        raise AdjustmentError("a correction needs its reason: --why TEXT")
    data: dict[str, object] = dict(changes)
    data |= {field: original.data[field] for field in _KEPT if field in original.data}
    data |= {"policy": policy.digest, "amends": original.id, "reason": reason.strip(), "by": by}
    return UsageEvent(str(rid), policy.source, original.subject, time_us, data, ADJUSTMENT_EVENT)


def void_id(original: Recorded) -> str:
    """Give the id of the event that voids another: always the same, so that nothing is voided twice."""
    return f"void-{original.id}"
