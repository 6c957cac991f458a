"""What events count, by labels, for destinations that watch usage and do not bill it. Pure.

Counts there only grow: corrections, which may take away, are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.ledger.records import Record, Unreadable, read
from meter_mw.model import REQUEST_EVENT
from meter_mw.sinks.base import Permanent
from meter_mw.sinks.kinds import Form, Option

if TYPE_CHECKING:
    from collections.abc import Iterable

_LABELS = ("route", "method", "status", "plan", "subject", "account")

Series = tuple[str, tuple[str, ...]]
"""A field, and the values of the labels in their order."""


def observed(payload: bytes) -> Record | Permanent:
    """Read an event, or give why it cannot be."""
    try:
        return read(payload)
    except Unreadable as reason:
        return Permanent(str(reason))


def tally(records: Iterable[Record], fields: Iterable[str], labels: Iterable[str]) -> dict[Series, int]:
    """Add up the units of each field and each combination of labels; an absent label is empty."""
    found: dict[Series, int] = {}
    wanted, named = frozenset(fields), tuple(labels)
    for record in records:
        if record.row["type"] != REQUEST_EVENT:
            continue
        values = tuple(_label(record.row[name]) for name in named)
        for field, units in record.quantities.items():
            if field in wanted and units > 0:
                found[field, values] = found.get((field, values), 0) + units
    return found


def labels_of(text: str) -> tuple[str, ...]:
    """Give the labels that a setting names."""
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


def _label(value: object) -> str:
    return "" if value is None else str(value)


def _fault_of_labels(text: str) -> str | None:
    strange = [name for name in labels_of(text) if name not in _LABELS]
    return f"there is no label {strange[0]}; expected some of {', '.join(_LABELS)}" if strange else None


LABELS = Option(
    Form.TEXT,
    "labels with spaces between, such as route plan",
    default="route",
    fault=_fault_of_labels,
)
"""What counts are told apart by. Each subject as a label is a series of its own, for ever."""
