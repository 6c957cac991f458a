"""A usage event as CloudEvents 1.0 JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from meter_mw.model import UsageEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _CloudEvent(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    datacontenttype: str
    data: dict[str, object]


_encoder = msgspec.json.Encoder()


def encode(event: UsageEvent) -> bytes:
    """Give the event as one JSON object without line breaks; times are RFC 3339 in UTC."""
    return _encoder.encode(
        _CloudEvent(
            "1.0",
            event.id,
            event.source,
            event.type,
            event.subject,
            _EPOCH + timedelta(microseconds=event.time_us),
            "application/json",
            event.data,
        )
    )
