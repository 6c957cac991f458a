"""The memory that a process takes for many subjects: each contender in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contenders import ALL
from bench.inprocess import Seat

if TYPE_CHECKING:
    from bench.contenders import Contender
    from bench.workload import Setting

PER = 100_000
_FIRST = 200
"""Requests before the first look, so that what is loaded once is there."""


def measure(
    contenders: list[Contender], settings: list[Setting], subjects: int
) -> dict[tuple[Contender, str], float]:
    """Give the bytes of process memory for 100,000 subjects, of everyone in every setting."""
    asked = [(each, setting) for setting in settings for each in contenders if each.fits(setting)]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawned, max_tasks_per_child=1) as pool:
        grown = pool.map(
            _grown,
            [ALL.index(each) for each, _ in asked],
            [setting for _, setting in asked],
            [subjects] * len(asked),
        )
        return {
            (each, setting.title): taken * PER / subjects
            for (each, setting), taken in zip(asked, grown, strict=True)
        }


def _grown(place: int, setting: Setting, subjects: int) -> int:
    return asyncio.run(_grow(ALL[place], setting, subjects))


async def _grow(contender: Contender, setting: Setting, subjects: int) -> int:
    """Make one request of each subject; give how much larger the process is afterwards."""
    seat = Seat(contender, setting)
    try:
        for number in range(_FIRST):
            await seat.drive.one(f"first-{number}")
        before = _resident(seat)
        for number in range(subjects):
            await seat.drive.one(f"subject-{number:07}")
            seat.drive.answered.clear()
        return _resident(seat) - before
    finally:
        await seat.leave()
        seat.close()


def _resident(seat: Seat) -> int:
    """Give the resident bytes of this process, when nothing waits and nothing is garbage."""
    seat.drain()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
