"""What is noted in Redis of a consignment: its entries, and since when each is in doubt. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Record:
    """A consignment in hand, by the field of its note.

    `entries` are its entries in order, each with the moment of its first attempt whose outcome is
    unknown, in seconds since 1970; None where the destination surely does not have the event.
    """

    field: str
    entries: Mapping[str, float | None]

    @property
    def text(self) -> str:
        """What is noted: `1763721827127-0 1763721827127-1=1763721830.5`."""
        return " ".join(
            entry if sent is None else f"{entry}={sent!r}" for entry, sent in self.entries.items()
        )

    @classmethod
    def read(cls, field: bytes, text: bytes) -> Record:
        """Read a note; what is no number is taken for a moment long ago, so that nothing is sent blindly."""
        parts = (word.partition("=") for word in text.decode("ascii", "replace").split())
        return cls(
            field.decode(), {entry: _moment(sent) if equals else None for entry, equals, sent in parts}
        )


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
