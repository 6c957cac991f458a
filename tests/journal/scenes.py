"""A courier between a journal and a sink, moved step by step under a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.journal.courier import Courier
from meter_mw.journal.holdings import Holdings
from meter_mw.sinks import Delivered, Outcome

from .conftest import Clock, MemorySink, event, ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meter_mw.journal import Journal
    from meter_mw.sinks import Sink


class Scene:
    """A journal, a sink, and the courier between them."""

    def __init__(self, place: Path, journal: Journal, sink: Sink | None = None) -> None:
        self.journal = journal
        self.place = place
        self.clock = Clock()
        self.chance = 1.0
        self.sink = sink or MemorySink(max_batch=10)
        self.living = False
        self.holdings: Holdings | None = None
        self.begin()

    def begin(self) -> None:
        """Begin anew, as after a crash: the kernel drops the locks."""
        if self.holdings is not None:
            self.holdings.release()
        self.holdings = Holdings(
            self.journal,
            [self.sink.name],
            clock=self.clock,
            adopt_every=30,
            retention=0,
            living=self.living,
        )
        self.supply = self.holdings.supply(self.sink.name, durable=False)
        self.courier = Courier(
            self.sink,
            self.supply,
            self.place,
            clock=self.clock,
            now=self.clock,
            random=lambda: self.chance,
            backoff=0.5,
            longest_backoff=60.0,
        )

    def append(self, numbers: range) -> None:
        for number in numbers:
            self.journal.append(event(number))

    def run(self) -> None:
        while (wait := self.courier.step()) is not None:
            self.clock.now += wait


def always(outcome: Outcome) -> Callable[[Sequence[bytes]], Sequence[Outcome]]:
    return lambda batch: [outcome] * len(batch)


def for_event(name: str, outcome: Outcome) -> Callable[[Sequence[bytes]], Sequence[Outcome]]:
    return lambda batch: [outcome if name in ids([payload]) else Delivered() for payload in batch]
