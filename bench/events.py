"""What recording each request costs, beside those who sell that: in a process of its own, limiting nothing.

Moesif and Apitally leave threads, log handlers and exporters in their process, so that nobody else is timed
in it. They send once in a second or later: what of that falls outside their turns is not held against them.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from bench import inprocess
from bench.contenders import EVENTS
from bench.event_sink import VARIABLE, event_sink, taken
from bench.workload import MEMORY, Setting, Store

if TYPE_CHECKING:
    from pathlib import Path

    from bench.inprocess import Added, Effort

_PATIENCE_S = 20.0
"""Apitally sends for the first time after 2 s, then every 15 s."""


class LostEventsError(Exception):
    """One that is timed for recording requests, and of which nothing arrived."""


def setting(folder: Path) -> Setting:
    """Give the setting: no limits at all."""
    return Setting((), Store(MEMORY, None), folder)


def measure(folder: Path, effort: Effort) -> Added:
    """Measure everyone, and see that something arrived of each."""
    spawned = multiprocessing.get_context("spawn")
    with event_sink() as url, ProcessPoolExecutor(1, mp_context=spawned) as pool:
        return pool.submit(_measure, url, folder, effort).result()


def _measure(url: str, folder: Path, effort: Effort) -> Added:
    os.environ[VARIABLE] = url
    added = inprocess.measure(list(EVENTS), [setting(folder)], effort)
    expected = {each.name.lower() for each in EVENTS if not each.bare}
    end = time.monotonic() + _PATIENCE_S
    while missing := expected - taken(url).keys():
        if time.monotonic() > end:
            raise LostEventsError(f"nothing arrived from {', '.join(sorted(missing))}")
        time.sleep(0.1)
    return added
