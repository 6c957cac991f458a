"""What a usage event is to a billing backend: who used how much of what, and when. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from meter_mw.model import ADJUSTMENT_EVENT, REQUEST_EVENT, WINDOW_EVENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BILLED = frozenset({REQUEST_EVENT, ADJUSTMENT_EVENT, WINDOW_EVENT})


class Refused(Exception):
    """An event that no backend could bill; says why."""


class _Event(msgspec.Struct):
    id: str
    source: str
    type: str
    subject: str = ""
    time: str = ""
    data: dict[str, object] = {}


_decoder = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Usage:
    """A usage event. `quantities` has every field that was asked for, 0 where the event says nothing."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    data: Mapping[str, object]
    quantities: Mapping[str, int]

    @property
    def milliseconds(self) -> int:
        """The time in whole ms since 1970, what is smaller cut off."""
        moment = datetime.fromisoformat(self.time)
        return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000


def read_usage(payload: bytes, fields: Sequence[str]) -> Usage | None:
    """Read an event for its quantities; None for one that is not billed, such as a threshold.

    Raises `Refused`.
    """
    try:
        event = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"no usage event: {error!s:.200}") from None
    if event.type not in _BILLED:
        return None
    missing = [name for name in ("id", "source", "subject", "time") if not getattr(event, name)]
    if missing:
        raise Refused(f"the event has no {' and no '.join(missing)}")
    if not _is_moment(event.time):
        raise Refused(f"the event's time is {event.time!r:.50}; expected RFC 3339 with a time zone")
    quantities = {field: _whole(event.data, field) for field in fields}
    return Usage(event.id, event.source, event.type, event.subject, event.time, event.data, quantities)


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _whole(data: Mapping[str, object], field: str) -> int:
    found = data.get(field, 0)
    if not isinstance(found, int) or isinstance(found, bool):
        raise Refused(f"data.{field} is {found!r:.50}; expected a whole number")
    return found
