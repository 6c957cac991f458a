"""Long streams on real servers: recorded in parts, held while they last, lost by no more than one part."""

from __future__ import annotations

import itertools
import os
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import wire
from websockets.sync.client import connect

import servers
from servers import wait_for
from support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

pytestmark = [pytest.mark.lengthy, pytest.mark.timed]

NAMES = ("uvicorn-h11", "gunicorn-gthread", "django-gunicorn", "django-uvicorn")
CHECKPOINT = 1.0
LOOK = CHECKPOINT / 4
"""How often a keeper looks for what has lasted for a checkpoint."""

CHUNK, PAUSE = 1_000, 0.05
STREAMS, CAP = 6, 1_000_000


class Client:
    """A subject that has one slot, or whatever its plan says."""

    def __init__(self, server: Server, plan: str = "slot") -> None:
        self.server = server
        self.subject = f"s-{uuid.uuid4().hex}"
        self.fields = (("X-API-Key", f"{plan}.{self.subject}"), ("X-Variant", "redis"))

    def begin(self, seconds: float) -> wire.socket.socket:
        peer = wire.connect(self.server.port)
        count = int(seconds / PAUSE)
        peer.sendall(wire.request("GET", f"/v1/stream?count={count}&size={CHUNK}&pause={PAUSE}", self.fields))
        return peer

    def ask(self) -> wire.Answer:
        return wire.talk(self.server.port, wire.request("GET", "/v1/items/1", self.fields))

    def parts(self) -> list[dict[str, Any]]:
        """Give the events so far, each once, without those of items."""
        events = {
            str(event["id"]): event
            for event in self.server.events("redis", self.subject)
            if event["subject"] == self.subject and event["data"]["route"] != "items"  # type: ignore[index]
        }
        return sorted(events.values(), key=lambda event: event["data"].get("part", 0))  # type: ignore[attr-defined]


@pytest.fixture
def server(name: str, tmp_path: Path) -> Iterator[Server]:
    """Give a server that records what lasts every second."""
    home = tmp_path / "home"
    servers.furnish(home, {"checkpoint": "1s"})
    with (
        RedisServer() as redis,
        servers.running(name, home, environment={"SUBJECT_REDIS": redis.url}) as running,
    ):
        yield running


@pytest.mark.parametrize("name", NAMES)
def test_a_long_stream_is_recorded_in_parts_and_keeps_its_slot(server: Server) -> None:
    """Four seconds are several events with the same sum, one request; nobody else gets the slot meanwhile."""
    client = Client(server)
    statuses = []
    with client.begin(4.0) as peer:
        began = time.monotonic()
        assert peer.recv(1, wire.socket.MSG_PEEK)
        while time.monotonic() - began < 3.5:
            statuses.append(client.ask().status)
            time.sleep(0.05)
        answer = wire.listen(peer, "GET")
    after = client.ask().status
    assert set(statuses) == {429}
    assert after == 200
    assert (answer.whole, answer.received) == (True, 80 * CHUNK)
    wait_for(lambda: sum(each["data"]["response_bytes"] for each in client.parts()) == 80 * CHUNK, "all")
    first, *others = client.parts()
    assert len(others) >= 2
    assert "exchange" not in first["data"]
    assert [each["data"]["exchange"] for each in others] == [first["id"]] * len(others)
    assert [each["data"]["part"] for each in others] == list(range(1, len(others) + 1))
    assert [each["data"]["requests"] for each in (first, *others)] == [1] + [0] * len(others)
    times = [each["time"] for each in (first, *others)]
    assert all(earlier < later for earlier, later in itertools.pairwise(times))
    assert others[-1]["data"]["status"] == 200
    print(f"PARTS {server.name}: {[each['data']['response_bytes'] for each in (first, *others)]}")


@pytest.mark.parametrize("name", ["uvicorn-h11", "gunicorn-gthread"])
def test_a_kill_loses_the_last_part_alone(server: Server) -> None:
    """Whatever had passed a checkpoint before the kill is recorded."""
    client = Client(server, "free")
    with client.begin(20.0) as peer:
        wait_for(lambda: len(client.parts()) >= 2, "two parts")
        time.sleep(0.5)
        for pid in server.workers() or [server.process.pid]:
            os.kill(pid, signal.SIGKILL)
        answer = wire.listen(peer, "GET")
    assert not answer.whole
    recorded = sum(each["data"]["response_bytes"] for each in client.parts())
    lost = answer.received - recorded
    print(f"KILLED {server.name}: {answer.received} received, {lost} of them lost")
    assert 0 <= lost <= (CHECKPOINT + 2 * LOOK) / PAUSE * CHUNK


@pytest.mark.parametrize("name", ["uvicorn-h11", "gunicorn-gthread"])
def test_streams_that_last_pass_no_cap_together(server: Server) -> None:
    """Six streams go through several parts, and are cut at the cap that they share."""
    client = Client(server, "cuts")
    count, size = 60, 5_000
    target = f"/v1/stream?count={count}&size={size}&pause={PAUSE}"

    def ask(_: int) -> wire.Answer:
        return wire.talk(server.port, wire.request("GET", target, client.fields))

    with ThreadPoolExecutor(STREAMS) as pool:
        answers = list(pool.map(ask, range(STREAMS)))
    received = sum(answer.received for answer in answers)
    print(f"LASTING {server.name}: {[answer.received for answer in answers]} of {CAP}")
    assert not all(answer.whole for answer in answers)
    assert received <= CAP
    wait_for(lambda: sum(each["data"]["response_bytes"] for each in client.parts()) == received, "all")
    rest = wire.talk(server.port, wire.request("GET", "/v1/sized?size=2000000", client.fields))
    assert rest.received == CAP - received or rest.status == 429


@pytest.mark.parametrize("name", ["uvicorn-httptools"])
def test_an_idle_socket_keeps_its_slot_until_it_is_gone(server: Server) -> None:
    """Nothing passes for twice a lease, and nobody else gets the slot; when the client goes it is free."""
    client = Client(server)
    with connect(f"ws://127.0.0.1:{server.port}/v1/talk", additional_headers=client.fields) as socket:
        socket.send("hello")
        assert socket.recv() == "HELLO"
        began = time.monotonic()
        while time.monotonic() - began < 4 * CHECKPOINT:
            assert client.ask().status == 429
            time.sleep(0.1)
        socket.send("still here")
        assert socket.recv() == "STILL HERE"
    # A server answers the close of its client before the app hears of it.
    wait_for(lambda: client.ask().status == 200, "the slot to be free", 1.0)
    wait_for(lambda: sum(each["data"]["request_bytes"] for each in client.parts()) == 15, "both messages")
    assert sum(each["data"]["requests"] for each in client.parts()) == 1
    assert sum(each["data"].get("response_messages", 0) for each in client.parts()) == 2
