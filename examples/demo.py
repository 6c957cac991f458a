"""Show the main job on real servers: count, limit, answer and forward, then add up the bill.

Runs the FastAPI example under uvicorn and the Flask example under gunicorn on free ports, talks to each
over HTTP as two customers, compares what they sent and received with the usage events, and previews what
they owe by the prices of the examples: both servers record to one journal and one ledger.
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
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
FIELDS = {"requests": "requests", "ingress": "request_bytes", "egress": "response_bytes", "tokens": "tokens"}
"""The meters of the examples, and where an event has the units of each."""

METERS = (*FIELDS.values(),)
SHOWN = """\
Two apps with one line of metering each, two customers, real servers and real HTTP. It shows what customers
read in answers and refusals, that their own count is the one in the usage events, and what they owe by the
prices in examples/fastapi_app/meter.yaml: each line with its arithmetic, and a total that adds up.
"""

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
def serving(folder: Path, command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Run a server on a free port until the block ends; it has delivered its events by then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
    """A client with a key, who keeps a count of its own."""

    def __init__(self, subject: str, key: str) -> None:
        self.subject = subject
        self.count: Counter[str] = Counter()
        self._http = httpx.Client(headers={"X-API-Key": key, "Accept-Encoding": "identity"})

    def call(self, method: str, url: str, *, costs: int = 1, **content: object) -> httpx.Response:
        request = self._http.build_request(method, url, **content)  # type: ignore[arg-type]
        response = self._http.send(request)
        if response.status_code < 400:
            self.count["requests"] += costs
            self.count["request_bytes"] += len(request.read())
            self.count["response_bytes"] += len(response.content)
            if url.endswith("/v1/complete"):
                self.count["tokens"] += response.json()["tokens"]
        return response


def show(response: httpx.Response) -> None:
    """Print an answer as it came: status, limit fields, body."""
    print(f"  HTTP {response.status_code} {response.reason_phrase}")
    for name in ("RateLimit-Policy", "RateLimit", "Retry-After", "Content-Type"):
        if name in response.headers:
            print(f"  {name}: {response.headers[name]}")
    print(f"  {response.text.strip()}\n")


def traffic(base: str, acme: Customer, globex: Customer) -> None:
    """Talk to the API as two customers, one of whom goes too fast."""
    print("An allowed answer, with where the key stands:")
    show(globex.call("GET", f"{base}/v1/items/7"))

    response = globex.call("GET", f"{base}/v1/items/8")
    while response.status_code != 429:
        response = globex.call("GET", f"{base}/v1/items/8")
    print("The burst is used up, and the refusal says when to come back:")
    show(response)

    wait = int(response.headers["Retry-After"])
    time.sleep(wait)
    print(f"After {wait} s the same request is admitted:")
    show(globex.call("GET", f"{base}/v1/items/8"))

    for words in ("how many tokens is this", "four score and seven " * 400):
        acme.call("POST", f"{base}/v1/complete", json={"text": words})
    acme.call("POST", f"{base}/v1/search", costs=5, content=b"red shoes")
    acme.call("PUT", f"{base}/v1/files/a/b.bin", content=b"x" * 700_000)
    acme.call("GET", f"{base}/v1/export")


def settle_up(customers: list[Customer], events: Path) -> bool:
    """Print each customer's own count beside the sum of the events, and say whether all agree."""
    billed: dict[str, Counter[str]] = {each.subject: Counter() for each in customers}
    for line in events.read_text().splitlines():
        event = json.loads(line)
        billed[event["subject"]].update({meter: event["data"].get(meter, 0) for meter in METERS})
    print("== Both servers ==\n")
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


def invoice(customer: Customer, environment: dict[str, str]) -> bool:
    """Preview what a customer owes, and say whether it is what was counted, and adds up."""
    command = f"meter-mw invoice {customer.subject} --preview"
    print(f"$ {command}\n{run(command, environment)}")
    (bill,) = json.loads(run(f"{command} --format json", environment))["invoices"]
    billed: Counter[str] = Counter()
    for line in bill["lines"]:
        if line["meter"]:
            billed[FIELDS[line["meter"]]] += int(line["quantity"])
    amounts = [line["amount"] for line in bill["lines"]]
    right = sum(map(Decimal, amounts)) == Decimal(bill["total"])
    right = right and all(customer.count[meter] == units for meter, units in billed.items())
    due = f"{bill['total']} {bill['currency']}"
    print(f"By hand: {' + '.join(amounts)} = {due}, for what the client counted:")
    units = ", ".join(f"{units:,} {meter}" for meter, units in billed.items())
    print(f"  {units}: {'right' if right else 'WRONG'}\n")
    return right


def run(command: str, environment: dict[str, str]) -> str:
    """Give what a command of ours prints, by the policy of the examples."""
    words = [sys.executable, "-m", "meter_mw", *command.split()[1:]]
    return subprocess.run(
        words, cwd=HERE / "fastapi_app", env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def main() -> int:
    print(SHOWN)
    acme, globex = Customer("acme", "acme-try-me"), Customer("globex", "globex-try-me")
    with tempfile.TemporaryDirectory(prefix="meter-mw-demo-") as scratch:
        events = Path(scratch) / "usage.jsonl"
        environment = os.environ | {
            "METER_POLICY": "meter.yaml",  # of the folder of each example
            "METER_STORE": "memory://",
            "METER_KEY_SECRET": secrets.token_hex(16),
            "METER_JOURNAL": str(Path(scratch) / "meter"),
            "METER_EVENTS": str(events),
        }
        for title, (folder, command) in SERVERS.items():
            print(f"== {title} ==\n")
            with serving(folder, command, environment) as base:
                traffic(base, acme, globex)
        right = settle_up([acme, globex], events)
        for each in (acme, globex):
            right = invoice(each, environment) and right
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
