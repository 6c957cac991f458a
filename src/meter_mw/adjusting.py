"""Adjustments: what an operator corrects is a new event that names the one before, never a changed one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meter_mw.model import ADJUSTMENT_EVENT, LARGEST_COST, REQUEST_EVENT, MeterError, SubjectId, UsageEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meter_mw.model import RequestId
    from meter_mw.policy.policy import Policy

_KEPT = ("route", "method", "plan", "key", "account")
"""Fields of the original by which backends group, so the correction falls where the original fell."""


class AdjustmentError(MeterError):
    """A correction that cannot be made; says why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded request, as far as a correction needs it. `quantities` are whole units by field.

    `corrected` are the units that earlier corrections added or took back, `voided` the one that took all.
    """

    id: str
    subject: SubjectId
    time: str
    data: Mapping[str, object]
    quantities: Mapping[str, int]
    corrected: Mapping[str, int] = field(default_factory=Counter)
    voided: bytes | None = None

    @classmethod
    def decode(cls, policy: Policy, payload: bytes, others: Iterable[bytes] = ()) -> Recorded:
        """Read an event as it was recorded, and what of `others` corrects it.

        Raises AdjustmentError for one that holds no usage, or that another service recorded.
        """
        try:
            event = json.loads(payload)
            data, kind, name = event["data"], event["type"], str(event["id"])
            found = _units(policy, data)
            subject, time, source = SubjectId(event["subject"]), str(event["time"]), event["source"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise AdjustmentError("not a usage event") from None
        if kind != REQUEST_EVENT:
            raise AdjustmentError(f"{name} is of type {kind}; only {REQUEST_EVENT} holds usage to correct")
        if source != policy.source:
            raise AdjustmentError(f"{name} is of {source}; this policy corrects {policy.source}")
        known = _corrections(policy, name, others)
        corrected: Counter[str] = Counter()
        for _, units in known.values():
            corrected.update(units)
        voided = known.get(f"void-{name}")
        return cls(name, subject, time, data, found, corrected, voided[0] if voided else None)

    @property
    def is_left(self) -> bool:
        """Whether anything of it still counts."""
        return any(self.left(name) for name in {**self.quantities, **self.corrected})

    def left(self, field: str) -> int:
        """Give the units of a field that no correction has taken back."""
        return self.quantities.get(field, 0) + self.corrected.get(field, 0)


def _units(policy: Policy, data: Mapping[str, object]) -> dict[str, int]:
    found = {name: data.get(name) for name in policy.quantities}
    return {name: units for name, units in found.items() if type(units) is int}


def _corrections(
    policy: Policy, original: str, payloads: Iterable[bytes]
) -> dict[str, tuple[bytes, dict[str, int]]]:
    """Give the corrections of an event among others, by their ids: each counts once."""
    found: dict[str, tuple[bytes, dict[str, int]]] = {}
    for payload in payloads:
        try:
            event = json.loads(payload)
            if event["type"] == ADJUSTMENT_EVENT and event["data"]["amends"] == original:
                found.setdefault(str(event["id"]), (payload, _units(policy, event["data"])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return found


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
    """Give the changes that take back what is left of an event; raises AdjustmentError for nothing."""
    names = {**original.quantities, **original.corrected}
    changes = {name: -original.left(name) for name in names if original.left(name)}
    if not changes:
        raise AdjustmentError(
            f"{original.id} {'has nothing left' if original.corrected else 'counted nothing'}"
        )
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

    Raises AdjustmentError where it would take back more than is left of what was recorded.
    """
    for name, units in changes.items():
        if original.left(name) + units < 0:
            had, since = original.quantities.get(name, 0), original.corrected.get(name, 0)
            but = f", corrected by {since} since" if since else ""
            raise AdjustmentError(
                f"{original.id} recorded {name}={had}{but}; {units} takes back more than that"
            )
    if not reason.strip():
        raise AdjustmentError("a correction needs its reason: --why TEXT")
    data: dict[str, object] = dict(changes)
    data |= {name: original.data[name] for name in _KEPT if name in original.data}
    data |= {"policy": policy.digest, "amends": original.id, "reason": reason.strip(), "by": by}
    return UsageEvent(str(rid), policy.source, original.subject, time_us, data, ADJUSTMENT_EVENT)


def void_id(original: Recorded) -> str:
    """Give the id of the event that takes all of another back: always the same, so that it counts once.

    To sinks it says that all is taken back: what takes back a rest has an id of its own.
    """
    return f"void-{original.id}"
