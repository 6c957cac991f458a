"""The http sink, against a real server on a real socket."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest
from standardwebhooks import Webhook

from meter_mw.sinks import Delivered, Duplicate, HttpSink, Permanent, Retry, Unknown
from meter_mw.testing.sinks import SinkConformance, event
from support.certificates import certificate_for

from .conftest import Post, Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler

SECRET = "canary-secret-of-the-hook"


class HttpRig:
    secrets = (SECRET, "canary-password", "canary-query")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        url = f"http://biller:canary-password@127.0.0.1:{receiver.port}/events?token=canary-query"
        self.sink = HttpSink(url, SECRET)

    def received(self) -> list[dict[str, object]]:
        return self._receiver.accepted

    def fail(self) -> None:
        self._receiver.answer = lambda post: Reply(503)

    def recover(self) -> None:
        self._receiver.answer = lambda post: Reply()


class TestHttpSink(SinkConformance):
    @pytest.fixture
    def rig(self, receiver: Receiver) -> Iterator[HttpRig]:
        rig = HttpRig(receiver)
        yield rig
        rig.sink.close()


@pytest.fixture
def sink(receiver: Receiver) -> Iterator[HttpSink]:
    sink = HttpSink(receiver.url, timeout=5)
    yield sink
    sink.close()


def test_a_signed_batch(receiver: Receiver) -> None:
    """One POST of a CloudEvents batch, with credentials and a signature that verifies."""
    sink = HttpSink(f"http://u%40x:p@127.0.0.1:{receiver.port}/in?x=1", SECRET)
    sink.send([event(1), event(2)])
    sink.close()
    (post,) = receiver.posts
    assert post.headers["content-type"].startswith("application/cloudevents-batch+json")
    assert post.headers["authorization"] == "Basic dUB4OnA="
    assert Webhook(SECRET.encode()).verify(post.body, post.headers)


def test_the_same_batch_has_the_same_id(receiver: Receiver) -> None:
    """`webhook-id` is constant across attempts, the timestamp is the attempt's."""
    now = iter([100.0, 100.0, 200.0, 200.0])
    sink = HttpSink(receiver.url, SECRET, clock=lambda: next(now))
    receiver.answer = lambda post: Reply(503)
    sink.send([event(1)])
    sink.send([event(1)])
    sink.close()
    first, second = receiver.posts
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [first.headers["webhook-timestamp"], second.headers["webhook-timestamp"]] == ["100", "200"]


def test_the_connection_is_kept(receiver: Receiver, sink: HttpSink) -> None:
    """Batches share a connection, also when the answers have bodies and failures are among them."""
    replies = iter(
        [Reply(200, body=b"x" * 70_000), Reply(503, body=b"busy"), Reply(204), Reply(200, body=b"{}")]
    )
    receiver.answer = lambda post: next(replies)
    for number in range(4):
        sink.send([event(number)])
    assert len({post.port for post in receiver.posts}) == 1


def test_a_poison_event_stands_alone(receiver: Receiver, sink: HttpSink) -> None:
    """The refused event is found by halving, and each of the others is accepted once."""
    receiver.answer = lambda post: Reply(422, body=b"bad event") if "event-37" in post.ids else Reply()
    outcomes = sink.send([event(number) for number in range(100)])
    assert outcomes[37] == Permanent("HTTP 422 'bad event'")
    assert [outcome for outcome in outcomes if outcome != Delivered()] == [outcomes[37]]
    assert receiver.accepted_ids == [f"event-{number}" for number in range(100) if number != 37]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_json_that_is_none_does_not_hold_up_the_rest(receiver: Receiver, sink: HttpSink, status: int) -> None:
    """A payload that breaks the batch's JSON is found like any poison."""

    def strict(post: Post) -> Reply:
        try:
            json.loads(post.body)
        except ValueError:
            return Reply(status)
        return Reply()

    receiver.answer = strict
    outcomes = sink.send([event(1), b"{", event(2)])
    assert [type(outcome) for outcome in outcomes] == [Delivered, Permanent, Delivered]
    assert receiver.accepted_ids == ["event-1", "event-2"]


def test_a_batch_too_large_is_halved(receiver: Receiver, sink: HttpSink) -> None:
    """413 shrinks the batch to what the server takes."""
    receiver.answer = lambda post: Reply(413) if len(post.ids) > 3 else Reply()
    assert list(sink.send([event(number) for number in range(10)])) == [Delivered()] * 10
    assert receiver.accepted_ids == [f"event-{number}" for number in range(10)]


def test_a_conflict_is_a_duplicate(receiver: Receiver, sink: HttpSink) -> None:
    """409 to a batch is halved; an event alone is there already."""
    receiver.answer = lambda post: Reply(409) if "event-2" in post.ids else Reply()
    assert list(sink.send([event(1), event(2), event(3)])) == [Delivered(), Duplicate(), Delivered()]


@pytest.mark.parametrize(
    ("value", "after"), [("17", 17.0), ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0), ("nonsense", None)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_passed_on(receiver: Receiver, status: int, value: str, after: float | None) -> None:
    """Both forms of the field reach the outcome of every event."""
    sink = HttpSink(receiver.url, clock=lambda: 1767225600.0)
    receiver.answer = lambda post: Reply(status, {"Retry-After": value})
    outcomes = sink.send([event(1), event(2)])
    sink.close()
    assert list(outcomes) == [Retry(after, f"HTTP {status}")] * 2


def test_an_outage_between_the_halves(receiver: Receiver, sink: HttpSink) -> None:
    """What was accepted stays so, and what was not sent is retried no sooner than was asked."""
    replies = iter([Reply(400), Reply(204), Reply(429, {"Retry-After": "5"})])
    receiver.answer = lambda post: next(replies)
    outcomes = sink.send([event(number) for number in range(4)])
    assert list(outcomes[:2]) == [Delivered()] * 2
    assert [outcome.after for outcome in outcomes[2:] if isinstance(outcome, Retry)] == [5.0, 5.0]


@pytest.mark.parametrize("status", [302, 401, 403, 404, 410])
def test_an_operators_mistake_is_loud(
    receiver: Receiver, sink: HttpSink, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No event is given up for a wrong address or token, redirects are not followed, the log says so."""
    receiver.answer = lambda post: Reply(status, {"Location": "http://169.254.169.254/latest"})
    with caplog.at_level(logging.ERROR):
        assert list(sink.send([event(1)])) == [Retry(None, f"HTTP {status}")]
    assert len(receiver.posts) == 1
    assert str(status) in caplog.text


def test_a_lost_answer_is_unknown(receiver: Receiver, sink: HttpSink) -> None:
    """When the server took the batch and the connection broke, nobody knows."""

    def reset(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    receiver.answer = lambda post: Reply(200, act=reset)
    assert isinstance(sink.send([event(1)])[0], Unknown)
    receiver.answer = lambda post: Reply()
    assert list(sink.send([event(1)])) == [Delivered()]
    assert receiver.accepted_ids == ["event-1", "event-1"]


def test_nobody_there_is_retried() -> None:
    """A refused connection is a retry: nothing was sent."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        sink = HttpSink(f"http://127.0.0.1:{bound.getsockname()[1]}/")
        assert isinstance(sink.send([event(1)])[0], Retry)


def test_a_dribbling_server_is_cut_off(receiver: Receiver) -> None:
    """A byte a moment does not keep an attempt alive past its timeout."""
    done = threading.Event()

    def dribble(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not done.wait(0.02):
            handler.wfile.write(b"x")

    receiver.answer = lambda post: Reply(200, act=dribble)
    sink = HttpSink(receiver.url, timeout=0.3)
    begin = time.monotonic()
    outcome = sink.send([event(1)])[0]
    taken = time.monotonic() - begin
    done.set()
    sink.close()
    assert isinstance(outcome, Unknown)
    assert taken < 3


def test_an_endless_answer_is_cut_off(receiver: Receiver, sink: HttpSink) -> None:
    """Of a body without end, only the first MiB is read."""

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(1 << 12):
            handler.wfile.write(b"x" * (1 << 16))

    receiver.answer = lambda post: Reply(200, act=endless)
    assert list(sink.send([event(1)])) == [Delivered()]
    receiver.answer = lambda post: Reply()
    assert list(sink.send([event(2)])) == [Delivered()]


def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, sink: HttpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events go where the policy says."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert list(sink.send([event(1)])) == [Delivered()]


def test_private_addresses_can_be_refused(receiver: Receiver) -> None:
    """With `allow_private=False`, nothing is sent to a loopback address, by number or by name."""
    for host in ("127.0.0.1", "localhost"):
        sink = HttpSink(f"http://{host}:{receiver.port}/", allow_private=False)
        outcome = sink.send([event(1)])[0]
        assert isinstance(outcome, Retry)
    assert receiver.posts == []


@pytest.mark.parametrize("url", ["ftp://x/", "billing.example", "http://", "http://[::1", "https:///events"])
def test_a_useless_url_is_refused(url: str) -> None:
    """Only http and https with a host will do."""
    with pytest.raises(ValueError, match="http"):
        HttpSink(url)


def test_secrets_stay_out_of_logs(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """Through success, refusal, outage and breakdown, no log record holds a secret."""
    rig = HttpRig(receiver)
    with caplog.at_level(logging.DEBUG):
        for reply in (Reply(), Reply(404), Reply(503), Reply(400), Reply(200, act=lambda handler: None)):
            receiver.answer = lambda post, reply=reply: reply
            rig.sink.send([event(1)])
        receiver.close()
        rig.sink.close()
        rig.sink.send([event(1)])
    shown = caplog.text + repr([vars(record) for record in caplog.records])
    assert [secret for secret in rig.secrets if secret in shown] == []


def test_names_differ_by_path_and_not_by_password() -> None:
    """A cursor survives a change of password, and two paths of a host have two cursors."""
    assert HttpSink("http://u:a@h/x").name == HttpSink("http://u:b@h/x").name != HttpSink("http://h/y").name


def test_certificates_are_verified(receiver: Receiver) -> None:
    """A server without a certificate that the system trusts gets nothing."""
    sink = HttpSink(f"https://127.0.0.1:{receiver.port}/", timeout=1)
    assert isinstance(sink.send([event(1)])[0], Retry)
    assert receiver.posts == []


def test_a_certificate_must_be_trusted_and_name_the_host(receiver: Receiver) -> None:
    """Our own authority is trusted when named; another host's certificate never is."""
    chain, authority = certificate_for("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    named, numbered = f"https://localhost:{receiver.port}/", f"https://127.0.0.1:{receiver.port}/"
    for sink, outcome in (
        (HttpSink(named, timeout=5), Retry),
        (HttpSink(numbered, timeout=5, ca_file=authority), Retry),
        (HttpSink(named, timeout=5, ca_file=authority), Delivered),
    ):
        assert isinstance(sink.send([event(1)])[0], outcome)
        sink.close()
    assert receiver.accepted_ids == ["event-1"]
