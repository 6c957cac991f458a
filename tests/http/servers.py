"""Real servers as processes of their own, on free ports, ended by their pids."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policies import VARIANTS, document
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
PATIENCE = 60.0
SECRET = "subject-secret-of-some-length"

_GUNICORN = "gunicorn {app} --bind 127.0.0.1:{port} --workers {workers} --log-level debug --worker-class "
_UVICORN = (
    "uvicorn {app} --host 127.0.0.1 --port {port} --workers {workers} --log-level debug"
    " --ws websockets --http "
)

COMMANDS = {
    "uvicorn-h11": (_UVICORN + "h11", "apps.starlette_app:app"),
    "uvicorn-httptools": (_UVICORN + "httptools", "apps.starlette_app:app"),
    "hypercorn": (
        "hypercorn {app} --bind 127.0.0.1:{port} --log-level debug",
        "apps.starlette_app:app",
    ),
    "uvicorn-fastapi": (_UVICORN + "httptools", "apps.starlette_app:app"),
    "gunicorn-sync": (_GUNICORN + "sync", "apps.flask_app:app"),
    "gunicorn-gthread": (_GUNICORN + "gthread --threads 8", "apps.flask_app:app"),
    "waitress": ("waitress --listen=127.0.0.1:{port} --threads 8 {app}", "apps.flask_app:app"),
    "django-gunicorn": (_GUNICORN + "gthread --threads 8", "apps.django_app:app"),
    "django-uvicorn": (_UVICORN + "h11", "apps.django_app:asgi"),
}
"""The command of each server, and the app that it serves."""

EDGES = {
    "asgi": "uvicorn-h11",
    "wsgi": "gunicorn-gthread",
    "django": "django-gunicorn",
    "adjango": "django-uvicorn",
}
"""The server that stands for each edge where one is enough."""


@dataclass
class Server:
    """A running server; `home` holds its policies, its events and its ledger."""

    name: str
    port: int
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> bytes:
        """Everything that it has said so far."""
        return (self.home / "output.log").read_bytes()

    def events(self, variant: str = "main", about: str = "") -> list[dict[str, object]]:
        """Give the usage events that have reached the sink of a variant, and in which `about` stands."""
        path = self.home / f"events-{variant}.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        # A line may be half written, now or by a process that was killed: the event comes again.
        return [json.loads(line) for line in lines if line.endswith(b"}}") and about.encode() in line]

    def events_of(self, subject: str, count: int, variant: str = "main") -> list[dict[str, object]]:
        """Wait until `subject` has at least `count` events, and give them in the order of their time."""

        def found() -> list[dict[str, object]]:
            return [event for event in self.events(variant, subject) if event["subject"] == subject]

        wait_for(lambda: len(found()) >= count, f"{count} events of {subject} at {self.name}, has {found()}")
        return sorted(found(), key=lambda event: str(event["time"]))

    def ledger(self) -> list[dict[str, object]]:
        """Give what the handlers noted."""
        path = self.home / "ledger.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def workers(self) -> list[int]:
        """Give the processes that it runs below its first."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"resource_tracker" not in _command_of(pid)]

    def kill(self) -> None:
        """End it and all that it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process, and its group if it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()


def _command_of(pid: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def wait_for(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Poll a real process until it has come so far."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience} s for {what}"
        time.sleep(0.01)


def furnish(home: Path, changes: Mapping[str, object] | None = None) -> None:
    """Write the policies and the files that a subject app reads; JSON is YAML too."""
    (home / "policies").mkdir(parents=True)
    for variant in VARIANTS:
        text = json.dumps(document(home, variant) | dict(changes or {}))
        (home / "policies" / f"{variant}.yaml").write_text(text)
    (home / "file.bin").write_bytes(bytes(range(256)) * (200_000 // 256) + b"x" * (200_000 % 256))
    with (home / "big.bin").open("wb") as big:
        big.truncate(100_000_000)


def start(
    name: str,
    home: Path,
    *,
    app: str | None = None,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start a server and wait until it accepts connections."""
    if not (home / "policies").exists():
        furnish(home)
    command, known = COMMANDS[name]
    port = free_port()
    words = command.format(app=app or known, port=port, workers=workers).split()
    settings = {
        **os.environ,
        "PYTHONPATH": f"{SOURCE}{os.pathsep}{HERE}",
        "PYTHONUNBUFFERED": "1",
        "SUBJECT_HOME": str(home),
        "METER_KEY_SECRET": SECRET,
        **({"SUBJECT_FASTAPI": "1"} if name == "uvicorn-fastapi" else {}),
        **(environment or {}),
    }
    with (home / "output.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=home,
            env=settings,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(name, port, home, process)
    wait_for(lambda: _accepts(server), f"{name} to accept; it said {server.output.decode()}")
    return server


def _accepts(server: Server) -> bool:
    assert server.process.poll() is None, f"{server.name} ended: {server.output.decode()}"
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(name: str, home: Path, **options: object) -> Iterator[Server]:
    """Keep a server for one test."""
    server = start(name, home, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.kill()
