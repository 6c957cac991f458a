"""A billing backend that fails as they do, and dedupes by id; it remembers all that it was sent."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODES = ("well", "well", "error", "busy", "hangs up", "half", "slow")
"""What it may do with a request; `hangs up` after it has stored everything, `half` stores the first half."""


class Backend:
    """Listens on `port`; `mode` is what it does next. `events` has what it has, each id once."""

    def __init__(self, seed: int) -> None:
        self.mode = "well"
        self.events: dict[str, dict[str, Any]] = {}
        self.sent: Counter[str] = Counter()
        self.conflicts: list[str] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = backend.take(batch)
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def take(self, batch: list[dict[str, Any]]) -> int | None:
        """Do with a batch as the mode says, and give the status; None where no answer comes."""
        mode = self.mode
        if mode == "slow":
            time.sleep(self._random.uniform(0.1, 0.5))
        if mode in ("error", "busy"):
            return 500 if mode == "error" else 429
        with self._lock:
            for event in batch[: len(batch) // 2] if mode == "half" else batch:
                self._store(event)
        if mode == "half":
            return 500
        return None if mode == "hangs up" else 200

    def _store(self, event: dict[str, Any]) -> None:
        name = event["id"]
        self.sent[name] += 1
        known = self.events.setdefault(name, event)
        if known != event:
            self.conflicts.append(name)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
