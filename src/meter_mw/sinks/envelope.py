"""The attributes of an event beside its data, for destinations that keep the two apart. Pure.

CloudEvents 1.0.2: the binary content modes of the Kafka binding (3.2) and of the NATS binding (3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

_BODY = frozenset({"data", "data_base64", "datacontenttype"})
_NEEDED = ("id", "source", "type", "specversion")
STRUCTURED = "application/cloudevents+json"
"""The content type of an event that is sent whole."""

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Envelope:
    """The attributes of an event as texts, and its data as it stood in the event.

    `data` is None where the event has none that is JSON: such an event is sent whole.
    """

    attributes: Mapping[str, str]
    data: bytes | None
    content_type: str = _JSON

    @classmethod
    def of(cls, payload: bytes) -> Envelope | None:
        """Read a CloudEvents object in JSON; None for anything else."""
        try:
            members = _decoder.decode(payload)
            texts = {name: _text(raw) for name, raw in members.items() if name not in _BODY}
            attributes = {name: text for name, text in texts.items() if text}
            kind = _text(members["datacontenttype"]) if "datacontenttype" in members else _JSON
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        if not all(name in attributes for name in _NEEDED):
            return None
        data = bytes(members["data"]) if "data" in members else None
        is_json = kind.partition(";")[0].strip().lower() == _JSON
        return cls(MappingProxyType(attributes), data if is_json and data != b"null" else None, kind or _JSON)

    @property
    def id(self) -> str:
        """With the source, what an event is known by."""
        return self.attributes["id"]

    @property
    def source(self) -> str:
        """Who recorded the event."""
        return self.attributes["source"]

    @property
    def subject(self) -> str:
        """Who was metered; empty where the event does not say."""
        return self.attributes.get("subject", "")

    @property
    def moment(self) -> float | None:
        """The event's time in seconds since 1970; None where it has none that can be read."""
        try:
            return datetime.fromisoformat(self.attributes["time"]).timestamp()
        except (KeyError, ValueError, OverflowError):
            return None


_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _text(raw: msgspec.Raw) -> str:
    """Give an attribute as CloudEvents writes it in a header (3.1, Type System)."""
    value = msgspec.json.decode(raw)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if value is None:
        return ""
    raise ValueError("an attribute is a text, a number or a truth value")
