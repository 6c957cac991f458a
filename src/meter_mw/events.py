"""A usage event as CloudEvents 1.0 JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from meter_mw.fields import permitted

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.model import RequestId, UsageEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_GAP = b"\xff"
"""Where a form is filled in: no UTF-8 text has this byte (RFC 3629, section 1)."""

_BLANK = msgspec.Raw(_GAP)

_VARYING = ("request_bytes", "response_bytes", "duration_us")

_MOST_STATUSES = 64
"""Statuses that a form has texts for at once."""


class _CloudEvent(msgspec.Struct):
    specversion: str
    id: str | msgspec.Raw
    source: str
    type: str
    subject: str
    time: datetime | msgspec.Raw
    datacontenttype: str
    data: dict[str, object]


_encoder = msgspec.json.Encoder()


def encode(event: UsageEvent) -> bytes:
    """Give the event as one JSON object without line breaks; times are RFC 3339 in UTC.

    Only what the list of `fields` has is in it.
    """
    time = _EPOCH + timedelta(microseconds=event.time_us)
    return _written(event, event.id, time, permitted(event.data))


def _written(
    event: UsageEvent, rid: str | msgspec.Raw, time: datetime | msgspec.Raw, data: dict[str, object]
) -> bytes:
    return _encoder.encode(
        _CloudEvent("1.0", rid, event.source, event.type, event.subject, time, "application/json", data)
    )


class Form:
    """Events that differ in their id, time, status and three numbers: all else is written once a status.

    `event_of` gives such an event of a status, with any id, time and numbers. Safe for threads.
    """

    __slots__ = ("_event_of", "_texts")

    def __init__(self, event_of: Callable[[int], UsageEvent]) -> None:
        self._event_of = event_of
        self._texts: dict[int, bytes] = {}

    def fill(  # noqa: PLR0917 - in the order of the event, for one call on the request path
        self,
        rid: RequestId,
        time_us: int,
        status: int,
        request_bytes: int,
        response_bytes: int,
        duration_us: int,
    ) -> bytes:
        """Give the event as `encode` does, byte for byte."""
        text = self._texts.get(status) or self._text(status)
        time = _second(time_us // 1_000_000)
        fraction = time_us % 1_000_000
        if fraction:
            time = b"%b.%06d" % (time, fraction)
        return text % (rid.encode(), time, request_bytes, response_bytes, duration_us)

    def _text(self, status: int) -> bytes:
        event = self._event_of(status)
        written = _written(event, _BLANK, _BLANK, permitted(event.data) | dict.fromkeys(_VARYING, _BLANK))
        rid, time, *numbers = written.replace(b"%", b"%%").split(_GAP)
        text = b'%b"%%b"%b"%%bZ"%b' % (rid, time, b"%d".join(numbers))
        if len(self._texts) >= _MOST_STATUSES:
            self._texts.clear()
        self._texts[status] = text
        return text


_said = (-1, b"")
"""The second of the last event, and how it is written."""


def _second(second: int) -> bytes:
    """Give a second since 1970 as RFC 3339 without its zone; most are asked for many times."""
    global _said  # noqa: PLW0603 - the same second is written again and again
    known, text = _said
    if known != second:
        text = (_EPOCH + timedelta(seconds=second)).replace(tzinfo=None).isoformat().encode()
        _said = (second, text)
    return text
