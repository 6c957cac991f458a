"""One busy key: about a thousand requests a second of it, with pauses between, as one customer makes them.

This is where leases pay, and where their share of round trips is told. Everyone takes turns; each turn has
a fresh app, so that nobody's background is in another's way.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.asked import Witness
from bench.inprocess import Seat

if TYPE_CHECKING:
    from bench.contenders import Contender
    from bench.inprocess import Added
    from bench.workload import Setting

KEY = "bench-busy-key"
_WARM = 400
"""Requests at the same pace before anything is noted."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long it goes on: rounds, and requests of one turn."""

    rounds: int
    requests: int


def measure(contenders: list[Contender], setting: Setting, effort: Effort, added: Added) -> None:
    """Note everyone's turns in `added`, under the title of the setting."""
    asyncio.run(_measure([each for each in contenders if each.fits(setting)], setting, effort, added))


async def _measure(contenders: list[Contender], setting: Setting, effort: Effort, added: Added) -> None:
    with Witness(str(setting.redis)) as witness:
        for _ in range(effort.rounds):
            for each in contenders:
                witness.forget_all()
                async with AsyncExitStack() as stack:
                    seat = Seat(each, setting)
                    stack.callback(seat.close)
                    stack.push_async_callback(seat.leave)
                    await _paced(seat, _WARM)
                    seat.drain()
                    seat.drive.answered.clear()
                    await _paced(seat, _WARM // 4)  # what was lent before is given back by draining
                    before = witness.look()
                    taken = await _paced(seat, effort.requests)
                    asked = witness.look() - before
                    added.note(seat, taken, asked)


async def _paced(seat: Seat, requests: int) -> list[int]:
    begin, taken = time.perf_counter(), []
    for number in range(requests):
        early = begin + number / seat.setting.paced - time.perf_counter()
        if early > 0:
            await asyncio.sleep(early)
        taken.append(await seat.drive.one(KEY))
    return taken
