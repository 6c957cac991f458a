"""Requests per second of real servers: each turn has a fresh server with one worker, on a core of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contenders import ALL
from bench.figures import Figures
from bench.load import generate
from bench.redis_server import free_port, stop, wait_for
from bench.served import VARIABLE, described
from bench.workload import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.contenders import Contender, Edge
    from bench.workload import Setting

THREADS = 8
CONNECTIONS: dict[Edge, int] = {"asgi": 64, "wsgi": 32}

_UVICORN = (
    "-m uvicorn --factory bench.served:app --host {host} --port {port} --log-level warning --no-access-log"
)
_GUNICORN = (
    "-m gunicorn bench.served:app() --bind {host}:{port} --log-level warning "
    "--worker-class gthread --workers 1 --threads {threads} --keep-alive 60"
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long it goes on: rounds, and requests in each turn after a warm-up."""

    rounds: int
    warmup: int
    requests: int


class Served:
    """What came of it: requests per second, and how busy the load generator was at most."""

    def __init__(self) -> None:
        self.per_second = Figures()
        self.busiest = 0.0
        self.amiss: dict[str, float] = {}
        """The largest share of answers that were not good, where there were any; they were not counted."""

    def measure(self, contenders: list[Contender], settings: list[Setting], effort: Effort) -> None:
        """Have everyone take a turn in every setting, round after round."""
        for _ in range(effort.rounds):
            for setting in settings:
                for each in contenders:
                    self._turn(each, setting, effort)

    def _turn(self, contender: Contender, setting: Setting, effort: Effort) -> None:
        with _running(contender, setting) as port:
            outcome = generate(
                port,
                connections=CONNECTIONS[contender.edge],
                warmup=effort.warmup,
                requests=effort.requests,
                fields=contender.fields,
            )
        self.per_second.add(contender, setting, outcome.per_second)
        self.busiest = max(self.busiest, outcome.busy)
        if outcome.amiss:
            name = f"{contender.title} ({setting.title})"
            self.amiss[name] = max(self.amiss.get(name, 0), outcome.amiss)


@contextmanager
def _running(contender: Contender, setting: Setting) -> Iterator[int]:
    port = free_port()
    folder = Path(tempfile.mkdtemp(dir=setting.folder))
    line = _UVICORN if contender.edge == "asgi" else _GUNICORN
    command = [part.format(host=HOST, port=port, threads=THREADS) for part in line.split()]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=Path(__file__).parents[1],
        env={
            **os.environ,
            "HOME": str(folder),  # gunicorn keeps a control socket there
            VARIABLE: described(ALL.index(contender), replace(setting, folder=folder), server_cores()),
        },
    )
    try:
        wait_for(port, process)
        yield port
    finally:
        stop(process)


def server_cores() -> list[int]:
    """Give the core that is the server's alone, where there is more than one and it can be had."""
    cores = _cores()
    return cores[-1:] if len(cores) > 1 else []


def leave_server_core() -> None:
    """Keep this process, and what it starts from now on, off the server's core."""
    cores = _cores()
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:-1])


def _cores() -> list[int]:
    return sorted(_ALL_CORES)


_ALL_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
