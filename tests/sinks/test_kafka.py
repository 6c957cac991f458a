"""The kafka sink, on the mock cluster of librdkafka: real sockets, brokers of another process."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from meter_mw.sinks import Delivered, Permanent, Retry, Unknown
from meter_mw.sinks.kafka import KIND, KafkaSink
from meter_mw.testing.sinks import SinkConformance, event
from support.brokers import KafkaCluster
from support.journeys import through_an_outage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


AT_ONCE = {"linger.ms": "0"}
"""Otherwise the first message to a topic lingers for half a second."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def topic() -> str:
    return f"usage-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def shared(cluster: KafkaCluster) -> Iterator[KafkaSink]:
    """A sink whose producer is up: librdkafka takes half a second for that, again and again."""
    sink = KafkaSink(cluster.servers, "usage", settings=AT_ONCE)
    yield sink
    sink.close()


@pytest.fixture
def sink(shared: KafkaSink, topic: str) -> KafkaSink:
    shared._topic = topic
    return shared


def messages(cluster: KafkaCluster, topic: str) -> list[Message]:
    """Read a topic from its beginning to its end, one partition after the other."""
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.servers,
            "group.id": "reader",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, each, OFFSET_BEGINNING) for each in partitions])
        ended: set[int] = set()
        found: list[Message] = []
        while len(ended) < len(partitions):
            message = consumer.poll(10)
            assert message is not None, "the mock cluster does not answer"
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                ended.add(message.partition())
    finally:
        consumer.close()
    return sorted(found, key=lambda each: (each.partition(), each.offset()))


def event_of(message: Message) -> dict[str, object]:
    """Put an event together again."""
    headers = {name: value.decode() for name, value in message.headers() or []}
    if headers["content-type"] == "application/cloudevents+json":
        return dict(json.loads(message.value()))
    found: dict[str, object] = {
        name.removeprefix("ce_"): value for name, value in headers.items() if name != "content-type"
    }
    return found | {"datacontenttype": headers["content-type"], "data": json.loads(message.value())}


def of_subject(number: int, subject: str) -> bytes:
    return json.dumps(json.loads(event(number)) | {"subject": subject}).encode()


class KafkaRig:
    secrets: tuple[str, ...] = ()
    failed = False

    def __init__(self, cluster: KafkaCluster, topic: str, sink: KafkaSink) -> None:
        self._cluster = cluster
        self._topic = topic
        self.sink = sink

    def received(self) -> list[dict[str, object]]:
        return [event_of(message) for message in messages(self._cluster, self._topic)]

    def fail(self) -> None:
        self.failed = True
        self._cluster.freeze()
        self._allow(1.0)

    def recover(self) -> None:
        self._cluster.thaw()
        self._allow(10.0)

    def _allow(self, timeout: float) -> None:
        """Have the next producer wait so long: an outage need not take ten seconds here."""
        self.sink.close()
        self.sink._timeout = timeout
        self.sink._options["message.timeout.ms"] = int(timeout * 1000)


class TestKafkaSink(SinkConformance):
    @pytest.fixture
    def rig(self, cluster: KafkaCluster, topic: str, sink: KafkaSink) -> Iterator[KafkaRig]:
        rig = KafkaRig(cluster, topic, sink)
        yield rig
        if rig.failed:
            rig.recover()

    def test_takes_an_empty_batch(self, rig: KafkaRig) -> None:
        """A topic is made by its first message, so there is none to read."""
        assert list(rig.sink.send([])) == []


def test_structured(cluster: KafkaCluster, topic: str) -> None:
    sink = KafkaSink(cluster.servers, topic, structured=True, settings=AT_ONCE)
    assert list(sink.send([event(1, "é")])) == [Delivered()]
    sink.close()
    (message,) = messages(cluster, topic)
    assert message.value() == event(1, "é")
    assert message.headers() == [("content-type", b"application/cloudevents+json")]


def test_what_is_sent(sink: KafkaSink, cluster: KafkaCluster, topic: str) -> None:
    """Attributes as headers in UTF-8, the data as it stood in the event, the subject as the key."""
    payload = of_subject(1, "café").replace(b'"requests": 1,', b'"requests":  1,')
    sink.send([payload])
    (message,) = messages(cluster, topic)
    assert message.key() == "café".encode()
    assert message.value() == b'{"requests":  1, "text": ""}'
    assert dict(message.headers()) == {
        "ce_specversion": b"1.0",
        "ce_id": b"event-1",
        "ce_source": b"urn:meter-mw:conformance",
        "ce_type": b"meter_mw.request.v1",
        "ce_subject": "café".encode(),
        "ce_time": b"2026-11-21T10:43:47.127149Z",
        "content-type": b"application/json",
    }


def test_order_by_key(sink: KafkaSink, cluster: KafkaCluster, topic: str) -> None:
    """Whatever the partitions: every id once, each subject in one partition and in its order."""
    batch = [of_subject(number, f"subject-{number % 7}") for number in range(2100)]
    for start in range(0, len(batch), 700):
        assert set(sink.send(batch[start : start + 700])) == {Delivered()}
    found = messages(cluster, topic)
    ids = [dict(each.headers())["ce_id"].decode() for each in found]
    assert sorted(ids) == sorted(f"event-{number}" for number in range(2100))
    for subject in range(7):
        mine = [each for each in found if each.key() == f"subject-{subject}".encode()]
        assert len({each.partition() for each in mine}) == 1
        numbers = [int(dict(each.headers())["ce_id"].decode().removeprefix("event-")) for each in mine]
        assert numbers == list(range(subject, 2100, 7))
    assert len({each.partition() for each in found}) > 1


def test_without_data_an_event_goes_whole(sink: KafkaSink, cluster: KafkaCluster, topic: str) -> None:
    """A message without a value would delete what a compacted topic has of its key."""
    bare = json.loads(event(1))
    del bare["data"]
    null, text = (
        bare | {"id": "2", "data": None},
        bare | {"id": "3", "datacontenttype": "text/plain", "data": "x"},
    )
    assert set(sink.send([json.dumps(each).encode() for each in (bare, null, text)])) == {Delivered()}
    found = messages(cluster, topic)
    assert [json.loads(each.value()) for each in found] == [bare, null, text]


def test_what_is_too_large_does_not_hold_up_the_rest(
    sink: KafkaSink, cluster: KafkaCluster, topic: str
) -> None:
    outcomes = sink.send([event(1), event(2, "x" * 2_000_000), b"{", event(3)])
    assert [type(each) for each in outcomes] == [Delivered, Permanent, Permanent, Delivered]
    assert "MSG_SIZE_TOO_LARGE" in outcomes[1].reason
    assert len(messages(cluster, topic)) == 2


def test_a_full_queue_is_tried_again(cluster: KafkaCluster, topic: str) -> None:
    sink = KafkaSink(cluster.servers, topic, settings={"queue.buffering.max.messages": "10"})
    outcomes = sink.send([event(number) for number in range(40)])
    rest = [event(number) for number, each in enumerate(outcomes) if isinstance(each, Retry)]
    assert rest
    assert "full" in next(each.reason for each in outcomes if isinstance(each, Retry))
    while rest:
        again = sink.send(rest)
        rest = [payload for payload, each in zip(rest, again, strict=True) if isinstance(each, Retry)]
    sink.close()
    assert len(messages(cluster, topic)) == 40


def test_brokers_that_freeze(cluster: KafkaCluster, topic: str) -> None:
    """Unknown, within the timeout; afterwards the event is there, perhaps twice under one id."""
    KafkaSink(cluster.servers, topic).send([event(0)])
    sink = KafkaSink(cluster.servers, topic, timeout=1.0)
    sink.send([event(0)])
    cluster.freeze()
    begun = time.monotonic()
    try:
        (lost,) = sink.send([event(1)])
    finally:
        cluster.thaw()
    assert isinstance(lost, Unknown)
    assert time.monotonic() - begun < 8
    end = time.monotonic() + 60
    while list(sink.send([event(1)])) != [Delivered()]:
        assert time.monotonic() < end
    sink.close()
    assert {dict(each.headers())["ce_id"] for each in messages(cluster, topic)} == {b"event-0", b"event-1"}


def test_brokers_that_die(topic: str) -> None:
    """No exception and no endless wait, with messages on their way and without."""
    with KafkaCluster() as cluster:
        sink = KafkaSink(cluster.servers, topic, timeout=1.0)
        sink.send([event(0)])
        cluster.kill()
        for number in (1, 2):
            (lost,) = sink.send([event(number)])
            assert isinstance(lost, Unknown | Retry)
    sink.close()


def _refusing_broker(listener: socket.socket) -> None:
    """Answer a login by SASL as a broker does that does not know the password."""
    known = [(0, 3, 7), (3, 0, 4), (17, 1, 1), (18, 0, 0), (22, 0, 1), (36, 0, 0)]
    versions = b"".join(number.to_bytes(2) for each in known for number in each)
    replies = {
        (18, 0): b"\0\0" + len(known).to_bytes(4) + versions,
        (17, 1): b"\0\0" + b"\0\0\0\1" + b"\0\5PLAIN",
        (36, 0): (58).to_bytes(2) + b"\0\3bad" + b"\0\0\0\0",
    }
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            while head := connection.recv(4, socket.MSG_WAITALL):
                body = connection.recv(int.from_bytes(head), socket.MSG_WAITALL)
                kind, version, correlation = int.from_bytes(body[:2]), int.from_bytes(body[2:4]), body[4:8]
                # 35: a later version of ApiVersions than it knows; the client asks again by the first.
                answer = correlation + replies.get((kind, version), (35).to_bytes(2) + b"\0\0\0\0")
                connection.sendall(len(answer).to_bytes(4) + answer)


def test_a_wrong_password(topic: str, caplog: pytest.LogCaptureFixture) -> None:
    """Events wait, and the log says what to look at, without the password."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_refusing_broker, args=[listener], daemon=True).start()
        sink = KafkaSink(
            f"127.0.0.1:{listener.getsockname()[1]}",
            topic,
            timeout=1.0,
            username="meter",
            secret="canary-password",
            settings={"security.protocol": "SASL_PLAINTEXT"},
        )
        with caplog.at_level(logging.ERROR):
            (outcome,) = sink.send([event(1)])
        sink.close()
        listener.shutdown(socket.SHUT_RDWR)
    assert isinstance(outcome, Retry)
    assert "AUTHENTICATION" in outcome.reason
    assert "check its secret" in caplog.text
    assert "canary" not in f"{caplog.text} {sink!r} {sink.name} {outcome!r}"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Retry),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Retry),
        (KafkaError._PURGE_QUEUE, Retry),
        (KafkaError._PURGE_INFLIGHT, Unknown),
        (KafkaError._MSG_TIMED_OUT, Unknown),
        (KafkaError.NOT_ENOUGH_REPLICAS, Retry),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, Unknown),
        (KafkaError.REQUEST_TIMED_OUT, Unknown),
        (KafkaError.MSG_SIZE_TOO_LARGE, Permanent),
    ],
)
def test_reports(code: int, kind: type) -> None:
    """What the broker surely does not have is tried again; what it may have is unknown."""
    assert isinstance(KafkaSink("x:1", "t")._outcome(KafkaError(code)), kind)


def test_a_child_ends_as_any_process_does(cluster: KafkaCluster, topic: str) -> None:
    """With a producer that it inherited, and one of its own; the parent goes on with its own."""
    script = f"""
import os, sys
from meter_mw.sinks.kafka import KafkaSink
from meter_mw.testing.sinks import event
sink = KafkaSink({cluster.servers!r}, {topic!r})
assert len(sink.send([event(1)])) == 1
child = os.fork()
if child == 0:
    sink.send([event(2)])
    sink.close()
    sys.exit(7)
status = os.waitpid(child, 0)[1]
sink.send([event(3)])
sink.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 7
    assert len(messages(cluster, topic)) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"acks": "1"}, "sets it itself"),
        ({"sasl.password": "x"}, "set secret instead"),
        ({"message.timeout.ms": "1"}, "set timeout instead"),
    ],
)
def test_settings_that_are_ours(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KafkaSink("x:1", "t", settings=settings)


def test_a_name_without_a_password() -> None:
    with pytest.raises(ValueError, match="go together"):
        KafkaSink("x:1", "t", username="me")


@pytest.mark.parametrize("servers", ["", "host", "host:0", "host:x", "a:1,,b:2", "a:1,b"])
def test_servers_that_cannot_be_used(servers: str) -> None:
    assert KIND.main.fault is not None
    assert KIND.main.fault(servers)


@pytest.mark.parametrize("name", ["", "a b", "..", "x" * 250, "é"])
def test_topics_that_cannot_be_used(name: str) -> None:
    fault = KIND.options["topic"].fault
    assert fault is not None
    assert fault(name)


def test_all_arrives_through_an_outage(cluster: KafkaCluster, topic: str, tmp_path: Path) -> None:
    """An app, its journal, brokers that freeze: the topic has what was recorded, and nothing besides."""
    rule = {"kafka": cluster.servers, "topic": topic, "timeout": "1 s", "settings": AT_ONCE}
    recorded = through_an_outage(tmp_path, rule, {}, cluster.freeze, cluster.thaw)
    found = {str(each["id"]): each for each in map(event_of, messages(cluster, topic))}
    assert found == {str(each["id"]): each for each in recorded}
