"""Servers that end: kill -9 loses nothing that a client has whole, and SIGTERM delivers it at once."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
import wire

import servers
from meter_mw.policy.identity import Credential, pseudonym
from servers import SECRET, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

pytestmark = pytest.mark.lengthy

WORKERS = 3
CLIENTS = 8
KILLS = 8
TARGETS = ("/v1/items/1", "/v1/sized?size=30000", "/v1/chunked", "/v1/file")


class Load:
    """Clients that ask until they are told to stop, each request under a key of its own."""

    def __init__(self, server: Server) -> None:
        self.whole: dict[str, int] = {}
        self.broken = 0
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            key = f"client-{client}-{number}"
            try:
                raw = wire.request("GET", TARGETS[number % len(TARGETS)], [("X-API-Key", key)])
                answer = wire.talk(self._server.port, raw)
            except OSError:
                self.broken += 1
                time.sleep(0.02)  # no worker accepts at the moment
                continue
            if answer.whole:
                self.whole[pseudonym(SECRET.encode(), Credential(key))] = answer.received
            else:
                self.broken += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def kill_some(server: Server, load: Load) -> int:
    """Kill a random worker at random moments, each time after some more requests have ended."""
    killed = 0
    for _ in range(KILLS):
        goal = len(load.whole) + 40
        wait_for(lambda goal=goal: len(load.whole) >= goal, "more answers")
        time.sleep(random.uniform(0, 0.05))
        workers = server.workers()
        if workers:
            os.kill(random.choice(workers), signal.SIGKILL)
            killed += 1
    return killed


@pytest.mark.parametrize("name", ["uvicorn-h11", "gunicorn-gthread", "gunicorn-sync", "django-gunicorn"])
def test_no_answer_without_its_event(name: str, tmp_path: Path) -> None:
    """Whatever the moment of the kill, an answer that is whole has its event, with its bytes."""
    home = tmp_path / "home"
    with servers.running(name, home, workers=WORKERS) as server:
        wait_for(lambda: len(server.workers()) >= WORKERS, "its workers")
        load = Load(server)
        killed = kill_some(server, load)
        load.stop()
    with servers.running(name, home) as server:
        wire.talk(server.port, wire.request("GET", "/v1/items/1", [("X-API-Key", "free.after")]))
        wait_for(
            lambda: load.whole.keys() <= {event["subject"] for event in server.events()},
            f"the events of {len(load.whole)} answers",
        )
        events = server.events()
    assert killed >= KILLS - 1
    by_id: dict[object, dict[str, object]] = {}
    for event in events:
        assert by_id.setdefault(event["id"], event) == event
    counted: dict[object, list[object]] = {}
    for event in by_id.values():
        counted.setdefault(event["subject"], []).append(event["data"]["response_bytes"])  # type: ignore[index]
    assert {subject: counted[subject] for subject in load.whole} == {
        subject: [received] for subject, received in load.whole.items()
    }
    print(f"KILL {name}: {killed} kills, {len(load.whole)} whole, {load.broken} broken, {len(events)} lines")


@pytest.mark.parametrize("name", sorted(set(servers.COMMANDS) - {"django-uvicorn"}))
def test_sigterm_delivers(name: str, tmp_path: Path) -> None:
    """What was answered when the server was told to end is in the sink when it has ended.

    uvicorn without lifespan (Django has none) dies of the signal with no word to anyone: there the next
    process delivers.
    """
    with servers.running(name, tmp_path / "home") as server:
        for number in range(20):
            raw = wire.request("GET", "/v1/items/1", [("X-API-Key", f"free.last-{number}")])
            assert wire.talk(server.port, raw).status == 200
        server.stop()
        assert {event["subject"] for event in server.events()} == {f"last-{number}" for number in range(20)}


def test_the_next_process_delivers(tmp_path: Path) -> None:
    """What Django under uvicorn had not delivered when it died is delivered by its successor."""
    home = tmp_path / "home"
    for number in range(2):
        with servers.running("django-uvicorn", home) as server:
            raw = wire.request("GET", "/v1/items/1", [("X-API-Key", f"free.last-{number}")])
            assert wire.talk(server.port, raw).status == 200
            server.stop()
    with servers.running("django-uvicorn", home) as server:
        wire.talk(server.port, wire.request("GET", "/v1/items/1", [("X-API-Key", "free.last-2")]))
        wait_for(
            lambda: {"last-0", "last-1", "last-2"} <= {event["subject"] for event in server.events()},
            "all events",
        )
