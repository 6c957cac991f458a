"""Real servers of an app: uvicorn or gunicorn, with so many processes on the cores that they are given."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contenders import ALL
from bench.redis_server import free_port, stop, wait_for
from bench.served import READY, VARIABLE, described
from bench.workload import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.contenders import Contender, Edge
    from bench.workload import Setting

THREADS = 8
CONNECTIONS: dict[Edge, int] = {"asgi": 64, "wsgi": 32}

_PATIENCE_S = 60.0

_LINES: dict[Edge, str] = {
    "asgi": (
        "-m uvicorn --factory bench.served:app --host {host} --port {port} --log-level critical "
        "--no-access-log --workers {workers}"
    ),
    "wsgi": (
        "-m gunicorn bench.served:app() --bind {host}:{port} --log-level critical "
        "--worker-class gthread --workers {workers} --threads {threads} --keep-alive 60"
    ),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready: its port, and the folder in which its processes tell of themselves."""

    port: int
    folder: Path

    def processes(self) -> list[int]:
        """Give the processes that have made an app, by their ids, the oldest first."""
        files = sorted(self.folder.glob(f"{READY}*"), key=lambda file: file.stat().st_mtime_ns)
        return [int(file.name.removeprefix(READY)) for file in files]


@contextmanager
def serving(contender: Contender, setting: Setting, cores: list[int]) -> Iterator[Server]:
    """Run a server whose processes are all there; `cores` are theirs."""
    server = Server(free_port(), Path(tempfile.mkdtemp(dir=setting.folder)))
    line = _LINES[contender.edge].format(
        host=HOST, port=server.port, threads=THREADS, workers=setting.workers
    )
    with (server.folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *line.split()],
            cwd=Path(__file__).parents[1],
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "HOME": str(server.folder),  # gunicorn keeps a control socket there
                VARIABLE: described(ALL.index(contender), replace(setting, folder=server.folder), cores),
            },
        )
    try:
        wait_for(server.port, process, _PATIENCE_S)
        _wait_for_all(server, setting.workers, process)
        yield server
    finally:
        stop(process)


def _wait_for_all(server: Server, workers: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while len(server.processes()) < workers:
        if process.poll() is not None or time.monotonic() > end:
            told = (server.folder / "server.log").read_text(errors="replace")[-2_000:]
            raise RuntimeError(f"only {len(server.processes())} of {workers} processes came up: {told}")
        time.sleep(0.02)


def every_core() -> list[int]:
    """Give the cores that this run has, whichever of them this process is on."""
    return sorted(_ALL_CORES)


def server_cores() -> list[int]:
    """Give the core that is the server's alone, where there is more than one and it can be had."""
    cores = every_core()
    return cores[-1:] if len(cores) > 1 else []


def leave_server_core() -> None:
    """Keep this process, and what it starts from now on, off the server's core."""
    cores = every_core()
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:-1])


_ALL_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
