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
    from bench.drive import Driver
    from bench.workload import Setting

_ENOUGH = 0.9
"""Good answers that make a turn count; medians do not see the others."""


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


def measure(contenders: list[Contender], settings: list[Setting], effort: Effort) -> Added:
    """Measure everyone in every setting."""
    added = Added()
    for setting in settings:
        asyncio.run(_measure(contenders, setting, effort, added))
    return added


async def _measure(contenders: list[Contender], setting: Setting, effort: Effort, added: Added) -> None:
    for each in contenders:
        await probe(each, replace(setting, folder=setting.folder / "probe"))
    apps = {each: each.build(_own(each, setting)) for each in contenders}
    drivers = {each: driver(each, app) for each, app in apps.items()}
    for each, drive in drivers.items():
        await _turn(each, drive, effort.requests)
        await _cpu(each, drive, apps[each], effort.crowd)
    for _ in range(effort.rounds):
        for each, drive in drivers.items():
            added.time_us.add(each, setting, await _turn(each, drive, effort.requests))
            each.hook("drain")(apps[each])
        for each, drive in drivers.items():
            added.cpu_us.add(each, setting, await _cpu(each, drive, apps[each], effort.crowd))
    for each, app in apps.items():
        each.hook("close")(app)


def _own(contender: Contender, setting: Setting) -> Setting:
    return replace(setting, folder=setting.folder / contender.base / setting.title.replace(", ", "-"))


async def _turn(contender: Contender, drive: Driver, requests: int) -> float:
    """Give the median of one turn."""
    gc.collect()
    taken = [await drive.one(key) for _, key in zip(range(requests), cycle(KEYS), strict=False)]
    _check(contender, drive)
    return statistics.median(taken) / 1_000


async def _cpu(contender: Contender, drive: Driver, app: Any, crowd: int) -> float:
    """Give the CPU time of one request, with all that follows from it in this process."""
    gc.collect()
    begin = time.process_time_ns()
    await drive.crowd(crowd)
    contender.hook("drain")(app)
    taken = time.process_time_ns() - begin
    _check(contender, drive)
    return taken / (crowd // WIDTH * WIDTH) / 1_000


def _check(contender: Contender, drive: Driver) -> None:
    """See that the turn was what it should be; a store may have been too slow for a few of its requests."""
    good = drive.answered.count((200, contender.fields))
    if good < len(drive.answered) * _ENOUGH:
        raise WrongError(f"{contender.title}: only {good} of {len(drive.answered)} answers were good")
    drive.answered.clear()
