"""The redis_stream sink, on real Redis servers."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING

import pytest
import redis

from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown
from meter_mw.sinks.redis_line import RedisLine, companion, fault_of_key
from meter_mw.sinks.redis_stream import KIND, STREAM, RedisStreamSink
from meter_mw.testing.sinks import SinkConformance, event
from support.journeys import through_an_outage
from support.proxy import FaultProxy
from support.servers import RedisServer, on_every_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "canary-password"
MINUTE = int(datetime(2026, 11, 21, 10, 43, tzinfo=UTC).timestamp()) // 60
"""Of the events of the conformance suite."""


@pytest.fixture(scope="module")
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    options = {"binary": request.param} if hasattr(request, "param") else {}
    with RedisServer(**options) as server:
        yield server


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        yield client


@pytest.fixture
def sink(redis_server: RedisServer, client: redis.Redis) -> Iterator[RedisStreamSink]:
    sink = RedisStreamSink(redis_server.url, timeout=2.0)
    yield sink
    sink.close()


def entries(client: redis.Redis, stream: str = STREAM) -> list[dict[str, object]]:
    return [json.loads(fields[b"ce"]) for _, fields in client.xrange(stream)]


class RedisStreamRig:
    """A server behind a proxy that can be cut: connections are then closed as soon as they are made."""

    secrets = (PASSWORD,)

    def __init__(self, server: RedisServer, client: redis.Redis) -> None:
        self._client = client
        self._proxy = FaultProxy(server.port)
        self.sink = RedisStreamSink(f"redis://meter:{PASSWORD}@127.0.0.1:{self._proxy.port}/0", timeout=2.0)

    def received(self) -> list[dict[str, object]]:
        return entries(self._client)

    def fail(self) -> None:
        self._proxy.cut_replies = 10**9
        self._proxy.cut_all()

    def recover(self) -> None:
        self._proxy.cut_replies = 0

    def close(self) -> None:
        self.sink.close()
        self._proxy.close()


class TestRedisStreamSink(SinkConformance):
    @pytest.fixture
    def rig(self, redis_server: RedisServer, client: redis.Redis) -> Iterator[RedisStreamRig]:
        client.acl_setuser("meter", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
        rig = RedisStreamRig(redis_server, client)
        yield rig
        rig.close()


@on_every_redis
def test_an_event_that_comes_again_is_known(sink: RedisStreamSink, client: redis.Redis) -> None:
    """Known within a batch, across batches, and to another sink; what is new beside it is appended."""
    assert list(sink.send([event(1), event(2), event(1)])) == [Delivered(), Delivered(), Duplicate()]
    other = RedisStreamSink(f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0")
    assert list(other.send([event(2), event(3)])) == [Duplicate(), Delivered()]
    other.close()
    assert [each["id"] for each in entries(client)] == ["event-1", "event-2", "event-3"]


def test_the_same_id_of_another_source_is_another_event(sink: RedisStreamSink) -> None:
    other = event(1).replace(b"conformance", b"another")
    assert list(sink.send([event(1), other])) == [Delivered(), Delivered()]


@pytest.mark.parametrize("cut", [1, 2])
def test_a_lost_answer_makes_no_second_entry(
    redis_server: RedisServer, client: redis.Redis, cut: int
) -> None:
    """The script ran and its reply was lost: unknown, and known when it is sent again."""
    with FaultProxy(redis_server.port) as proxy:
        sink = RedisStreamSink(proxy.url, timeout=2.0)
        sink.send([event(0)])
        for number in range(1, cut + 1):
            proxy.cut_replies = 1
            (lost,) = sink.send([event(number)])
            assert isinstance(lost, Unknown)
            assert list(sink.send([event(number)])) == [Duplicate()]
        sink.close()
    assert len(entries(client)) == cut + 1


def test_a_frozen_server_is_waited_for_no_longer_than_the_timeout(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    sink = RedisStreamSink(redis_server.url, timeout=0.2)
    sink.send([event(0)])
    redis_server.freeze()
    try:
        (lost,) = sink.send([event(1)])
    finally:
        redis_server.thaw()
    assert isinstance(lost, Unknown)
    assert [type(each) for each in RedisStreamSink(redis_server.url).send([event(1)])] in (
        [Delivered],
        [Duplicate],
    )
    sink.close()
    assert [each["id"] for each in entries(client)] == ["event-0", "event-1"]


def test_a_server_that_is_not_there(redis_server: RedisServer) -> None:
    """Nothing was sent: the events are surely not there."""
    sink = RedisStreamSink("redis://127.0.0.1:1/0")
    (outcome,) = sink.send([event(1)])
    assert isinstance(outcome, Retry)
    assert "cannot be reached" in outcome.reason


@on_every_redis
def test_a_full_server_takes_nothing_of_a_batch(
    sink: RedisStreamSink, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis 6.2 refuses at the first write; then the stream and the marks are as before."""
    sink.send([event(0)])
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    with caplog.at_level(logging.ERROR):
        outcomes = sink.send([event(1), event(2)])
    client.config_set("maxmemory", 0)
    assert all(isinstance(each, Retry) and "OOM" in each.reason for each in outcomes)
    assert "check the server" in caplog.text
    assert list(sink.send([event(1), event(2)])) == [Delivered()] * 2
    assert len(entries(client)) == 3


@pytest.mark.parametrize("key", [STREAM, companion(STREAM, f"known:{MINUTE}")])
def test_a_key_of_another_kind_is_the_operators_mistake(
    sink: RedisStreamSink, client: redis.Redis, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    """Nothing is written before every key was looked at, and no event is given up."""
    client.set(key, "something else")
    with caplog.at_level(logging.ERROR):
        outcomes = sink.send([event(1)])
    assert [type(each) for each in outcomes] == [Retry]
    assert "WRONGTYPE" in outcomes[0].reason
    assert "check the server" in caplog.text
    client.delete(key)
    assert list(sink.send([event(1)])) == [Delivered()]
    assert len(entries(client)) == 1


def test_a_mark_that_may_not_be_written_leaves_no_entry(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    """An ACL without SADD: the entry is taken back, so that retries do not pile up copies."""
    client.acl_setuser(
        "narrow", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all", "-sadd"], reset=True
    )
    sink = RedisStreamSink(f"redis://narrow:p@127.0.0.1:{redis_server.port}/0")
    for _ in range(2):
        assert isinstance(sink.send([event(1)])[0], Retry)
    sink.close()
    assert entries(client) == []


def test_marks_expire(sink: RedisStreamSink, client: redis.Redis) -> None:
    """A set of marks lives as long as the sink says that ids are known, and no longer."""
    timed = json.loads(event(1)) | {"time": "2026-01-01T00:00:30.5Z"}
    later = json.loads(event(2)) | {"time": "2026-01-01T00:01:00Z"}
    sink.send([json.dumps(each).encode() for each in (timed, later)])
    marks = client.keys("{" + STREAM + "}:known:*")
    assert len(marks) == 2
    assert all(86_300 < client.ttl(key) <= 86_400 == sink.horizon for key in marks)


def test_what_is_no_event_does_not_hold_up_the_rest(sink: RedisStreamSink, client: redis.Redis) -> None:
    outcomes = sink.send([event(1), b"{", b'{"id": "x"}', event(2)])
    assert [type(each) for each in outcomes] == [Delivered, Permanent, Permanent, Delivered]
    assert len(entries(client)) == 2


def test_the_server_forgets_scripts(sink: RedisStreamSink, client: redis.Redis) -> None:
    sink.send([event(1)])
    client.script_flush()
    assert list(sink.send([event(1), event(2)])) == [Duplicate(), Delivered()]


def test_a_unix_socket(redis_server: RedisServer, client: redis.Redis) -> None:
    sink = RedisStreamSink(f"redis+unix://{redis_server.socket_path}")
    assert list(sink.send([event(1)])) == [Delivered()]
    assert redis_server.socket_path in repr(sink)
    sink.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "redis+cluster://a:1,b:2/3",
        "redis://x?no_such_option=1",
        "redis://:canary[@x",
        "redis://x:port",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError, match=r"Redis|URL|cluster") as caught:
        RedisLine(url, 1.0)
    assert "canary" not in str(caught.value)
    assert KIND.main.fault is not None
    assert KIND.main.fault(url)


@pytest.mark.parametrize("key", ["", "a b", "{}x", "{a}{b}", "a{", "x" * 201])
def test_streams_that_cannot_be_used(key: str) -> None:
    assert fault_of_key(key)
    with pytest.raises(ValueError, match="stream"):
        RedisStreamSink("redis://x", key)


def test_all_arrives_through_an_outage(
    redis_server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    """An app, its journal, lost answers and cut connections: the stream has what was recorded, once each."""
    with FaultProxy(redis_server.port) as proxy:

        def fail() -> None:
            proxy.cut_replies = 10**9
            proxy.cut_all()

        def recover() -> None:
            proxy.cut_replies = 2

        recorded = through_an_outage(tmp_path, {"redis_stream": proxy.url}, {}, fail, recover)
    key = itemgetter("id")
    assert sorted(entries(client), key=key) == sorted(recorded, key=key)


def test_a_child_has_a_connection_of_its_own(sink: RedisStreamSink, client: redis.Redis) -> None:
    """Two processes on one connection would read each other's answers."""
    sink.send([event(1)])
    child = os.fork()
    if child == 0:
        sink.send([event(2)])
        os._exit(sink._line.openings)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert list(sink.send([event(3)])) == [Delivered()]
    assert sink._line.openings == 1


def test_a_server_that_may_lose_events_is_told_of(
    redis_server: RedisServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a connection: eviction takes whole streams, and without a log on disk a restart does."""
    client.config_set("maxmemory-policy", "allkeys-lru")
    sink = RedisStreamSink(redis_server.url)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            sink.send([event(number)])
    sink.close()
    client.config_set("maxmemory-policy", "noeviction")
    assert caplog.text.count("the server may delete events") == 1
    assert caplog.text.count("appendonly is off") == 1


@on_every_redis
def test_a_server_that_was_demoted(
    sink: RedisStreamSink, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """A replica takes nothing; the name may lead elsewhere by now, so the next attempt connects anew."""
    sink.send([event(1)])
    client.replicaof("127.0.0.1", 1)
    try:
        with caplog.at_level(logging.ERROR):
            outcomes = [sink.send([event(2)])[0] for _ in range(2)]
    finally:
        client.replicaof("NO", "ONE")
    assert all(isinstance(each, Retry) and "READONLY" in each.reason for each in outcomes)
    assert sink._line.openings == 2
    assert "check the server" not in caplog.text
    assert list(sink.send([event(2)])) == [Delivered()]
