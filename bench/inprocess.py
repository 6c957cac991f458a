"""The time that a meter adds to a request, without any server.

Everyone takes turns in each round. What a meter does in the background is waited for after its turn, so
that nobody pays for it in theirs; it counts in the CPU time, and where it takes the interpreter from the
requests of its own turn.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

from bench.drive import WIDTH, driver
from bench.figures import Figures
from bench.probe import WrongError, probe
from bench.workload import KEYS

if TYPE_CHECKING:
    from bench.contenders import Contender
    from bench.workload import Setting

_ENOUGH = 0.99
"""Good answers that make a turn count; where a busy machine made a store too slow, it is taken again."""

_TRIES = 10


@dataclass(frozen=True, slots=True)
class Effort:
    """How long it goes on: rounds, requests one by one in each turn, and requests for the CPU time."""

    rounds: int
    requests: int
    crowd: int


@dataclass(slots=True)
class Added:
    """Microseconds for one request: of time, and of CPU with many in flight."""

    time_us: Figures = field(default_factory=Figures)
    cpu_us: Figures = field(default_factory=Figures)
    again: dict[str, int] = field(default_factory=dict)
    """Turns that had to be taken again, where there were any."""


def measure(contenders: list[Contender], settings: list[Setting], effort: Effort) -> Added:
    """Measure everyone in every setting."""
    added = Added()
    for setting in settings:
        asyncio.run(_measure(contenders, setting, effort, added))
    return added


async def _measure(contenders: list[Contender], setting: Setting, effort: Effort, added: Added) -> None:
    for each in contenders:
        await probe(each, replace(setting, folder=setting.folder / "probe"))
    seats = [_Seat(each, each.build(_own(each, setting))) for each in contenders]
    for seat in seats:
        await _turn(seat, effort.requests)
        await _cpu(seat, effort.crowd)
    for _ in range(effort.rounds):
        for seat in seats:
            added.time_us.add(seat.contender, setting, await _turn(seat, effort.requests))
        for seat in seats:
            added.cpu_us.add(seat.contender, setting, await _cpu(seat, effort.crowd))
    for seat in seats:
        if seat.again:
            added.again[f"{seat.contender.title} ({setting.title})"] = seat.again
        seat.contender.hook("close")(seat.app)


def _own(contender: Contender, setting: Setting) -> Setting:
    return replace(setting, folder=setting.folder / contender.base / setting.title.replace(", ", "-"))


class _Seat:
    """One contender with its app, ready for a turn."""

    def __init__(self, contender: Contender, app: Any) -> None:
        self.contender = contender
        self.app = app
        self.drive = driver(contender, app)
        self.again = 0

    def drain(self) -> None:
        self.contender.hook("drain")(self.app)

    def was_good(self) -> bool:
        """Whether the turn was what it should be; asked once, after it."""
        answers = self.drive.answered
        good, total = answers.count((200, self.contender.fields)), len(answers)
        answers.clear()
        if good >= total * _ENOUGH:
            return True
        self.again += 1
        if self.again > _TRIES:
            raise WrongError(f"{self.contender.title}: only {good} of {total} answers were good, again")
        return False


async def _turn(seat: _Seat, requests: int) -> float:
    """Give the median of one turn, which what it left to do in the background does not outlast."""
    while True:
        gc.collect()
        taken = [await seat.drive.one(key) for _, key in zip(range(requests), cycle(KEYS), strict=False)]
        seat.drain()
        if seat.was_good():
            return statistics.median(taken) / 1_000


async def _cpu(seat: _Seat, crowd: int) -> float:
    """Give the CPU time of one request, with all that follows from it in this process."""
    while True:
        gc.collect()
        begin = time.process_time_ns()
        await seat.drive.crowd(crowd)
        seat.drain()
        taken = time.process_time_ns() - begin
        if seat.was_good():
            return taken / (crowd // WIDTH * WIDTH) / 1_000
