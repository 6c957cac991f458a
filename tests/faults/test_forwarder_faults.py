"""What befalls a forwarder: servers that end while it sends, and destinations that fail in every way."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from journal.conftest import event, expected
from journal.scenes import Scene
from meter_mw.journal import Forwarder, Journal, read_parked
from meter_mw.sinks import FileSink, HttpSink
from sinks.conftest import Post, Receiver, Reply, receiver
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

__all__ = ["receiver"]


@pytest.fixture
def scene(place: Path, journal: Journal, receiver: Receiver) -> Iterator[Scene]:
    """Give a courier to a real server, under a clock that the test moves."""
    scene = Scene(place, journal, HttpSink(receiver.url, max_batch=10))
    yield scene
    scene.sink.close()


POLICY = """
version: 1
service: {name}
identity: {{secret: "${{METER_KEY_SECRET}}"}}
events:
  journal: {name}
  sinks: [{{http: "{url}", batch: 5, timeout: 1 s}}]
"""

APPS = """
import os
from meter_mw.asgi import MeterMiddleware as Asgi
from meter_mw.wsgi import MeterMiddleware as Wsgi

async def plain(scope, receive, send):
    if scope["type"] == "lifespan":
        for said in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{said}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})

def bare(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

if os.environ["EDGE"] == "asgi":
    app = Asgi(plain, policy=os.environ["METER_POLICY"])
else:
    app = Wsgi(bare, policy=os.environ["METER_POLICY"])
"""

SERVERS = {
    "uvicorn": "uvicorn apps:app --host 127.0.0.1 --port {port} --log-level error",
    "gunicorn": "gunicorn apps:app --bind 127.0.0.1:{port} -k gthread --threads 2 --log-level error",
    "waitress": "waitress --listen=127.0.0.1:{port} apps:app",
}
REQUESTS = 40


class Server:
    """A server whose usage goes to a receiver of its own."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.port = free_port()
        self.receiver = Receiver()
        self._home = home
        policy = home / f"{name}.yaml"
        policy.write_text(POLICY.format(name=name, url=self.receiver.url))
        self._environment = {
            **os.environ,
            "METER_POLICY": str(policy),
            "METER_KEY_SECRET": "k" * 32,
            "EDGE": "asgi" if name == "uvicorn" else "wsgi",
        }

    def start(self) -> None:
        command = [sys.executable, "-m", *SERVERS[self.name].format(port=self.port).split()]
        self.process = subprocess.Popen(
            command, cwd=self._home, env=self._environment, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return
            assert time.monotonic() < end
            time.sleep(0.02)

    def ask(self, count: int) -> None:
        for _ in range(count):
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", headers={"X-API-Key": "k"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.read() == b"ok"

    def ids(self) -> list[object]:
        """Give the ids that have arrived, each once."""
        return list(dict.fromkeys(self.receiver.accepted_ids))

    def await_ids(self, count: int) -> None:
        end = time.monotonic() + 60
        while len(self.ids()) < count:
            assert time.monotonic() < end
            time.sleep(0.02)

    def end_while_flushing(self) -> float:
        """Have it send, hang while it does, and end; give the seconds that the end took."""
        released = threading.Event()
        self.receiver.answer = lambda post: Reply(act=lambda handler: released.wait(30))
        self.start()
        self.ask(REQUESTS)
        while not self.receiver.posts:
            time.sleep(0.02)
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        released.set()
        return time.monotonic() - begin

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.receiver.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    (tmp_path / "apps.py").write_text(APPS)
    servers = [Server(name, tmp_path) for name in SERVERS]
    yield servers
    for server in servers:
        server.close()


def test_23_sigterm_during_a_flush(servers: list[Server]) -> None:
    """Servers end in time though the sink hangs; after a restart the rest arrives, and nothing is missing."""
    with ThreadPoolExecutor(len(servers)) as side_by_side:
        taken = list(side_by_side.map(Server.end_while_flushing, servers))
        assert max(taken) < 20
        for server in servers:
            server.receiver.accepted.clear()
            server.receiver.answer = lambda post: Reply()
        list(side_by_side.map(Server.start, servers))
        list(side_by_side.map(Server.ask, servers, [1] * len(servers)))
        list(side_by_side.map(Server.await_ids, servers, [REQUESTS + 1] * len(servers)))
    assert [len(server.ids()) for server in servers] == [REQUESTS + 1] * len(servers)


def test_35_ten_minutes_of_500(scene: Scene, receiver: Receiver) -> None:
    """The wait doubles up to its bound, no batch changes, and each event arrives exactly once."""
    scene.append(range(25))
    receiver.answer = lambda post: Reply(500)
    begin, waits = scene.clock.now, []
    while scene.clock.now < begin + 600:
        waits.append(scene.courier.step())
        scene.clock.now += waits[-1] or 0
    assert waits[:9] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert {post.body for post in receiver.posts} == {receiver.posts[0].body}
    receiver.answer = lambda post: Reply()
    scene.run()
    assert receiver.accepted_ids == expected(range(25))


def test_35_the_waits_are_jittered(scene: Scene, receiver: Receiver) -> None:
    """Each is anything from nothing to its bound: processes that failed together do not come together."""
    scene.append(range(1))
    receiver.answer = lambda post: Reply(500)
    chances = [0.0, 0.25, 0.75, 1.0]
    waits = []
    for scene.chance in chances:
        waits.append(scene.courier.step())
        scene.clock.now += waits[-1] or 0
    assert waits == [0.0, 0.25, 1.5, 4.0]


def test_35_a_storm_beside_an_app_that_writes(place: Path, journal: Journal, receiver: Receiver) -> None:
    """Three answers of four are 500; each event arrives, and exactly once."""
    receiver.answer = lambda post: Reply(500) if len(receiver.posts) % 4 else Reply()
    forwarder = Forwarder(
        journal, [HttpSink(receiver.url, max_batch=20)], backoff=0.001, longest_backoff=0.01
    )
    for number in range(500):
        journal.append(event(number))
    assert forwarder.close(60)
    assert receiver.accepted_ids == expected(range(500))


@pytest.mark.parametrize("status", [429, 503])
def test_36_retry_after_is_obeyed(scene: Scene, receiver: Receiver, status: int) -> None:
    """No post before its time, not even at a flush; the jitter only adds to it."""
    scene.append(range(15))
    receiver.answer = lambda post: Reply(status, {"Retry-After": "17"})
    assert scene.courier.step() == 17.5
    for scene.clock.now in (1001.0, 1010.0, 1017.4):
        scene.courier.hurry()
        scene.courier.step()
    assert len(receiver.posts) == 1
    receiver.answer = lambda post: Reply()
    scene.run()
    assert receiver.accepted_ids == expected(range(15))


def test_37_an_answer_that_is_lost(place: Path, journal: Journal, receiver: Receiver) -> None:
    """Every second batch is accepted without a word: its copy has the same ids, and nothing is missing."""

    def reset(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    receiver.answer = lambda post: Reply(act=reset if len(receiver.posts) % 2 else None)
    forwarder = Forwarder(
        journal, [HttpSink(receiver.url, max_batch=20)], backoff=0.001, longest_backoff=0.01
    )
    for number in range(400):
        journal.append(event(number))
    assert forwarder.close(60)
    assert len(receiver.accepted) > 400
    assert list(dict.fromkeys(receiver.accepted_ids)) == expected(range(400))
    batches = [post.body for post in receiver.posts]
    assert all(batches[at] == batches[at + 1] for at in range(0, len(batches) - 1, 2))


def test_38_a_dead_and_a_slow_sink(place: Path, journal: Journal, receiver: Receiver, tmp_path: Path) -> None:
    """One takes the connection and never reads, one answers a byte at a time: others and the app go on."""
    over = threading.Event()

    def dribble(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            while not over.wait(0.05):
                handler.wfile.write(b"H")

    receiver.answer = lambda post: Reply(act=dribble)
    with socket.create_server(("127.0.0.1", 0)) as half_open:
        sinks = [
            HttpSink(f"http://127.0.0.1:{half_open.getsockname()[1]}/", timeout=0.4),
            HttpSink(receiver.url, timeout=0.4),
            FileSink(tmp_path / "usage.jsonl"),
        ]
        forwarder = Forwarder(journal, sinks)
        slowest = 0.0
        for number in range(2000):
            begin = time.perf_counter()
            journal.append(event(number))
            slowest = max(slowest, time.perf_counter() - begin)
        end = time.monotonic() + 60
        while _lines(tmp_path / "usage.jsonl") < 2000:
            assert time.monotonic() < end
            time.sleep(0.02)
        while not all(report.error for report in forwarder.reports()[:2]):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert slowest < 1
        over.set()
        said = [report.error for report in forwarder.reports()]
        forwarder.close(0)
    assert ["no answer" in str(error) for error in said] == [True, True, False]


def _lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("status", [400, 422])
def test_39_a_poison_event(scene: Scene, receiver: Receiver, place: Path, status: int) -> None:
    """It is found, parked with the reason, and each of the others is accepted once."""
    scene.append(range(25))
    receiver.answer = lambda post: Reply(status, body=b"no such meter") if "event-7" in post.ids else Reply()
    scene.run()
    assert sorted(map(str, receiver.accepted_ids)) == sorted(set(expected(range(25))) - {"event-7"})
    (parked,) = read_parked(place)
    assert (parked.reason, json.loads(parked.payload)["id"]) == (f"HTTP {status} 'no such meter'", "event-7")


def test_39_a_batch_that_is_taken_in_part(scene: Scene, receiver: Receiver, place: Path) -> None:
    """Of a 207 each event has its own fate: taken, there already, later, refused for good."""
    tried: dict[str, int] = {}

    def multi_status(post: Post) -> Reply:
        results = []
        for one in post.ids:
            tried[one] = tried.get(one, 0) + 1
            status = {"event-1": 409, "event-2": 400, "event-3": 503 if tried[one] < 3 else 201}.get(one, 201)
            results.append({"id": one, "status": status, "reason": "as told"})
        return Reply(207, body=json.dumps({"results": results}).encode())

    scene.append(range(12))
    receiver.answer = multi_status
    scene.run()
    assert {one: count for one, count in tried.items() if count > 1} == {"event-3": 3}
    assert sorted(tried) == sorted(expected(range(12)))
    (parked,) = read_parked(place)
    assert json.loads(parked.payload)["id"] == "event-2"
