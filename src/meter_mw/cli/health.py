"""What the forwarding daemon tells of itself over HTTP: whether it is well, and how each sink is doing."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING

from meter_mw.journal.parked import parked_path, read_parked

if TYPE_CHECKING:
    from pathlib import Path

    from meter_mw.journal.convoy import Convoy
    from meter_mw.journal.courier import Report

UNREACHED = 3
"""Attempts in a row of which nothing was accepted, after which a sink counts as out of reach."""

_LONGEST_ERROR = 200
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far behind a sink may be in a daemon that is ready: events, and seconds."""

    events: int
    seconds: float


class Health:
    """Judges a convoy by its reports. Thread-safe."""

    def __init__(self, convoy: Convoy, bounds: Bounds, directory: Path) -> None:
        self._convoy = convoy
        self._bounds = bounds
        self._directory = directory
        self._lock = threading.Lock()
        self._parked: tuple[tuple[int, int], Counter[str]] = ((0, 0), Counter())

    def lives(self) -> bool:
        """Whether every courier is at work."""
        return self._convoy.alive()

    def status(self) -> dict[str, object]:
        """Tell how each sink is doing; `ready` when each is within bounds and in reach."""
        now, parked = time.time(), self._count_parked()
        sinks = [self._said(report, now, parked[report.sink]) for report in self._convoy.reports()]
        return {"ready": self.lives() and not any(sink["behind"] for sink in sinks), "sinks": sinks}

    def _said(self, report: Report, now: float, parked: int) -> dict[str, object]:
        oldest = report.backlog.oldest
        age = None if oldest is None else max(0.0, round(now - oldest, 3))
        return {
            "sink": report.sink,
            "lag_events": report.backlog.events,
            "oldest_age_s": age,
            "done": report.done,
            "parked": parked,
            "failures": report.failures,
            "last_error": None if report.error is None else report.error[:_LONGEST_ERROR],
            "behind": self._behind(report, age),
        }

    def _behind(self, report: Report, age: float | None) -> str | None:
        """Say why a sink is not as it should be; None where it is."""
        if report.failures >= UNREACHED:
            return f"cannot be reached: {report.failures} attempts in a row failed"
        if report.backlog.events > self._bounds.events:
            return f"more than {self._bounds.events} events wait"
        if age is not None and age > self._bounds.seconds:
            return f"an event waits for more than {self._bounds.seconds:g} s"
        return None

    def _count_parked(self) -> Counter[str]:
        """Count what is parked, by sink; the file is read again only when it has changed."""
        path = parked_path(self._directory)
        with self._lock:
            try:
                found = path.stat()
                if (found.st_mtime_ns, found.st_size) != self._parked[0]:
                    counted = Counter(event.sink for event in read_parked(self._directory))
                    self._parked = (found.st_mtime_ns, found.st_size), counted
            except OSError:
                return Counter()
            return self._parked[1]


class HealthServer(ThreadingHTTPServer):
    """Serves GET /healthz and /readyz (200 or 503), and /status as JSON."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], health: Health) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        self.health = health
        super().__init__(address, _Handler)

    def start(self) -> None:
        """Serve, in a thread of its own."""
        threading.Thread(target=self.serve_forever, name="meter-mw-health", daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    server: HealthServer

    def do_GET(self) -> None:
        """Answer one of the three."""
        health = self.server.health
        match self.path.partition("?")[0]:
            case "/healthz":
                lives = health.lives()
                self._answer(200 if lives else 503, {"alive": lives})
            case "/readyz":
                status = health.status()
                self._answer(200 if status["ready"] else 503, status)
            case "/status":
                self._answer(200, health.status())
            case _:
                self._answer(404, {"expected": ["/healthz", "/readyz", "/status"]})

    def _answer(self, status: int, said: object) -> None:
        body = json.dumps(said).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Probes are not news."""
