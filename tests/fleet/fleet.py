"""A fleet of real workers on free ports, and the clients that press on it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent

UVICORN = ("uvicorn", "apps:asgi", "--port", "{port}", "--log-level", "warning")
GUNICORN = ("gunicorn", "apps:wsgi", "--bind", "127.0.0.1:{port}", "-k", "gthread", "--log-level", "warning")


def policy_file(folder: Path, store: str, limits: str, more: str = "", *, deadline: str = "10s") -> Path:
    """Write a policy whose default plan has `limits`.

    Its deadline is long: two cores are slow for many workers and clients, and 503 is no count.
    """
    path = folder / "meter.yaml"
    path.write_text(
        f"""
version: 1
service: fleet
store: {store}
identity: {{secret: "${{METER_KEY_SECRET}}"}}
plans: {{default: {{limits: {limits}}}}}
events: {{journal: {folder / "journal"}, sinks: [{{file: {folder / "usage.jsonl"}}}]}}
on_store_failure: {{deadline: {deadline}}}
{more}
"""
    )
    return path


@contextmanager
def serving(command: tuple[str, ...], policy: Path, *options: str) -> Iterator[int]:
    """Run a server until the block ends, and give its port."""
    port = free_port()
    environment = os.environ | {"METER_POLICY": str(policy), "METER_KEY_SECRET": "s" * 32}
    arguments = [word.format(port=port) for word in (*command, *options)]
    server = subprocess.Popen([sys.executable, "-m", *arguments], cwd=HERE, env=environment)
    try:
        asyncio.run(_ready(port, server))
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


async def _ready(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            await ask(port, "ready")
        except (OSError, EOFError):
            assert server.poll() is None, "the server has not started"
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        else:
            return


async def ask(port: int, key: str) -> int:
    """Send one request on a connection of its own, and give its status once the body has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"GET /hello HTTP/1.1\r\nHost: t\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.read()
        if not answer:
            raise EOFError
        return int(answer.split(b" ", 2)[1])
    finally:
        writer.close()


async def press(ports: list[int], key: str, *, clients: int, requests: int) -> Counter[int]:
    """Have `clients` send `requests` together, spread over `ports`; give how often each status came."""
    numbers = iter(range(requests))

    async def client() -> Counter[int]:
        mine: Counter[int] = Counter()
        for number in numbers:
            mine[await ask(ports[number % len(ports)], key)] += 1
        return mine

    return sum(await asyncio.gather(*(client() for _ in range(clients))), Counter[int]())


def events_by_subject(usage: Path) -> Counter[str]:
    """Count the delivered events of each subject, by distinct id."""
    events = {event["id"]: event["subject"] for event in map(json.loads, usage.read_text().splitlines())}
    return Counter(events.values())
