"""Takes whatever is posted to it and answers at once; a process of its own, in place of a vendor's cloud.

What each sender is known by is the first part of the path; how many bytes came from it can be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from bench.redis_server import free_port, stop, wait_for
from bench.workload import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "BENCH_EVENT_SINK"
"""Names the URL of the sink to those who send."""

_TAKEN = "/taken"
_came: Counter[str] = Counter()
_lock = threading.Lock()


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a body; 201 is what all of them know."""
        body = self._body()
        with _lock:
            _came[self.path.split("/")[1]] += len(body)
        self._answer(201, b"{}")

    def do_GET(self) -> None:
        """Tell what came, or give settings that change nothing."""
        with _lock:
            told = json.dumps(_came).encode()
        self._answer(200, told if self.path == _TAKEN else b"[]" if "rules" in self.path else b"{}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class named it
        """Say nothing."""


@contextmanager
def event_sink() -> Iterator[str]:
    """Run a sink, and give its URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", __name__, str(port)], cwd=Path(__file__).parents[1])
    try:
        wait_for(port, process)
        yield f"http://{HOST}:{port}"
    finally:
        stop(process)


def taken(url: str) -> dict[str, int]:
    """Give the bytes that came from each sender."""
    with urllib.request.urlopen(url + _TAKEN, timeout=10) as answer:
        came: dict[str, int] = json.load(answer)
    return came


if __name__ == "__main__":
    ThreadingHTTPServer((HOST, int(sys.argv[1])), _Sink).serve_forever()
