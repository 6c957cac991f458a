"""Who admits more than a limit allows: printed beside speed, so that nobody wins by being wrong.

Four processes share one limit, and many clients of one key hammer them. As many as the limit are to be
admitted: more is a limit that does not hold, fewer one that refuses what was paid for.
"""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.load import Hammered, creep, hammer
from bench.serving import every_core, serving
from bench.workload import Limit, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from bench.contenders import Contender
    from bench.serving import Server
    from bench.workload import Store

WORKERS = 4
KEY = "bench-hammered"


@dataclass(frozen=True, slots=True)
class Effort:
    """The limit, over so many clients, and how many requests."""

    limit: int
    clients: int
    requests: int


HAMMERED = Effort(1_000, 128, 2_000)
EXACT = Effort(10_000, 256, 12_000)


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender let pass."""

    contender: Contender
    store: str
    limit: int
    told: Hammered


def measure(contenders: Iterable[Contender], store: Store, folder: Path, effort: Effort) -> list[Row]:
    """Hammer everyone in turn, each with a key of its own."""

    def hammered(server: Server, key: str) -> Hammered:
        return hammer(server.port, key, connections=effort.clients, requests=effort.requests)

    return [
        _row(each, store, folder / f"admitted-{each.folder_name}", effort, hammered)
        for each in contenders
        if each.has_server and not each.bare
    ]


def crept(contender: Contender, store: Store, folder: Path, effort: Effort) -> Row:
    """Find how much of its limit one contender admits before it refuses anything."""

    def creeping(server: Server, key: str) -> Hammered:
        return creep(server.port, key, connections=effort.clients, limit=effort.limit)

    return _row(contender, store, folder / "crept", effort, creeping)


def killed(contender: Contender, store: Store, folder: Path, effort: Effort) -> Row:
    """Hammer one contender, and kill a process of its server again and again (SIGKILL); others take over."""

    def harmed(server: Server, key: str) -> Hammered:
        return hammer(
            server.port,
            key,
            connections=effort.clients,
            requests=effort.requests,
            disturb=lambda: _kill_one(server),
        )

    return _row(contender, store, folder / "killed", effort, harmed)


def _row(
    contender: Contender,
    store: Store,
    folder: Path,
    effort: Effort,
    ask: Callable[[Server, str], Hammered],
) -> Row:
    folder.mkdir(parents=True)
    setting = Setting((Limit(effort.limit, "day"),), store, folder, workers=WORKERS)
    with serving(contender, setting, every_core()) as server:
        return Row(contender, store.name, effort.limit, ask(server, f"{KEY}-{folder.name}"))


def _kill_one(server: Server) -> None:
    """Kill a process that made an app, if any of them still lives."""
    known = server.processes()
    for process in random.sample(known, len(known)):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
        return
