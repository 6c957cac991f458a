"""`meter-mw forward --from redis_stream` as processes that are killed, beside a Redis that is killed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meter_mw.cli import main
from meter_mw.journal import read_parked
from meter_mw.sinks import Delivered, Duplicate
from meter_mw.sinks.redis_stream import STREAM, RedisStreamSink
from sinks.conftest import Post, Receiver, Reply, receiver
from support.servers import RedisServer

from .test_supply import event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLICY = """
version: 1
service: tests
identity: {{secret: "${{METER_KEY_SECRET}}"}}
events:
  journal: var
  sinks: [{{redis_stream: "{url}", timeout: 2 s}}, {sinks}]
"""
LOSES_NOTHING = ("appendonly yes", "appendfsync always")
QUICK = """
from meter_mw.cli import main
from meter_mw.streams import StreamStock
StreamStock.__init__.__kwdefaults__["lease"] = 1.0
main()
"""
"""The command, with a lease that a test can wait for."""


class Scene:
    """A folder, a Redis, and daemons in processes of their own."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.source = RedisStreamSink(server.url)
        self._daemons: list[subprocess.Popen[bytes]] = []

    def policy(self, *sinks: str) -> None:
        Path("meter.yaml").write_text(POLICY.format(url=self.server.url, sinks=", ".join(sinks)))

    def daemon(self, *options: str) -> subprocess.Popen[bytes]:
        words = (sys.executable, "-c", QUICK, "forward", "--from", "redis_stream", *options)
        self._daemons.append(subprocess.Popen(words, stderr=subprocess.PIPE))
        return self._daemons[-1]

    def add(self, numbers: range) -> None:
        """Append until the server has it, as a forwarder does."""
        for start in range(numbers.start, numbers.stop, 100):
            batch = [event(number) for number in range(start, min(start + 100, numbers.stop))]
            await_(lambda batch=batch: set(self.source.send(batch)) <= {Delivered(), Duplicate()})

    def is_empty(self) -> bool:
        """Whether the outbox is empty: nothing in the stream, pending, or in hand."""
        with self.server.client() as client:
            pending = [each["pending"] for each in client.xinfo_groups(STREAM)]
            return not (client.xlen(STREAM) or any(pending) or client.keys("*:hand:*"))

    def close(self) -> None:
        self.source.close()
        for each in self._daemons:
            each.kill()
            each.communicate()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METER_KEY_SECRET", "k" * 32)
    with RedisServer(*LOSES_NOTHING) as server:
        scene = Scene(server)
        scene.policy("{file: usage.jsonl}")
        yield scene
        scene.close()


def await_(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def delivered(path: str = "usage.jsonl") -> list[str]:
    """Give the ids of all whole lines: one is being written, or was left by a daemon that was killed."""
    lines = Path(path).read_text().split("\n") if Path(path).exists() else []
    return [json.loads(line)["id"] for line in lines if line.endswith("}}")]


def expected(numbers: range) -> list[str]:
    return [f"event-{number}" for number in numbers]


__all__ = ["receiver"]


def test_sigterm_drains(scene: Scene) -> None:
    """What is there goes out; the lease is given up, so that the next one need not wait."""
    daemon = scene.daemon()
    scene.add(range(50))
    await_(lambda: len(delivered()) >= 50)
    scene.add(range(50, 300))
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) == 0
    assert delivered() == expected(range(300))
    assert scene.is_empty()
    with scene.server.client() as client:
        assert client.keys("*:alive:*") == []


def test_kill_9_of_daemons_and_of_the_server(scene: Scene) -> None:
    """Two daemons for two sinks; each is killed amid its batches, and so is Redis, while events come.

    Lost 0; at a sink that takes an id once, double 0; nothing is left behind.
    """
    scene.policy("{file: usage.jsonl}", "{sql: 'sqlite:///usage.db'}")
    first, second = scene.daemon(), scene.daemon()
    scene.add(range(1000))
    await_(lambda: len(delivered()) > 100)
    first.kill()
    first.wait()
    scene.add(range(1000, 2000))
    scene.server.kill()
    time.sleep(0.2)
    scene.server.start()
    third = scene.daemon()
    scene.add(range(2000, 3000))
    second.kill()
    second.wait()
    scene.add(range(3000, 4000))
    await_(scene.is_empty)
    third.send_signal(signal.SIGTERM)
    assert third.wait(60) == 0
    assert set(delivered()) == set(expected(range(4000)))
    with closing(sqlite3.connect("usage.db")) as ledger:
        (counted,) = ledger.execute("select count(*), count(distinct id) from meter_events").fetchall()
    assert counted == (4000, 4000)


def test_a_daemon_that_was_frozen_for_longer_than_its_lease(scene: Scene, receiver: Receiver) -> None:
    """Another takes over what it has in hand; thawed, it goes on with what is new."""
    asked, go = threading.Event(), threading.Event()

    def hold(post: Post) -> Reply:
        asked.set()
        go.wait(60)
        return Reply(503)

    receiver.answer = hold
    scene.policy(f"{{http: '{receiver.url}'}}")
    frozen = scene.daemon()
    scene.add(range(10))
    assert asked.wait(60)
    frozen.send_signal(signal.SIGSTOP)
    receiver.answer = lambda post: Reply()
    go.set()
    other = scene.daemon()
    await_(lambda: set(receiver.accepted_ids) == set(expected(range(10))))
    frozen.send_signal(signal.SIGCONT)
    scene.add(range(10, 200))
    await_(scene.is_empty)
    for each in (frozen, other):
        each.send_signal(signal.SIGTERM)
        assert each.wait(60) == 0
    assert set(receiver.accepted_ids) == set(expected(range(200)))
    assert scene.is_empty()


def test_once_brings_all_and_ends(scene: Scene) -> None:
    """What a sink refuses is parked in the daemon's folder."""
    scene.policy("{sql: 'sqlite:///usage.db'}", "{file: usage.jsonl}")
    with scene.server.client() as client:
        client.xadd(STREAM, {"ce": "no event"})
    scene.add(range(250))
    daemon = scene.daemon("--once")
    assert daemon.wait(60) == 0
    assert delivered() == expected(range(250))
    (parked,) = read_parked(Path("var"))
    assert parked.payload == b"no event"
    assert parked.sink.startswith("sql:")
    assert scene.is_empty()


@pytest.mark.parametrize(
    ("sinks", "complaint"),
    [
        ("[{file: usage.jsonl}]", "found 0 of redis_stream; expected one, which events come from"),
        ("[{redis_stream: redis://a}, {redis_stream: redis://b}]", "found 2 of redis_stream"),
        ("[{redis_stream: redis://a}]", "found none beside redis_stream; expected one at least"),
    ],
)
def test_a_policy_without_an_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sinks: str, complaint: str
) -> None:
    monkeypatch.setenv("METER_KEY_SECRET", "k" * 32)
    secret = 'identity: {secret: "${METER_KEY_SECRET}"}'
    policy = tmp_path / "meter.yaml"
    policy.write_text(f"version: 1\nservice: tests\n{secret}\nevents: {{sinks: {sinks}}}\n")
    told = CliRunner().invoke(main, ["forward", "--policy", str(policy), "--from", "redis_stream"])
    assert told.exit_code != 0
    assert complaint in told.output
