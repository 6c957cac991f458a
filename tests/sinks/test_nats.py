"""The nats sink, on a real nats-server with JetStream."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
import uuid
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import nats
import pytest
from nats.js.api import StreamConfig

from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown
from meter_mw.sinks.nats import KIND, NatsSink
from meter_mw.testing.sinks import SinkConformance, event
from support.brokers import NatsServer
from support.journeys import through_an_outage
from support.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

TOKEN = "canary-token"


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def ask(server: NatsServer, work: Callable[[JetStreamContext], Awaitable[Any]], **login: str) -> Any:
    async def run() -> Any:
        client = await nats.connect(server.url, **login)
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(run())


def make(server: NatsServer, subject: str, **config: Any) -> None:
    name = subject.replace(".", "-")
    ask(server, lambda stream: stream.add_stream(StreamConfig(name=name, subjects=[subject], **config)))


def messages(server: NatsServer, subject: str) -> list[Msg]:
    async def read(stream: JetStreamContext) -> list[Msg]:
        name = subject.replace(".", "-")
        count = (await stream.stream_info(name)).state.messages
        found = await stream.subscribe(subject, ordered_consumer=True)
        return [await found.next_msg(10) for _ in range(count)]

    return list(ask(server, read))


@pytest.fixture
def subject(server: NatsServer) -> str:
    subject = f"meter.{uuid.uuid4().hex[:8]}"
    make(server, subject)
    return subject


@pytest.fixture
def sink(server: NatsServer, subject: str) -> Iterator[NatsSink]:
    sink = NatsSink(server.url, subject)
    yield sink
    sink.close()


class NatsRig:
    secrets = (TOKEN,)

    def __init__(self, server: NatsServer, subject: str) -> None:
        self._server = server
        self._subject = subject
        self._proxy = FaultProxy(server.port)
        self.sink = NatsSink(f"nats://127.0.0.1:{self._proxy.port}", subject, timeout=2.0, secret=TOKEN)

    def received(self) -> list[dict[str, object]]:
        return [json.loads(each.data) for each in messages(self._server, self._subject)]

    def fail(self) -> None:
        self._proxy.cut_replies = 10**9
        self._proxy.cut_all()

    def recover(self) -> None:
        self._proxy.cut_replies = 0

    def close(self) -> None:
        self.sink.close()
        self._proxy.close()


class TestNatsSink(SinkConformance):
    @pytest.fixture
    def rig(self, server: NatsServer, subject: str) -> Iterator[NatsRig]:
        rig = NatsRig(server, subject)
        yield rig
        rig.close()


def test_what_is_sent(sink: NatsSink, server: NatsServer, subject: str) -> None:
    """The event as it stood in the journal, with its id where JetStream looks for one."""
    sink.send([event(1, "é")])
    (message,) = messages(server, subject)
    assert message.data == event(1, "é")
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == "event-1"
    assert message.headers["Content-Type"] == "application/cloudevents+json"


def test_an_event_that_comes_again_is_known(sink: NatsSink, server: NatsServer, subject: str) -> None:
    """The stream says so itself (PubAck), also to another connection."""
    assert list(sink.send([event(1), event(2)])) == [Delivered()] * 2
    sink.close()
    assert list(sink.send([event(2), event(3)])) == [Duplicate(), Delivered()]
    assert len(messages(server, subject)) == 3


def test_a_lost_answer_makes_no_second_message(server: NatsServer, subject: str) -> None:
    with FaultProxy(server.port) as proxy:
        sink = NatsSink(f"nats://127.0.0.1:{proxy.port}", subject, timeout=2.0)
        sink.send([event(0)])
        proxy.cut_replies = 1
        (lost,) = sink.send([event(1)])
        proxy.cut_replies = 0
        assert isinstance(lost, Unknown)
        assert list(sink.send([event(1)])) == [Duplicate()]
        sink.close()
    assert len(messages(server, subject)) == 2


@pytest.mark.parametrize(("window", "horizon"), [(None, 120.0), (3600.0, 3600.0)])
def test_the_horizon_is_the_streams(server: NatsServer, window: float | None, horizon: float) -> None:
    subject = f"meter.{uuid.uuid4().hex[:8]}"
    make(server, subject, **({"duplicate_window": window} if window else {}))
    sink = NatsSink(server.url, subject)
    assert sink.horizon == 120.0
    sink.send([event(1)])
    assert sink.horizon == horizon
    sink.close()


def test_without_a_stream_events_wait(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """The log says how to make one; when it is there, the same sink delivers."""
    subject = f"meter.{uuid.uuid4().hex[:8]}"
    sink = NatsSink(server.url, subject)
    with caplog.at_level(logging.ERROR):
        outcomes = sink.send([event(1), event(2)])
    assert all(isinstance(each, Retry) for each in outcomes)
    assert f"nats stream add USAGE --subjects={subject}" in caplog.text
    make(server, subject)
    assert list(sink.send([event(1), event(2)])) == [Delivered()] * 2
    sink.close()


def test_what_is_too_large_does_not_hold_up_the_rest(server: NatsServer) -> None:
    """Larger than the stream takes, larger than the server takes, and no event at all."""
    subject = f"meter.{uuid.uuid4().hex[:8]}"
    make(server, subject, max_msg_size=1000)
    sink = NatsSink(server.url, subject)
    outcomes = sink.send([event(1), event(2, "x" * 2000), event(3, "x" * 2_000_000), b"{", event(4)])
    sink.close()
    assert [type(each) for each in outcomes] == [Delivered, Permanent, Permanent, Permanent, Delivered]
    assert "10054" in outcomes[1].reason
    assert len(messages(server, subject)) == 2


def test_a_full_stream_is_tried_again(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that discards what is new says so; that is for its operator."""
    subject = f"meter.{uuid.uuid4().hex[:8]}"
    make(server, subject, max_msgs=1, discard="new")
    sink = NatsSink(server.url, subject)
    with caplog.at_level(logging.ERROR):
        outcomes = sink.send([event(1), event(2)])
    sink.close()
    assert [type(each) for each in outcomes] == [Delivered, Retry]
    assert "maximum messages exceeded" in caplog.text


def test_a_server_that_freezes(server: NatsServer, subject: str) -> None:
    sink = NatsSink(server.url, subject, timeout=1.0)
    sink.send([event(0)])
    server.freeze()
    begun = time.monotonic()
    try:
        (lost,) = sink.send([event(1)])
    finally:
        server.thaw()
    assert isinstance(lost, Unknown)
    assert time.monotonic() - begun < 8
    assert isinstance(sink.send([event(1)])[0], Delivered | Duplicate)
    sink.close()
    assert len(messages(server, subject)) == 2


def test_a_server_that_dies_and_comes_back(subject: str) -> None:
    """With kill -9 between batches: not connected, so surely not there; then known again from the disk."""
    with NatsServer() as server:
        make(server, subject)
        sink = NatsSink(server.url, subject, timeout=2.0)
        sink.send([event(0)])
        server.kill()
        for _ in range(2):
            (lost,) = sink.send([event(1)])
            assert isinstance(lost, Unknown | Retry)
        assert isinstance(lost, Retry)
        server.start()
        assert list(sink.send([event(0), event(1)])) == [Duplicate(), Delivered()]
        sink.close()
        assert len(messages(server, subject)) == 2


def test_a_wrong_token(caplog: pytest.LogCaptureFixture) -> None:
    with NatsServer("authorization: { token: right }") as server:
        sink = NatsSink(server.url, "meter.events", secret=TOKEN, timeout=5.0)
        with caplog.at_level(logging.ERROR):
            (outcome,) = sink.send([event(1)])
        sink.close()
    assert isinstance(outcome, Retry)
    assert "check its secret" in caplog.text
    assert TOKEN not in f"{caplog.text} {outcome!r} {sink!r} {sink.name}"


def test_a_name_and_a_password(subject: str) -> None:
    with NatsServer("authorization: { user: me, password: right }") as server:
        sink = NatsSink(server.url, "meter.events", username="me", secret="right")
        assert isinstance(sink.send([event(1)])[0], Retry)
        login = {"user": "me", "password": "right"}
        config = StreamConfig(name="events", subjects=["meter.events"])
        ask(server, lambda stream: stream.add_stream(config), **login)
        assert list(sink.send([event(1)])) == [Delivered()]
        sink.close()


def test_a_child_ends_as_any_process_does(server: NatsServer, subject: str) -> None:
    """What a child inherited is left alone: the parent's connection goes on."""
    script = f"""
import os, sys
from meter_mw.sinks import Delivered
from meter_mw.sinks.nats import NatsSink
from meter_mw.testing.sinks import event
sink = NatsSink({server.url!r}, {subject!r})
assert sink.send([event(1)]) == [Delivered()]
child = os.fork()
if child == 0:
    assert sink.send([event(2)]) == [Delivered()]
    sink.close()
    sys.exit(7)
status = os.waitpid(child, 0)[1]
assert sink.send([event(3)]) == [Delivered()]
sink.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    ended = subprocess.run(
        [sys.executable, "-W", "always", "-c", script], timeout=60, check=False, capture_output=True
    )
    assert ended.returncode == 7, ended.stderr.decode()
    assert ended.stderr == b""


@pytest.mark.parametrize(
    "servers", ["", "host:4222", "http://x", "nats://", "nats://x:port", "nats://me:secret@x", "nats://a,b"]
)
def test_servers_that_cannot_be_used(servers: str) -> None:
    assert KIND.main.fault is not None
    assert KIND.main.fault(servers)
    with pytest.raises(ValueError, match=r"server|URL"):
        NatsSink(servers, "meter.events")


@pytest.mark.parametrize("name", ["", "a b", "a.*", "a.>", ".a", "a.", "a..b", "x" * 256])
def test_subjects_that_cannot_be_used(name: str) -> None:
    with pytest.raises(ValueError, match="a subject is words"):
        NatsSink("nats://x", name)


def test_all_arrives_through_an_outage(tmp_path: Path) -> None:
    """An app, its journal, a nats-server that is killed: the stream has what was recorded, once each."""
    with NatsServer() as server:
        make(server, "meter.events")
        rule = {"nats": server.url, "subject": "meter.events", "timeout": "1 s"}
        recorded = through_an_outage(tmp_path, rule, {}, server.kill, server.start)
        found = [json.loads(each.data) for each in messages(server, "meter.events")]
    key = itemgetter("id")
    assert sorted(found, key=key) == sorted(recorded, key=key)
