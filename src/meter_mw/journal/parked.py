"""Parked events: those that a sink will never take, kept with the reason."""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.sinks.file import append_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a sink refused for good. A crash at the wrong moment may park it twice."""

    sink: str
    reason: str
    at: float
    payload: bytes


def parked_path(directory: Path) -> Path:
    """Return the file of the parked events of a journal: JSON lines, shared by its processes."""
    return directory / "parked.jsonl"


def park(directory: Path, sink: str, reason: str, payload: bytes) -> None:
    """Keep an event durably beside the journal; raises `OSError`."""
    record = {
        "sink": sink,
        "reason": reason[:_LONGEST_REASON],
        "at": time.time(),
        **_as_text(payload),
    }
    append_lines(parked_path(directory), [json.dumps(record).encode()], flags=os.O_NOFOLLOW)


def read_parked(directory: Path) -> Iterator[Parked]:
    """Read the parked events of a journal; a line that a crash cut short is passed over."""
    path = parked_path(directory)
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            yield Parked(record["sink"], record["reason"], record["at"], _as_bytes(record))
        except (ValueError, KeyError, TypeError):
            continue


def _as_text(payload: bytes) -> dict[str, str]:
    """Return the payload as people read it; in base64 where it is not even text."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}


def _as_bytes(record: dict[str, str]) -> bytes:
    if "payload" in record:
        return record["payload"].encode()
    return base64.b64decode(record["payload_base64"], validate=True)
