"""What is held of a subject, and the places that it is held in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from meter_mw.model import MeterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meter_mw.model import SubjectId


class Unforgettable(MeterError):
    """A subject cannot be forgotten now; says what is to be done first."""


class Whose(NamedTuple):
    """A subject, and the source of the service that names it so; another service may mean somebody else."""

    source: str
    subject: str


class Held(NamedTuple):
    """A record of a subject: in which place, as what, and what it says."""

    place: str
    kind: str
    record: Mapping[str, Any]


class Place(Protocol):
    """Somewhere that the meter keeps records of subjects.

    Each raises what its place raises where that does not answer: OSError, StoreUnavailable, or what
    SQLAlchemy raises.
    """

    name: str
    remains: str
    """Why records stay here when their subject is forgotten, and until when; empty where none do."""

    def held(self, subject: str) -> Iterator[Held]:
        """Give every record of a subject."""
        ...

    def obstacle(self, subject: str) -> str:
        """Say what stands in the way of forgetting a subject; empty for nothing."""
        ...

    def erase(self, subject: str, tombstone: SubjectId) -> int:
        """Take a subject's identity out of all records that can be changed; give how many that were.

        Amounts stay, under the name of the tombstone. Repeated, it changes nothing more.
        """
        ...


def event_of(payload: bytes, whose: Whose) -> dict[str, Any] | None:
    """Read an event, if it is one of this subject, as this service names it."""
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    return event if (event.get("source"), event.get("subject")) == whose else None
