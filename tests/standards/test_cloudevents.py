"""What leaves over HTTP is CloudEvents 1.0 to another implementation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from meter_mw.sinks import Delivered, HttpSink
from meter_mw.sinks.apis import Api
from meter_mw.sinks.openmeter import OpenMeterSink
from meter_mw.sinks.webhook import WebhookSink
from meter_mw.testing.sinks import event
from support.fakes.vendor import Asked, Said, Vendor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.sinks import Sink


class Receiver(Vendor):
    """Takes everything."""

    def answer(self, asked: Asked, fault: str | None) -> Said:
        return Said(204)


OPENED = {
    "http": HttpSink,
    "webhook": lambda url: WebhookSink(url, "secret"),
    "openmeter v1": lambda url: OpenMeterSink(Api(url, None), "v1", ("requests",)),
    "openmeter v3": lambda url: OpenMeterSink(Api(url, None), "v3", ("requests",)),
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.mark.parametrize("name", OPENED)
def test_each_event_is_read_as_it_was_recorded(receiver: Receiver, name: str) -> None:
    """A batch is an array of structured events (HTTP binding, 3.3), each of which is parsed."""
    sink: Sink = OPENED[name](receiver.url)
    assert list(sink.send([event(1, "é"), event(2, "語")])) == [Delivered()] * 2
    sink.close()
    found = [json.loads(post.body) for post in receiver.posts]
    bodies = [json.dumps(each).encode() for each in (found[0] if isinstance(found[0], list) else found)]
    assert len(bodies) == 2
    for number, text, body in zip((1, 2), "é語", bodies, strict=True):
        parsed = from_http_event(HTTPMessage({"content-type": "application/cloudevents+json"}, body))
        assert (parsed.get_id(), parsed.get_source()) == (f"event-{number}", "urn:meter-mw:conformance")
        assert (parsed.get_type(), parsed.get_subject()) == ("meter_mw.request.v1", "acme")
        assert parsed.get_time().isoformat() == "2026-11-21T10:43:47.127149+00:00"
        assert parsed.get_data() == {"requests": 1, "text": text}


def test_a_webhook_is_read_with_its_own_header(receiver: Receiver) -> None:
    """The content type of the request says that the event is structured."""
    sink = WebhookSink(receiver.url, "secret")
    sink.send([event(1)])
    sink.close()
    (post,) = receiver.posts
    assert from_http_event(HTTPMessage(post.headers, post.body)).get_id() == "event-1"
