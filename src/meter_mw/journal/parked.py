"""Parked events: those that a sink will never take, or that must not be sent again, kept with the reason.

Rule 1: a record is only ever added. What became of an event is a further record, with who, when and why.
Rule 2: parked twice, as a crash at the wrong moment may do, an event is there once: its id is that of
        the sink and the bytes.
Rule 3: an event is noted as being sent before it is; one that was never noted back is in doubt.
"""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from meter_mw.journal.estates import sync_names
from meter_mw.sinks.file import append_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_LONGEST_REASON = 500


class State(Enum):
    """What became of a parked event."""

    PARKED = "parked"
    SENDING = "sending"
    """Somebody sends it again; or did, and was stopped before the answer."""
    RETRIED = "retried"
    """The sink has it."""
    DROPPED = "dropped"
    """Somebody has decided that the sink will not get it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A step in the life of a parked event: `at` in seconds since 1970, `by` a user's name."""

    state: State
    at: float
    why: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a sink did not take, and what became of it.

    `sent` is since when it may be at the destination all the same, in seconds since 1970.
    """

    id: str
    sink: str
    reason: str
    at: float
    payload: bytes
    sent: float | None = None
    state: State = State.PARKED
    changes: tuple[Change, ...] = field(default=())

    @property
    def waits(self) -> bool:
        """Whether it is neither delivered nor dropped."""
        return self.state in (State.PARKED, State.SENDING)


def parked_path(directory: Path) -> Path:
    """Return the file of the parked events of a journal: JSON lines, shared by its processes."""
    return directory / "parked.jsonl"


def park(directory: Path, sink: str, reason: str, payload: bytes, *, sent: float | None = None) -> None:
    """Keep an event durably beside the journal; raises `OSError`."""
    record: dict[str, object] = {
        "id": parked_id(sink, payload),
        "state": State.PARKED.value,
        "at": time.time(),
        "sink": sink,
        "why": reason[:_LONGEST_REASON],
        **({} if sent is None else {"sent": sent}),
        **_as_text(payload),
    }
    _append(directory, [record])


def note(directory: Path, events: Iterable[Parked], change: Change, *, sent: float | None = None) -> None:
    """Add what became of events; raises `OSError`."""
    record: dict[str, object] = {
        "state": change.state.value,
        "at": change.at,
        "by": change.by,
        "why": change.why[:_LONGEST_REASON],
        **({} if sent is None else {"sent": sent}),
    }
    _append(directory, [{"id": event.id, **record} for event in events])


def read_all(directory: Path) -> dict[str, Parked]:
    """Read every event that was ever parked, by its id, in the order of their parking; raises `OSError`.

    A line that a crash cut short is passed over.
    """
    found: dict[str, Parked] = {}
    path = parked_path(directory)
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            before = found.get(record["id"])
            found[record["id"]] = _first(record) if before is None else _after(before, record)
        except (ValueError, KeyError, TypeError):
            continue
    return found


def read_parked(directory: Path) -> Iterator[Parked]:
    """Read the events that are neither delivered nor dropped; raises `OSError`."""
    return (event for event in read_all(directory).values() if event.waits)


def parked_id(sink: str, payload: bytes) -> str:
    """Return what a parked event is known by: 12 hexadecimal digits."""
    return sha256(b"%s\0%s" % (sink.encode(), payload)).hexdigest()[:12]


def _append(directory: Path, records: Iterable[Mapping[str, object]]) -> None:
    path = parked_path(directory)
    is_new = not path.exists()
    append_lines(path, [json.dumps(record).encode() for record in records], flags=os.O_NOFOLLOW)
    if is_new:
        sync_names(directory)


def _first(record: Mapping[str, str]) -> Parked:
    change = _change(record)
    return Parked(
        record["id"],
        record["sink"],
        change.why,
        change.at,
        _as_bytes(record),
        _moment(record),
        change.state,
        (change,),
    )


def _after(before: Parked, record: Mapping[str, str]) -> Parked:
    """Return an event as it is after a further record."""
    change = _change(record)
    sent = _moment(record)
    if change.state is State.SENDING:
        sent = before.sent if before.sent is not None else change.at
    return replace(before, state=change.state, sent=sent, changes=(*before.changes, change))


def _change(record: Mapping[str, str]) -> Change:
    return Change(State(record["state"]), float(record["at"]), record["why"], record.get("by", ""))


def _moment(record: Mapping[str, str]) -> float | None:
    return float(record["sent"]) if "sent" in record else None


def _as_text(payload: bytes) -> dict[str, str]:
    """Return the payload as people read it; in base64 where it is not even text."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}


def _as_bytes(record: Mapping[str, str]) -> bytes:
    if "payload" in record:
        return record["payload"].encode()
    return base64.b64decode(record["payload_base64"], validate=True)
