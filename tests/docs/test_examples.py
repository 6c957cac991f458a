"""Each example runs by the line in its README, and meters what it serves."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from meter_mw.journal import Entry, read_journal
from support.servers import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES = [
    (page.parent.name, line)
    for page in sorted(EXAMPLES.glob("*/README.md"))
    for line in [*page.read_text().splitlines(), "uvicorn app:asgi" if "app:asgi" in page.read_text() else ""]
    if line.startswith(("uvicorn ", "gunicorn "))
]


@pytest.mark.parametrize(("name", "line"), LINES)
def test_an_example_runs_by_its_line(name: str, line: str, tmp_path: Path) -> None:
    """Started in its folder, it answers with its limits, and its event is there when it has stopped."""
    folder = shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("var"))
    port = free_port()
    words = shlex.split(line.replace("8000", str(port)))
    if str(port) not in " ".join(words):
        words += ["--port", str(port)]
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    server = subprocess.Popen(words, cwd=folder, env=environ)
    try:
        answer = first_answer(f"http://127.0.0.1:{port}", server)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=20)
    assert answer.status_code == 200
    assert answer.json()["tokens"] == 3
    assert '"requests-per-second";r=199' in answer.headers["RateLimit"]
    assert tokens_in(folder / "var") == [("acme", 3)]


def first_answer(base: str, server: subprocess.Popen[bytes]) -> httpx.Response:
    """Ask as a customer, once the server is there."""
    while True:
        assert server.poll() is None, "the server has not started"
        try:
            httpx.get(f"{base}/health")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            break
    return httpx.post(f"{base}/v1/complete", json={"text": "a b c"}, headers={"X-API-Key": "acme-try-me"})


def tokens_in(folder: Path) -> list[tuple[str, int]]:
    """Give who used how many tokens, by the file sink and by what the journal still keeps for it."""
    usage = folder / "usage.jsonl"
    lines = usage.read_text().splitlines() if usage.exists() else []
    if not lines:
        lines = kept(folder / "meter")
    return [(event["subject"], event["data"]["tokens"]) for event in map(json.loads, lines)]


def kept(journal: Path) -> list[str]:
    """Give the events that wait in a journal."""
    return [each.payload.decode() for each in read_journal(journal) if isinstance(each, Entry)]
