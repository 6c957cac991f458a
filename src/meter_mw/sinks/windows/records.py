"""What goes into a window, and the record that comes out of it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meter_mw.model import WINDOW_EVENT

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Addition:
    """What an event adds to its window: units by field, at a moment in µs since 1970."""

    id: str
    subject: str
    time_us: int
    quantities: Mapping[str, int]


@dataclass(slots=True)
class Window:
    """A span of time of one subject, [start, end) in µs since 1970, and what fell into it so far."""

    number: int
    subject: str
    start_us: int
    end_us: int
    last_us: int
    events: int
    sums: dict[str, int]

    def add(self, addition: Addition) -> None:
        """Add an event."""
        for field, units in addition.quantities.items():
            self.sums[field] = self.sums.get(field, 0) + units
        self.events += 1
        self.last_us = max(self.last_us, addition.time_us)

    def record(self, source: str, token: str) -> bytes:
        """Give the record, a CloudEvents object. Its id is `<subject>:<start>:<token>-<number>`.

        Its time is that of the last event: inside the window, whose end belongs to the next period.
        """
        window = {"start": shown(self.start_us), "end": shown(self.end_us), "events": self.events}
        quantities = {field: units for field, units in self.sums.items() if units}
        record = {
            "specversion": "1.0",
            "id": f"{self.subject}:{self.start_us // 1_000_000}:{token}-{self.number}",
            "source": source,
            "type": WINDOW_EVENT,
            "subject": self.subject,
            "time": shown(self.last_us),
            "datacontenttype": "application/json",
            "data": {**quantities, "window": window},
        }
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed record; `sent` is since when it may be at the destination, in seconds since 1970."""

    number: int
    record: bytes
    sent: float | None


def shown(moment_us: int) -> str:
    """Give a moment in RFC 3339, UTC."""
    seconds, microseconds = divmod(moment_us, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
    return moment.isoformat().replace("+00:00", "Z")
