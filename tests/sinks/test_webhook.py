"""The webhook sink, against a real server, its signatures checked by another implementation."""

from __future__ import annotations

import base64
import json
import logging
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown
from meter_mw.sinks.kinds import Service
from meter_mw.sinks.webhook import KIND, WebhookSink
from meter_mw.testing.sinks import SinkConformance, event
from support.journeys import through_an_outage

from .conftest import Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler

KEY = b"canary-key-of-the-hook-0123456789"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
FORMER = "canary-former-secret-of-the-hook"


class WebhookRig:
    secrets = (SECRET, FORMER, "canary-query", KEY.decode())

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        url = f"http://127.0.0.1:{receiver.port}/hook?token=canary-query"
        self.sink = WebhookSink(url, SECRET, FORMER)

    def received(self) -> list[dict[str, object]]:
        return self._receiver.accepted

    def fail(self) -> None:
        self._receiver.answer = lambda post: Reply(503)

    def recover(self) -> None:
        self._receiver.answer = lambda post: Reply()


class TestWebhookSink(SinkConformance):
    @pytest.fixture
    def rig(self, receiver: Receiver) -> Iterator[WebhookRig]:
        rig = WebhookRig(receiver)
        yield rig
        rig.sink.close()


@pytest.fixture
def sink(receiver: Receiver) -> Iterator[WebhookSink]:
    sink = WebhookSink(receiver.url, SECRET)
    yield sink
    sink.close()


def test_each_event_is_a_webhook_of_its_own(receiver: Receiver, sink: WebhookSink) -> None:
    """Each verifies, and has the event's id."""
    sink.send([event(1), event(2)])
    for number, post in enumerate(receiver.posts, start=1):
        assert post.headers["webhook-id"] == f"event-{number}"
        assert Webhook(SECRET).verify(post.body, post.headers) == json.loads(event(number))
    assert len({post.port for post in receiver.posts}) == 1


def test_a_signature_covers_the_body(receiver: Receiver, sink: WebhookSink) -> None:
    """A byte changed on the way is found."""
    sink.send([event(1)])
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(receiver.posts[0].body.replace(b"1", b"2", 1), receiver.posts[0].headers)


def test_both_secrets_verify_while_they_change(receiver: Receiver) -> None:
    """A receiver that has only the old secret, and one that has only the new, both accept."""
    sink = WebhookSink(receiver.url, SECRET, FORMER)
    sink.send([event(1)])
    sink.close()
    (post,) = receiver.posts
    assert len(post.headers["webhook-signature"].split(" ")) == 2
    assert Webhook(SECRET).verify(post.body, post.headers)
    assert Webhook(FORMER.encode()).verify(post.body, post.headers)


def test_an_attempt_has_a_time_of_its_own_and_the_id_of_the_event(receiver: Receiver) -> None:
    """`webhook-id` and body are constant across attempts, the timestamp is the attempt's."""
    moments = iter([100.0, 100.0, 200.0, 200.0])
    sink = WebhookSink(receiver.url, SECRET, clock=lambda: next(moments))
    receiver.answer = lambda post: Reply(503)
    sink.send([event(1)])
    sink.send([event(1)])
    sink.close()
    first, second = receiver.posts
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert [first.headers["webhook-timestamp"], second.headers["webhook-timestamp"]] == ["100", "200"]


def test_gone_ends_the_sending_until_a_restart(
    receiver: Receiver, sink: WebhookSink, caplog: pytest.LogCaptureFixture
) -> None:
    """After a 410 nothing is sent any more and nothing given up; a new sink tries again."""
    receiver.answer = lambda post: Reply(410)
    assert [type(outcome) for outcome in sink.send([event(1), event(2)])] == [Retry, Retry]
    receiver.answer = lambda post: Reply()
    assert isinstance(sink.send([event(1)])[0], Retry)
    assert len(receiver.posts) == 1
    assert [record.levelno for record in caplog.records if "wants no more" in record.message] == [
        logging.CRITICAL
    ]
    again = WebhookSink(receiver.url, SECRET)
    assert list(again.send([event(1), event(2)])) == [Delivered()] * 2
    again.close()


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404])
def test_what_is_no_2xx_fails_and_redirects_are_not_followed(
    receiver: Receiver, sink: WebhookSink, status: int
) -> None:
    """The event waits, and the rest is not sent."""
    receiver.answer = lambda post: Reply(status, {"Location": f"http://127.0.0.1:{receiver.port}/else"})
    assert [type(outcome) for outcome in sink.send([event(1), event(2)])] == [Retry, Retry]
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207])
def test_every_2xx_accepts_whatever_its_body_says(receiver: Receiver, sink: WebhookSink, status: int) -> None:
    """The standard knows no body of an answer."""
    body = b'{"results": [{"id": "event-1", "status": "permanent"}]}'
    receiver.answer = lambda post: Reply(status, body=b"" if status == 204 else body)
    assert list(sink.send([event(1)])) == [Delivered()]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_throttled_sink_waits_as_told(receiver: Receiver, sink: WebhookSink, status: int) -> None:
    """`Retry-After` is passed on for what was sent and for what was not."""
    receiver.answer = lambda post: Reply(status, {"Retry-After": "17"})
    outcomes = sink.send([event(1), event(2)])
    assert [outcome.after for outcome in outcomes if isinstance(outcome, Retry)] == [17.0, 17.0]
    assert len(receiver.posts) == 1


def test_a_refused_event_does_not_hold_up_the_rest(receiver: Receiver, sink: WebhookSink) -> None:
    """400 parks the one, 409 says that it is there, the others arrive."""
    statuses = {"event-2": 400, "event-3": 409}
    receiver.answer = lambda post: Reply(statuses.get(str(post.ids[0]), 204))
    outcomes = sink.send([event(number) for number in range(1, 5)])
    assert list(outcomes) == [Delivered(), Permanent("HTTP 400"), Duplicate(), Delivered()]


@pytest.mark.parametrize(
    "payload", [b"{", b"[]", b'{"id": 1}', b'{"id": ""}', b'{"id": "a.b"}', b'{"id": "a\\nb"}']
)
def test_what_has_no_id_for_a_header_is_parked(receiver: Receiver, sink: WebhookSink, payload: bytes) -> None:
    """Nothing of it is sent, and the next is."""
    outcomes = sink.send([payload, event(1)])
    assert [type(outcome) for outcome in outcomes] == [Permanent, Delivered]
    assert len(receiver.posts) == 1


def test_a_lost_answer_is_unknown_and_the_rest_waits(receiver: Receiver, sink: WebhookSink) -> None:
    """The receiver tells by the id that it had the event."""

    def reset(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    receiver.answer = lambda post: Reply(200, act=reset)
    assert [type(outcome) for outcome in sink.send([event(1), event(2)])] == [Unknown, Retry]
    receiver.answer = lambda post: Reply()
    assert list(sink.send([event(1), event(2)])) == [Delivered()] * 2
    assert len({post.headers["webhook-id"] for post in receiver.posts}) == 2


def test_the_kind_opens_it(receiver: Receiver) -> None:
    """With the settings of a policy, and the defaults of the rest."""
    settings = KIND.set({"webhook": receiver.url, "secret": SECRET})
    sink = KIND.open(settings, Service("urn:meter-mw:shop", ("requests",), Path("journal")))
    assert list(sink.send([event(1)])) == [Delivered()]
    assert sink.name.startswith(f"webhook:http://127.0.0.1:{receiver.port}#")
    sink.close()


def test_all_arrives_through_an_outage(receiver: Receiver, tmp_path: Path) -> None:
    """What the receiver accepted is what was recorded, each once and signed."""
    rule = {"webhook": receiver.url, "secret": "${HOOK_SECRET}"}

    def fail() -> None:
        receiver.answer = lambda post: Reply(503, {"Retry-After": "0"})

    def recover() -> None:
        receiver.answer = lambda post: Reply()

    recorded = through_an_outage(tmp_path, rule, {"HOOK_SECRET": SECRET}, fail, recover)
    assert sorted(receiver.accepted, key=lambda each: str(each["id"])) == sorted(
        recorded, key=lambda each: str(each["id"])
    )
    assert len(recorded) == 45
    assert all(Webhook(SECRET).verify(post.body, post.headers) for post in receiver.posts)
