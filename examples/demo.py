"""Show the main job on real servers: count, limit, answer and forward, then add up the bill.

Runs the FastAPI example under uvicorn and the Flask example under gunicorn on free ports, talks to each
over HTTP as two customers, and compares what the client sent and received with the usage events.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
METERS = ("requests", "request_bytes", "response_bytes", "tokens")
SERVERS = {
    "FastAPI under uvicorn": (
        HERE / "fastapi_app",
        ["uvicorn", "app:app", "--port", "{port}", "--log-level", "error"],
    ),
    "Flask under gunicorn": (
        HERE / "flask_app",
        ["gunicorn", "app:app", "--bind", "127.0.0.1:{port}", "--log-level", "error"],
    ),
}


@contextmanager
def serving(folder: Path, command: list[str], events: Path) -> Iterator[str]:
    """Run a server on a free port until the block ends; it has delivered its events by then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "METER_KEY_SECRET": secrets.token_hex(16),
        "METER_JOURNAL": str(events.with_suffix(".journal")),
        "METER_EVENTS": str(events),
    }
    arguments = [word.format(port=port) for word in command]
    server = subprocess.Popen([sys.executable, "-m", *arguments], cwd=folder, env=environment)
    base = f"http://127.0.0.1:{port}"
    try:
        await_server(server, f"{base}/health")
        yield base
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=20)


def await_server(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the server answers; give up at once if it has died."""
    while server.poll() is None:
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    sys.exit("the server did not start; what it said stands above")


class Customer:
    """A client with a key, who keeps a count of his own."""

    def __init__(self, base: str, subject: str, key: str) -> None:
        self.subject = subject
        self.count: Counter[str] = Counter()
        self._http = httpx.Client(base_url=base, headers={"X-API-Key": key, "Accept-Encoding": "identity"})

    def call(self, method: str, path: str, *, costs: int = 1, **content: object) -> httpx.Response:
        request = self._http.build_request(method, path, **content)  # type: ignore[arg-type]
        response = self._http.send(request)
        if response.status_code < 400:
            self.count["requests"] += costs
            self.count["request_bytes"] += len(request.read())
            self.count["response_bytes"] += len(response.content)
            if path == "/v1/complete":
                self.count["tokens"] += response.json()["tokens"]
        return response


def show(response: httpx.Response) -> None:
    """Print an answer as it came: status, limit fields, body."""
    print(f"  HTTP {response.status_code} {response.reason_phrase}")
    for name in ("RateLimit-Policy", "RateLimit", "Retry-After", "Content-Type"):
        if name in response.headers:
            print(f"  {name}: {response.headers[name]}")
    print(f"  {response.text.strip()}\n")


def traffic(base: str) -> list[Customer]:
    """Talk to the API as two customers, one of whom goes too fast."""
    acme = Customer(base, "acme", "acme-try-me")
    globex = Customer(base, "globex", "globex-try-me")
    print("An allowed answer, with where the key stands:")
    show(globex.call("GET", "/v1/items/7"))

    response = globex.call("GET", "/v1/items/8")
    while response.status_code != 429:
        response = globex.call("GET", "/v1/items/8")
    print("The burst is used up, and the refusal says when to come back:")
    show(response)

    wait = int(response.headers["Retry-After"])
    time.sleep(wait)
    print(f"After {wait} s the same request is admitted:")
    show(globex.call("GET", "/v1/items/8"))

    for words in ("how many tokens is this", "four score and seven"):
        acme.call("POST", "/v1/complete", json={"text": words})
    acme.call("POST", "/v1/search", costs=5, content=b"red shoes")
    acme.call("PUT", "/v1/files/a/b.bin", content=b"x" * 100_000)
    acme.call("GET", "/v1/export")
    return [acme, globex]


def settle_up(customers: list[Customer], events: Path) -> bool:
    """Print each customer's own count beside the sum of the events, and say whether all agree."""
    billed: dict[str, Counter[str]] = {each.subject: Counter() for each in customers}
    for line in events.read_text().splitlines():
        event = json.loads(line)
        billed[event["subject"]].update({meter: event["data"].get(meter, 0) for meter in METERS})
    print("Usage by key and meter, as the client counted it and as the events say:")
    print(f"  {'key':8} {'meter':16} {'client':>10} {'events':>10}")
    equal = True
    for each in customers:
        for meter in METERS:
            ours, theirs = each.count[meter], billed[each.subject][meter]
            equal = equal and ours == theirs
            verdict = "" if ours == theirs else "  DIFFERENT"
            print(f"  {each.subject:8} {meter:16} {ours:>10,} {theirs:>10,}{verdict}")
    print("  all equal\n" if equal else "  NOT EQUAL\n")
    return equal


def main() -> int:
    equal = True
    with tempfile.TemporaryDirectory(prefix="meter-mw-demo-") as scratch:
        for title, (folder, command) in SERVERS.items():
            print(f"== {title} ==\n")
            events = Path(scratch) / f"{folder.name}.jsonl"
            with serving(folder, command, events) as base:
                customers = traffic(base)
            equal = settle_up(customers, events) and equal
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
