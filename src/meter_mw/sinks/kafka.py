"""The `kafka` sink: usage events as messages of one topic, keyed by subject.

CloudEvents 1.0.2, Kafka binding: binary (3.2) by default, attributes as headers `ce_…`, or structured
(3.3). An event without data always goes whole: without a value it would be a tombstone.
The producer is idempotent within its life; after a restart a message may come again, with its `ce_id`.
"""
# ruff: noqa: SLF001  -- an underscore is how librdkafka names errors of its own

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, Producer

from meter_mw.sinks.base import Delivered, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.envelope import STRUCTURED, Envelope
from meter_mw.sinks.kinds import TIMEOUT, Form, Option, Service, Settings, SinkKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from confluent_kafka import Message

_log = logging.getLogger("meter_mw.sinks")

_MARGIN = 1.5
"""Seconds beyond the timeout in which librdkafka, which looks once a second, tells what it gave up."""

_POLL = 0.1
_OURS = {
    "bootstrap.servers": "kafka",
    "message.timeout.ms": "timeout",
    "delivery.timeout.ms": "timeout",
    "sasl.username": "username",
    "sasl.password": "secret",
    "enable.idempotence": None,
    "acks": None,
    "request.required.acks": None,
    "partitioner": None,
}
_DOOR = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
_ABSENT = frozenset(
    {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
    }
)
_WAITED = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_QUEUE})
_UNSENT = frozenset({KafkaError._PURGE_QUEUE, KafkaError._QUEUE_FULL, KafkaError.NOT_ENOUGH_REPLICAS})


class KafkaSink:
    """Produces batches to a topic, and answers when each message is on all replicas in sync.

    `timeout` bounds a batch in seconds. `settings` are further properties of librdkafka. Messages of one
    subject are in one partition (murmur2, as Java clients choose it), in their order.
    Raises `ValueError` for settings that cannot be used.
    """

    max_batch = 1000
    horizon = None

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        timeout: float = 10.0,
        structured: bool = False,
        username: str | None = None,
        secret: str | None = None,
        settings: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        for ours in _OURS.keys() & (settings or {}):
            cure = f"set {_OURS[ours]} instead" if _OURS[ours] else "the sink sets it itself"
            raise ValueError(f"settings: {ours} is not set here; {cure}")
        if (username is None) != (secret is None):
            raise ValueError("username and secret go together")
        entrance = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"} if username else {}
        login = {"sasl.username": username, "sasl.password": secret} if username else {}
        self._options = {
            "client.id": "meter-mw",
            **entrance,
            **(settings or {}),
            **login,
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "message.timeout.ms": int(timeout * 1000),
        }
        self._servers = servers
        self._topic = topic
        self._timeout = timeout
        self._structured = structured
        self._producer: Producer | None = None
        self._pid = os.getpid()
        self._trouble: KafkaError | None = None
        self.name = name or f"kafka:{servers}/{topic}"

    def __repr__(self) -> str:
        return f"KafkaSink({self._servers!r}, {self._topic!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Produce the batch, and wait for the report of each message."""
        if not batch:
            return []
        try:
            producer = self._connected()
        except KafkaException as failure:
            return [Retry(reason=f"kafka: no producer: {_words(failure.args[0])}")] * len(batch)
        self._trouble = None
        outcomes: list[Outcome | None] = [None] * len(batch)
        for index, payload in enumerate(batch):
            outcomes[index] = self._produce(producer, payload, partial(self._report, outcomes, index))
        self._wait(producer, outcomes)
        found = [outcome or Unknown("kafka: no report came") for outcome in outcomes]
        self._complain(found)
        return found

    def close(self) -> None:
        """Let go of the producer; the next batch makes another."""
        if self._producer is None:
            return
        if self._pid != os.getpid():
            # Its threads stayed in the parent. To end them here takes librdkafka a second or more, and may
            # end the process: the object is never freed in this one.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
        else:
            self._producer.purge()
            self._producer.flush(_MARGIN)
        self._producer = None

    def _connected(self) -> Producer:
        if self._pid != os.getpid():
            self.close()
            self._pid = os.getpid()
        if self._producer is None:
            self._producer = Producer({**self._options, "error_cb": self._note}, logger=_log)
        return self._producer

    def _produce(
        self, producer: Producer, payload: bytes, report: Callable[[KafkaError | None, Message], None]
    ) -> Outcome | None:
        """Hand a message over; give an outcome where that is already certain."""
        envelope = Envelope.of(payload)
        if envelope is None:
            return Permanent("is no CloudEvent")
        key = (envelope.attributes.get("partitionkey") or envelope.subject).encode() or None
        value, headers = self._bound(payload, envelope)
        try:
            producer.produce(self._topic, value, key, headers=headers, on_delivery=report)
        except BufferError:
            producer.poll(0)
            return Retry(reason="kafka: the queue of the producer is full")
        except KafkaException as failure:
            return self._outcome(failure.args[0])
        return None

    def _bound(
        self, payload: bytes, envelope: Envelope
    ) -> tuple[bytes, list[tuple[str, str | bytes | None]]]:
        if self._structured or envelope.data is None:
            return payload, [("content-type", STRUCTURED.encode())]
        headers: list[tuple[str, str | bytes | None]] = [
            (f"ce_{name}", value.encode()) for name, value in envelope.attributes.items()
        ]
        return envelope.data, [*headers, ("content-type", envelope.content_type.encode())]

    def _wait(self, producer: Producer, outcomes: list[Outcome | None]) -> None:
        deadline = time.monotonic() + self._timeout + _MARGIN
        while None in outcomes and time.monotonic() < deadline:
            producer.poll(_POLL)
        if None in outcomes:
            # What is still in the queue must not leave it later, beside its own next attempt.
            producer.purge()
            producer.poll(_MARGIN)
            self.close()

    def _report(
        self, outcomes: list[Outcome | None], index: int, error: KafkaError | None, _: Message
    ) -> None:
        outcomes[index] = Delivered() if error is None else self._outcome(error)

    def _outcome(self, error: KafkaError) -> Outcome:
        code, words = error.code(), f"kafka: {_words(error)}"
        if code == KafkaError.MSG_SIZE_TOO_LARGE:
            return Permanent(words)
        if error.fatal():
            self._trouble = error
        if code in _DOOR | _ABSENT:
            self._trouble = self._trouble or error
            return Retry(reason=words)
        is_shut = self._trouble is not None and self._trouble.code() in _DOOR
        if is_shut and code in _WAITED:
            return Retry(reason=f"{words}: {_words(self._trouble)}")
        return Retry(reason=words) if code in _UNSENT else Unknown(words)

    def _note(self, error: KafkaError) -> None:
        if self._trouble is None or error.code() in _DOOR or error.fatal():
            self._trouble = error

    def _complain(self, outcomes: Sequence[Outcome]) -> None:
        """Say what waiting does not cure, and leave a producer that can do no more."""
        trouble = self._trouble
        if trouble is None or all(isinstance(each, Delivered) for each in outcomes):
            return
        if trouble.code() in _DOOR | _ABSENT:
            counts = Counter(type(each).__name__ for each in outcomes)
            _log.error(
                "%r: %s: check its secret, its rights and the topic; events wait (%s)",
                self,
                _words(trouble),
                dict(counts),
            )
        if trouble.fatal():
            self.close()


def _words(error: KafkaError | None) -> str:
    return f"{error.name()}: {error.str():.200}" if error else ""


def _open(settings: Settings, _: Service) -> KafkaSink:
    return KafkaSink(
        settings.text("kafka"),
        settings.text("topic"),
        timeout=settings.seconds("timeout"),
        structured=settings.text("mode") == "structured",
        username=settings.get_text("username"),
        secret=settings.get_text("secret"),
        settings=settings.table("settings"),
    )


def _fault_of_servers(servers: str) -> str | None:
    for each in servers.split(","):
        host, _, port = each.strip().rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
            return "a server is named as host:port, several with commas between them"
    return None


def _fault_of_topic(topic: str) -> str | None:
    legal = all(each.isascii() and (each.isalnum() or each in "._-") for each in topic)
    if legal and 0 < len(topic) <= 249 and topic not in (".", ".."):
        return None
    return "the name of a topic has 1 to 249 letters, digits, dots, underscores and hyphens"


KIND = SinkKind(
    "kafka",
    Option(Form.TEXT, "servers such as kafka-1:9092,kafka-2:9092", needed=True, fault=_fault_of_servers),
    {
        "topic": Option(Form.TEXT, "the name of a topic", needed=True, fault=_fault_of_topic),
        "mode": Option(Form.WORD, "binary or structured", default="binary", words=("binary", "structured")),
        "username": Option(Form.TEXT, "a name to log in by (SASL)"),
        "secret": Option(Form.SECRET, "a password by reference: ${KAFKA_PASSWORD}"),
        "settings": Option(Form.TABLE, "properties of librdkafka: {security.protocol: SSL}"),
        "timeout": TIMEOUT,
    },
    _open,
)
