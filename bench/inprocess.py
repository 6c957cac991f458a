"""The time that a meter adds to a request, without any server.

Everyone takes turns in each round. What a meter does in the background is waited for after its turn, so
that nobody pays for it in theirs; it counts in the CPU time and in what Redis was asked for, and where it
takes the interpreter from the requests of its own turn.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

from bench.asked import Asked, Witness
from bench.drive import WIDTH, driver
from bench.figures import Figures, p99
from bench.probe import WrongError, probe
from bench.workload import KEYS, SPENT_RISING

if TYPE_CHECKING:
    from bench.contenders import Contender
    from bench.workload import Setting

_ENOUGH = 0.99
"""Good answers that make a turn count; where a busy machine made a store too slow, it is taken again."""

_TRIES = 10

_FEWER = 4
"""How many times fewer requests go to a store that is far."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long it goes on: rounds, requests one by one in each turn, and requests for the CPU time.

    After `seconds` in one setting no further round is begun, if there were `least`.
    """

    rounds: int
    requests: int
    crowd: int
    seconds: float = 600.0
    least: int = 1


@dataclass(slots=True)
class Added:
    """For one request: µs of time (median and p99 of a turn), µs of CPU with many in flight, and Redis' part.

    That is the round trips, the script calls, and the server's own µs for each of those.
    """

    time_us: Figures = field(default_factory=Figures)
    p99_us: Figures = field(default_factory=Figures)
    cpu_us: Figures = field(default_factory=Figures)
    trips: Figures = field(default_factory=Figures)
    scripts: Figures = field(default_factory=Figures)
    server_us: Figures = field(default_factory=Figures)
    again: dict[str, int] = field(default_factory=dict)
    """Turns that had to be taken again, where there were any."""

    def note(self, seat: Seat, taken: list[int], asked: Asked | None) -> None:
        """Note one turn."""
        whose = seat.contender, seat.setting
        self.time_us.add(*whose, statistics.median(taken) / 1_000)
        self.p99_us.add(*whose, p99(taken) / 1_000)
        if asked is not None:
            self.trips.add(*whose, asked.reads / len(taken))
            self.scripts.add(*whose, asked.scripts / len(taken))
            if asked.scripts:
                self.server_us.add(*whose, asked.scripts_us / asked.scripts)


def measure(contenders: list[Contender], settings: list[Setting], effort: Effort) -> Added:
    """Measure everyone in every setting."""
    added = Added()
    for setting in settings:
        asyncio.run(_measure([each for each in contenders if each.fits(setting)], setting, effort, added))
    return added


async def _measure(contenders: list[Contender], setting: Setting, effort: Effort, added: Added) -> None:
    async with AsyncExitStack() as stack:
        witness = None if setting.redis is None else stack.enter_context(Witness(setting.redis))
        await _probe(contenders, setting, witness)
        if setting.store.is_far:
            effort = replace(effort, requests=max(1, effort.requests // _FEWER))
        seats = [Seat(each, setting) for each in contenders]
        for seat in seats:
            stack.callback(seat.close)
            stack.push_async_callback(seat.leave)
        for seat in seats:
            await _warm(seat, effort)
        gc.collect()
        gc.freeze()  # what is loaded by now is nobody's garbage
        stack.callback(gc.unfreeze)
        await _rounds(seats, setting, effort, added, witness)
    for seat in seats:
        if seat.again:
            added.again[f"{seat.contender.title} ({setting.title})"] = seat.again


async def _probe(contenders: list[Contender], setting: Setting, witness: Witness | None) -> None:
    """Let everyone show that they count, and begin with an empty store."""
    if not (setting.store.is_far or setting.refuses):  # there is nothing else to be seen there
        for each in contenders:
            await probe(each, replace(setting, folder=setting.folder / "probe"))
    if witness is not None:
        witness.forget_all()


async def _rounds(
    seats: list[Seat], setting: Setting, effort: Effort, added: Added, witness: Witness | None
) -> None:
    end = time.monotonic() + effort.seconds
    for number in range(effort.rounds):
        if number >= effort.least and time.monotonic() > end:
            break
        for seat in seats:
            added.note(seat, *await turn(seat, effort.requests, witness))
        for seat in seats if setting.has_crowds else ():
            added.cpu_us.add(seat.contender, setting, await _cpu(seat, effort.crowd))


async def _warm(seat: Seat, effort: Effort) -> None:
    if seat.setting.refuses:
        for key in KEYS:  # this is what uses the limits up
            await seat.drive.one(key)
        seat.drive.answered.clear()
    await turn(seat, effort.requests, None)


class Seat:
    """One contender with its app, ready for a turn."""

    def __init__(self, contender: Contender, setting: Setting) -> None:
        self.contender = contender
        self.setting = setting
        limits = SPENT_RISING if setting.refuses and contender.rising else setting.limits
        own = replace(setting, folder=setting.folder / contender.folder_name, limits=limits)
        self.app: Any = contender.build(own)
        self.drive = driver(contender, self.app)
        self.again = 0

    def drain(self) -> None:
        """Wait for what is done in the background."""
        self.contender.hook("drain")(self.app)

    async def leave(self) -> None:
        """Let go of what belongs to the running loop."""
        leave = self.contender.hook("leave")(self.app)
        if leave is not None:
            await leave

    def close(self) -> None:
        """Be done."""
        self.contender.hook("close")(self.app)

    def was_good(self) -> bool:
        """Whether the turn was what it should be; asked once, after it."""
        answers = self.drive.answered
        refused = self.setting.refuses and not self.contender.bare
        statuses = [status for status, fields in answers if refused or fields == self.contender.fields]
        good, total = statuses.count(429 if refused else 200), len(answers)
        answers.clear()
        if good >= total * _ENOUGH:
            return True
        self.again += 1
        if self.again > _TRIES:
            raise WrongError(f"{self.contender.title}: only {good} of {total} answers were good, again")
        return False


async def turn(seat: Seat, requests: int, witness: Witness | None) -> tuple[list[int], Asked | None]:
    """Give the ns of each request of one turn; what it left to do in the background does not outlast it."""
    keys = KEYS[:1] if seat.setting.refuses else KEYS  # what is refused is a flood
    while True:
        gc.collect()
        before = None if witness is None else witness.look()
        taken = [await seat.drive.one(key) for _, key in zip(range(requests), cycle(keys), strict=False)]
        seat.drain()
        asked = None if witness is None or before is None else witness.look() - before
        if seat.was_good():
            return taken, asked


async def _cpu(seat: Seat, crowd: int) -> float:
    """Give the CPU time of one request, with all that follows from it in this process."""
    while True:
        gc.collect()
        begin = time.process_time_ns()
        await seat.drive.crowd(crowd)
        seat.drain()
        taken = time.process_time_ns() - begin
        if seat.was_good():
            return taken / (crowd // WIDTH * WIDTH) / 1_000
