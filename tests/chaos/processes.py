"""What is killed and frozen: workers, the forwarder, Redis with its append-only file, and the way to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support.proxy import FaultProxy
from support.servers import RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent


class Process:
    """A program that can be killed, frozen and started again."""

    def __init__(self, name: str, words: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self._words = [sys.executable, "-m", *words]
        self._environment = os.environ | environment
        self._log = log
        self._running: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._running is None:
            with self._log.open("ab") as log:
                self._running = subprocess.Popen(
                    self._words, cwd=HERE, env=self._environment, stdout=log, stderr=log
                )

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._running is not None:
            self.thaw()
            self._running.kill()
            self._running.wait()
            self._running = None

    def freeze(self) -> None:
        """Keep it from running."""
        if self._running is not None:
            self._running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run on."""
        if self._running is not None:
            self._running.send_signal(signal.SIGCONT)

    def end(self, patience: float) -> bool:
        """Ask it to end, and say whether it did in time; it is killed otherwise."""
        if self._running is None:
            return True
        self.thaw()
        self._running.send_signal(signal.SIGTERM)
        try:
            self._running.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self._running = None
        return True


class Worker(Process):
    """A server with one worker of the metered app."""

    def __init__(self, number: int, environment: dict[str, str], log: Path) -> None:
        self.port = free_port()
        words = ("uvicorn", "apps:app", "--port", str(self.port), "--log-level", "warning")
        super().__init__(f"worker {number}", words, environment, log)

    def wait(self, patience: float) -> None:
        """Wait until it answers."""
        end = time.monotonic() + patience
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


class ChaoticRedis(RedisServer):
    """Redis with an append-only file, which can come back as it was a while ago."""

    def __init__(self) -> None:
        super().__init__("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction")
        self._copy = Path(f"{self.folder}-copy")

    def copy(self) -> None:
        """Note the data as they are."""
        shutil.rmtree(self._copy, ignore_errors=True)
        with contextlib.suppress(shutil.Error, FileNotFoundError):  # a file may vanish while it is rewritten
            shutil.copytree(self.folder, self._copy, ignore=shutil.ignore_patterns("s", "log", "redis.conf"))

    def roll_back(self) -> None:
        """Come back with the data that were noted, as a failover to a lagging replica does."""
        if not self._copy.exists():
            return
        self.kill()
        for path in Path(self.folder).iterdir():
            if path.name not in ("log", "redis.conf"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self._copy, self.folder, dirs_exist_ok=True)
        self.start()

    def crash(self) -> None:
        """Be killed, and come back with what the append-only file has."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it and remove its files."""
        super().stop()
        shutil.rmtree(self._copy, ignore_errors=True)


class Way(FaultProxy):
    """The way to Redis. While `repeats` is set, what is sent over a new connection arrives twice.

    The second copy goes over a connection of its own, whose answers nobody hears: a zombie's commands.
    """

    repeats = False

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        twin: socket.socket | None = None
        with contextlib.suppress(OSError):
            if self.repeats:
                twin = socket.create_connection(self._target)
                twin.setblocking(False)
            while data := client.recv(65536):
                server.sendall(data)
                if twin is not None:
                    with contextlib.suppress(OSError):
                        twin.send(data)
                        twin.recv(1 << 20)
        if twin is not None:
            twin.close()
        self._end(client, server)
