"""Journals of the tests, and a destination in memory that fails as told."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Damage, Entry, Journal, read_journal
from meter_mw.sinks import Delivered, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SOURCE = "urn:meter-mw:tests"


def event(number: int | str, size: int = 0) -> bytes:
    return json.dumps({"id": f"event-{number}", "source": SOURCE, "data": "x" * size}).encode()


def ids(payloads: Sequence[bytes]) -> list[str]:
    return [json.loads(payload)["id"] for payload in payloads]


def expected(numbers: range) -> list[str]:
    return [f"event-{number}" for number in numbers]


def contents(directory: Path) -> tuple[list[Entry], list[Damage]]:
    found = list(read_journal(directory))
    return [one for one in found if isinstance(one, Entry)], [one for one in found if isinstance(one, Damage)]


def payloads(directory: Path) -> list[bytes]:
    return [entry.payload for entry in contents(directory)[0]]


class MemorySink:
    """Keeps what it is sent, and answers as `answer` says."""

    horizon: float | None = None

    def __init__(self, name: str = "memory", max_batch: int = 100) -> None:
        self.name = name
        self.max_batch = max_batch
        self.sent: list[list[bytes]] = []
        self.accepted: list[bytes] = []
        self.arrived = threading.Condition()
        self.closed = 0
        self.answer: Callable[[Sequence[bytes]], Sequence[Outcome]] = lambda batch: [Delivered()] * len(batch)

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        outcomes = self.answer(batch)
        with self.arrived:
            self.sent.append(list(batch))
            self.accepted += [
                p for p, outcome in zip(batch, outcomes, strict=False) if outcome == Delivered()
            ]
            self.arrived.notify_all()
        return outcomes

    def close(self) -> None:
        self.closed += 1

    def await_accepted(self, count: int) -> bool:
        with self.arrived:
            return self.arrived.wait_for(lambda: len(self.accepted) >= count, 30)


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "var" / "meter"


@pytest.fixture
def journal(place: Path) -> Iterator[Journal]:
    journal = Journal(place, SOURCE, segment_bytes=1 << 16, sync_interval=0.001)
    yield journal
    journal.close()
