"""What passes behaves as it does without us: ASGI and WSGI to the letter."""

from __future__ import annotations

import asyncio
import io
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest
import websockets
from harness import Checked, Gateway, call, environ, has_recorded, http_scope
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse
from websockets.sync.client import connect
from werkzeug.middleware.lint import LintMiddleware

import meter_mw.asgi
import meter_mw.wsgi
from meter_mw import UsageError, current

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from harness import EdgePolicy
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from servers import Server

START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"x-own", b"1"), (b"x-own", b"2")],
}
CHUNKS: list[Message] = [
    {"type": "http.response.body", "body": b"one", "more_body": True},
    {"type": "http.response.body", "body": b"", "more_body": True},
    {"type": "http.response.body", "body": b"three", "more_body": True},
    {"type": "http.response.body"},
]
TIGHT = [(b"x-api-key", b"tight.someone")]


def asgi(app: ASGIApp, policy: EdgePolicy) -> meter_mw.asgi.MeterMiddleware:
    return meter_mw.asgi.MeterMiddleware(app, policy=policy.path)


def wsgi(app: WSGIApplication, policy: EdgePolicy) -> meter_mw.wsgi.MeterMiddleware:
    return meter_mw.wsgi.MeterMiddleware(app, policy=policy.path)


def recorded(
    policy: EdgePolicy, app: meter_mw.asgi.MeterMiddleware | meter_mw.wsgi.MeterMiddleware
) -> list[object]:
    """Give (status, request bytes, response bytes) of every event."""
    data = [event["data"] for event in policy.events(app.meter)]
    return [(each["status"], each["request_bytes"], each["response_bytes"]) for each in data]


async def saying_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without an answer."""


async def speaking(scope: Scope, receive: Receive, send: Send) -> None:
    for message in (START, *CHUNKS):
        await send(message)


def test_messages_pass_one_for_one(edge_policy: EdgePolicy) -> None:
    """Bodies are the very messages that the app sent; the start gains fields at its end and nothing else."""
    app = asgi(speaking, edge_policy)
    sent = asyncio.run(call(app, headers=TIGHT))
    assert all(there is here for there, here in zip(sent[1:], CHUNKS, strict=True))
    assert sent[0] == {
        **START,
        "headers": [
            *START["headers"],
            (b"ratelimit-policy", b'"tight";q=2;w=2'),
            (b"ratelimit", b'"tight";r=1;t=1'),
        ],
    }
    assert START["headers"] == [(b"x-own", b"1"), (b"x-own", b"2")]
    assert recorded(edge_policy, app) == [(200, 0, 8)]


def test_exposed_fields_are_merged(edge_policy: EdgePolicy) -> None:
    """All that the app exposes, in however many lines, stays exposed beside ours, in both worlds."""
    lines = [
        ("access-control-expose-headers", "X-One, ratelimit"),
        ("access-control-expose-headers", "X-Two"),
    ]
    merged = "X-One, ratelimit, X-Two, RateLimit-Policy"

    async def exposing(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in lines]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(CHUNKS[3])

    def wsgi_exposing(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(lines))
        return []

    app = asgi(exposing, edge_policy)
    sent = asyncio.run(call(app, headers=[*TIGHT, (b"origin", b"https://shop.example")]))
    found = [value for name, value in sent[0]["headers"] if name == b"access-control-expose-headers"]
    assert found == [merged.encode()]
    gateway = Gateway()
    also = meter_mw.wsgi.MeterMiddleware(wsgi_exposing, policy=app.meter.policy)
    gateway.serve(also, environ(HTTP_X_API_KEY="tight.someone", HTTP_ORIGIN="https://shop.example"))
    ((_, headers),) = gateway.started
    assert [value for name, value in headers if name.lower() == "access-control-expose-headers"] == [merged]


def test_a_refused_head_has_no_body(edge_policy: EdgePolicy) -> None:
    """The fields of the refusal come without its content, in both worlds; the app sees nothing of it."""
    app = asgi(saying_nothing, edge_policy)
    start, body = asyncio.run(call(app, method="HEAD", headers=[(b"x-api-key", b"a,b")]))
    assert (start["status"], body.get("body", b"")) == (400, b"")
    assert int(dict(start["headers"])[b"content-length"]) > 100
    refusing = meter_mw.wsgi.MeterMiddleware(answering([b"x"]), policy=app.meter.policy)
    gateway = Gateway()
    assert b"".join(gateway.serve(refusing, environ("HEAD", HTTP_X_API_KEY="a,b"))) == b""
    assert gateway.started[0][0] == "400 Bad Request"


def test_a_background_task_runs_after_the_response(edge_policy: EdgePolicy) -> None:
    """It finds the response sent, and may still ask for the exchange."""
    server, seen = Checked(), []

    async def later() -> None:
        seen.append((len(server.sent), current().ended, current().subject))

    app = asgi(PlainTextResponse("x", background=BackgroundTask(later)), edge_policy)
    asyncio.run(app(http_scope(), server.receive, server.send))
    assert seen == [(2, True, "someone")]


def test_context_variables_pass_both_ways(edge_policy: EdgePolicy) -> None:
    """The app sees what the server set, and the server what the app set."""
    variable: ContextVar[str] = ContextVar("variable")

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        assert variable.get() == "the server's"
        variable.set("the app's")
        await speaking(scope, receive, send)

    async def main() -> str:
        variable.set("the server's")
        await call(asgi(inner, edge_policy))
        return variable.get()

    assert asyncio.run(main()) == "the app's"


def test_the_scope_is_the_same_object(edge_policy: EdgePolicy) -> None:
    """A middleware outside still sees what the router wrote into the scope."""
    scope, server = http_scope(), Checked()

    async def routing(inner: Scope, receive: Receive, send: Send) -> None:
        assert inner is scope
        inner["route"] = "/v1/items/{id}"
        await speaking(inner, receive, send)

    asyncio.run(asgi(routing, edge_policy)(scope, server.receive, server.send))
    assert scope["route"] == "/v1/items/{id}"


def test_an_error_passes_and_is_metered(edge_policy: EdgePolicy) -> None:
    """The server gets the app's own exception; the event says 500."""
    failure = ValueError("the app's")

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise failure

    app = asgi(failing, edge_policy)
    with pytest.raises(ValueError, match="the app's") as caught:
        asyncio.run(call(app))
    assert caught.value is failure
    assert recorded(edge_policy, app) == [(500, 0, 0)]


def test_an_error_in_the_middle_keeps_what_was_sent(edge_policy: EdgePolicy) -> None:
    """The status that the client has read stays, and so do its bytes."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(CHUNKS[0])
        raise ValueError

    app = asgi(failing, edge_policy)
    with pytest.raises(ValueError):  # noqa: PT011
        asyncio.run(call(app))
    assert recorded(edge_policy, app) == [(200, 0, 3)]


def test_no_answer_is_500_or_499(edge_policy: EdgePolicy) -> None:
    """A server answers 500 for an app that says nothing; a client that left first is on record as 499."""
    app = asgi(saying_nothing, edge_policy)
    asyncio.run(call(app))

    async def leaving(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    left = meter_mw.asgi.MeterMiddleware(leaving, policy=app.meter.policy)
    asyncio.run(call(left, incoming=[{"type": "http.disconnect"}]))
    assert left.meter.flush()
    assert recorded(edge_policy, app) == [(500, 0, 0), (499, 0, 0)]


@pytest.mark.parametrize(("sends", "expected"), [(0, (499, 0, 0)), (2, (200, 0, 3)), (4, (200, 0, 8))])
def test_a_cancellation_passes_and_is_metered(
    edge_policy: EdgePolicy, sends: int, expected: tuple[int, int, int]
) -> None:
    """A cancelled app is cancelled, leaves no task behind, and what it sent is counted."""

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (START, *CHUNKS)[:sends]:
            await send(message)
        await asyncio.Event().wait()

    app = asgi(waiting, edge_policy)

    async def main() -> int:
        task = asyncio.create_task(call(app))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
    assert recorded(edge_policy, app) == [expected]


def test_an_app_may_read_after_it_began_to_send(edge_policy: EdgePolicy) -> None:
    """What the watch for the client has taken meanwhile reaches the app, in order and once."""
    parts = [
        {"type": "http.request", "body": body, "more_body": more}
        for body, more in ((b"ab", True), (b"c", False))
    ]
    seen: list[Message] = []

    async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (START, *CHUNKS[:3]):
            await send(message)
            await asyncio.sleep(0)
        seen.extend([await receive(), await receive()])
        await send(CHUNKS[3])

    app = asgi(echoing, edge_policy)
    asyncio.run(call(app, incoming=parts))
    assert all(there is here for there, here in zip(seen, parts, strict=True))
    assert recorded(edge_policy, app) == [(200, 3, 8)]


def test_a_body_that_is_not_read_stays_with_the_server(edge_policy: EdgePolicy) -> None:
    """At most one part of it is taken, and none is counted."""
    server = Checked([{"type": "http.request", "body": b"abc", "more_body": True}] * 9)

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(20):
            await send(CHUNKS[0])
        await send(CHUNKS[3])

    app = asgi(streaming, edge_policy)
    asyncio.run(app(http_scope(), server.receive, server.send))
    assert server.received == 1
    assert recorded(edge_policy, app) == [(200, 0, 60)]


@pytest.mark.parametrize("listens", [True, False])
def test_a_client_that_leaves_stops_the_count(edge_policy: EdgePolicy, *, listens: bool) -> None:
    """Whether the app looks out for the client or we do."""
    server = Checked(leaves_after=5)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        async for chunk in chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    app = asgi(StreamingResponse(chunks()) if listens else raw, edge_policy)
    asyncio.run(app(http_scope(), server.receive, server.send))
    ((status, _, size),) = recorded(edge_policy, app)  # type: ignore[misc]
    assert status == 200
    assert 500_000 <= size <= 800_000
    assert server.crossings == 0


def test_current_is_the_outer_request_again(edge_policy: EdgePolicy) -> None:
    """A metered app that calls another one in this process has its own exchange back."""
    inner = asgi(speaking, edge_policy)
    seen = []

    async def calling(scope: Scope, receive: Receive, send: Send) -> None:
        before = current()
        await call(inner)
        seen.append(current() is before)
        await speaking(scope, receive, send)

    outer = meter_mw.asgi.MeterMiddleware(calling, policy=inner.meter.policy)
    asyncio.run(call(outer))
    assert seen == [True]
    with pytest.raises(UsageError, match="no metered request"):
        current()


LIFESPAN: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}}


async def _lifespan(app: ASGIApp) -> list[str]:
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await app(dict(LIFESPAN), receive, send)
    return sent


def test_lifespan_passes_and_flushes(edge_policy: EdgePolicy) -> None:
    """Start-up and shutdown reach the app; events are delivered before shutdown is complete."""

    async def living(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await speaking(scope, receive, send)
            return
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        await call(app)
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})

    app = asgi(living, edge_policy)
    assert asyncio.run(_lifespan(app)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert len(edge_policy.sink.read_text().splitlines()) == 1


def test_a_failed_start_passes(edge_policy: EdgePolicy) -> None:
    """A start-up that fails is the server's to hear of, as message and as exception."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no"})

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no lifespan here")

    app = asgi(failing, edge_policy)
    assert asyncio.run(_lifespan(app)) == ["lifespan.startup.failed"]
    with pytest.raises(RuntimeError, match="no lifespan here"):
        asyncio.run(_lifespan(meter_mw.asgi.MeterMiddleware(refusing, policy=app.meter.policy)))


SOCKET = {"type": "websocket", "path": "/v1/talk"}


async def _converse(app: ASGIApp, incoming: list[Message], **changes: object) -> list[Message]:
    sent: list[Message] = []
    scope = http_scope(**SOCKET, **changes)  # type: ignore[arg-type]
    del scope["method"]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def test_a_websocket_is_one_request(edge_policy: EdgePolicy) -> None:
    """It is counted when it ends, with its bytes both ways; its messages pass untouched."""
    text: Message = {"type": "websocket.send", "text": "HELLO"}

    async def talking(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
        await receive()
        await send(text)
        await send({"type": "websocket.close"})

    app = asgi(talking, edge_policy)
    incoming: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
    sent = asyncio.run(_converse(app, incoming, headers=TIGHT))
    assert sent[0]["headers"][0] == (b"x-own", b"1")
    assert (b"ratelimit", b'"tight";r=1;t=1') in sent[0]["headers"]
    assert sent[1] is text
    assert recorded(edge_policy, app) == [(101, 5, 5)]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ({"type": "websocket.close"}, 403),
        ({"type": "websocket.http.response.start", "status": 418, "headers": []}, 418),
    ],
)
def test_a_websocket_that_the_app_turns_away(edge_policy: EdgePolicy, message: Message, status: int) -> None:
    """The status on record is the one that the client gets."""

    async def declining(scope: Scope, receive: Receive, send: Send) -> None:
        await send(message)

    app = asgi(declining, edge_policy)
    assert asyncio.run(_converse(app, [])) == [message]
    assert recorded(edge_policy, app) == [(status, 0, 0)]


def test_a_websocket_whose_app_fails(edge_policy: EdgePolicy) -> None:
    """A failure before the handshake is over is a 500."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError

    app = asgi(failing, edge_policy)
    with pytest.raises(ValueError):  # noqa: PT011
        asyncio.run(_converse(app, []))
    assert recorded(edge_policy, app) == [(500, 0, 0)]


def test_a_websocket_refused(edge_policy: EdgePolicy) -> None:
    """It gets the whole refusal where the server can send one, else a close before it was accepted."""
    app = asgi(saying_nothing, edge_policy)
    short: Message = {"headers": [(b"x-api-key", b"a,b")]}
    connecting: Message = {"type": "websocket.connect"}
    closed = asyncio.run(_converse(app, [connecting], extensions=None, **short))
    assert closed == [{"type": "websocket.close", "code": 1008, "reason": "Bad Request"}]
    start, body = asyncio.run(
        _converse(app, [connecting], extensions={"websocket.http.response": {}}, **short)
    )
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 400)
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert b'"status":400' in body["body"]


@pytest.mark.parametrize("name", ["uvicorn-h11", "uvicorn-httptools", "hypercorn"])
def test_websockets_on_real_servers(name: str, serve: Callable[[str], Server]) -> None:
    """Two fit, the third is refused before it is accepted, with its wait; each accepted one is one event."""
    server = serve(name)
    subject_name = f"ws-{name}"
    url = f"ws://127.0.0.1:{server.port}/v1/talk"
    fields = {"X-API-Key": f"tight.{subject_name}"}
    for _ in range(2):
        with connect(url, additional_headers=fields) as socket:
            socket.send("hello")
            assert socket.recv() == "HELLO"
            assert socket.response is not None
            assert "RateLimit" in socket.response.headers
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(url, additional_headers=fields).__enter__()
    assert refused.value.response.status_code == 429
    assert refused.value.response.headers["Retry-After"] == "1"
    events = server.events_of(subject_name, 2)
    assert [(each["data"]["status"], each["data"]["requests"]) for each in events] == [(101, 1)] * 2  # type: ignore[index]


class Body:
    """An app's iterable that says what happens to it."""

    def __init__(self, chunks: Iterable[bytes], *, close_fails: bool = False) -> None:
        self._chunks = iter(chunks)
        self._close_fails = close_fails
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self.closed += 1
        if self._close_fails:
            raise ValueError("the app's close")


def answering(body: Iterable[bytes]) -> WSGIApplication:
    def app(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("X-Own", "1"), ("X-Own", "2")])
        return body

    return app


def test_chunks_pass_one_for_one(edge_policy: EdgePolicy) -> None:
    """Empty ones included; the app's fields come first; its close is called once."""
    chunks = [b"one", b"", b"three"]
    body = Body(chunks)
    app, gateway = wsgi(answering(body), edge_policy), Gateway()
    got = gateway.serve(app, environ(HTTP_X_API_KEY="tight.someone"))
    assert all(there is here for there, here in zip(got, chunks, strict=True))
    assert gateway.started == [
        (
            "200 OK",
            [
                ("X-Own", "1"),
                ("X-Own", "2"),
                ("RateLimit-Policy", '"tight";q=2;w=2'),
                ("RateLimit", '"tight";r=1;t=1'),
            ],
        )
    ]
    assert body.closed == 1
    assert recorded(edge_policy, app) == [(200, 0, 8)]


def test_a_close_that_raises(edge_policy: EdgePolicy) -> None:
    """The server hears of it, and the exchange is finished all the same."""
    app = wsgi(answering(Body([b"one"], close_fails=True)), edge_policy)
    with pytest.raises(ValueError, match="the app's close"):
        Gateway().serve(app, environ())
    assert recorded(edge_policy, app) == [(200, 0, 3)]


@pytest.mark.parametrize(("taken", "size"), [(0, 0), (1, 3), (2, 6)])
def test_a_body_that_is_closed_early(edge_policy: EdgePolicy, taken: int, size: int) -> None:
    """What the server took is counted, if it took any."""
    body = Body([b"one", b"two", b"three"])
    app, gateway = wsgi(answering(body), edge_policy), Gateway()
    served = app(environ(), gateway.start_response)
    iterator = iter(served)
    for _ in range(taken):
        next(iterator)
    served.close()  # type: ignore[attr-defined]
    assert body.closed == 1
    assert recorded(edge_policy, app) == [(200, 0, size)]


def test_a_list_keeps_its_length(edge_policy: EdgePolicy) -> None:
    """Servers derive a Content-Length from one; what has no length is not given one."""
    body = wsgi(answering([b"one"]), edge_policy)(environ(), Gateway().start_response)
    assert len(body) == 1  # type: ignore[arg-type]
    body.close()  # type: ignore[attr-defined]


def test_a_generator_has_no_length(edge_policy: EdgePolicy) -> None:
    """And stays without."""
    body = wsgi(answering(Body([])), edge_policy)(environ(), Gateway().start_response)
    assert not hasattr(body, "__len__")
    body.close()  # type: ignore[attr-defined]


def test_write_is_counted(edge_policy: EdgePolicy) -> None:
    """The old way of sending passes through the server's own callable."""

    def writing(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"written")
        return [b"returned"]

    app, gateway = wsgi(writing, edge_policy), Gateway()
    assert gateway.serve(app, environ()) == [b"returned"]
    assert gateway.written == [b"written"]
    assert recorded(edge_policy, app) == [(200, 0, 15)]


def test_exc_info_starts_anew(edge_policy: EdgePolicy) -> None:
    """A second start replaces the first, reaches the server with its exc_info, and is what is recorded."""

    def restarting(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "99")])
        try:
            int("no number")
        except ValueError:
            start_response("503 Service Unavailable", [], sys.exc_info())
        return [b"failed"]

    app, gateway = wsgi(restarting, edge_policy), Gateway()
    gateway.serve(app, environ())
    assert [status for status, _ in gateway.started] == ["200 OK", "503 Service Unavailable"]
    assert recorded(edge_policy, app) == [(503, 0, 6)]


def test_a_server_of_two_arguments(edge_policy: EdgePolicy) -> None:
    """start_response gets a third argument only when there is one."""
    given: list[int] = []

    def start_response(*arguments: object) -> Callable[[bytes], object]:
        given.append(len(arguments))
        return lambda data: None

    wsgi(answering([b"x"]), edge_policy)(environ(), start_response).close()  # type: ignore[arg-type, attr-defined]
    assert given == [2]


def test_a_generator_may_start_late(edge_policy: EdgePolicy) -> None:
    """An app that is a generator calls start_response when its first chunk is asked for."""

    def lazy(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("201 Created", [])
        yield b"a"
        yield b"b"

    app, gateway = wsgi(lazy, edge_policy), Gateway()
    assert gateway.serve(app, environ()) == [b"a", b"b"]
    assert recorded(edge_policy, app) == [(201, 0, 2)]


@pytest.mark.parametrize("lazily", [True, False])
def test_a_wsgi_app_that_raises(edge_policy: EdgePolicy, *, lazily: bool) -> None:
    """Its exception passes, whenever it comes; the event says 500."""
    failure = ValueError("the app's")

    def now(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise failure

    def later(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        yield from now(env, start_response)

    app = wsgi(later if lazily else now, edge_policy)
    with pytest.raises(ValueError, match="the app's"):
        Gateway().serve(app, environ())
    assert recorded(edge_policy, app) == [(500, 0, 0)]
    with pytest.raises(UsageError):
        current()


def test_current_is_the_outer_wsgi_request_again(edge_policy: EdgePolicy) -> None:
    """A metered app that calls another one in this process has its own exchange back."""
    inner = wsgi(answering([b"inner"]), edge_policy)

    def calling(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        before = current()
        Gateway().serve(inner, environ())
        assert current() is before
        return answering([b"outer"])(env, start_response)

    outer = meter_mw.wsgi.MeterMiddleware(calling, policy=inner.meter.policy)
    assert Gateway().serve(outer, environ()) == [b"outer"]
    with pytest.raises(UsageError):
        current()


UPLOAD = b"first\nsecond\nthird"

READS: dict[str, Callable[[object], object]] = {
    "read": lambda stream: stream.read(),  # type: ignore[attr-defined]
    "read(n)": lambda stream: [stream.read(7), stream.read(100)],  # type: ignore[attr-defined]
    "readline": lambda stream: [stream.readline(), stream.readline(3), stream.read()],  # type: ignore[attr-defined]
    "readlines": lambda stream: stream.readlines(),  # type: ignore[attr-defined]
    "iteration": list,
    "next": lambda stream: [next(stream), stream.read()],  # type: ignore[call-overload]
    "read1": lambda stream: stream.read1(100),  # type: ignore[attr-defined]
    "readinto": lambda stream: stream.readinto(bytearray(100)),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_every_way_of_reading_counts(edge_policy: EdgePolicy, read: Callable[[object], object]) -> None:
    """However the app reads its input, it gets what the server's stream gives, and each byte counts once."""
    seen: list[object] = []

    def reading(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(read(env["wsgi.input"]))
        return answering([])(env, start_response)

    app = wsgi(reading, edge_policy)
    Gateway().serve(app, environ("POST", body=UPLOAD))
    assert seen == [read(io.BytesIO(UPLOAD))]
    assert recorded(edge_policy, app) == [(200, len(UPLOAD), 0)]


def test_a_file_wrapper_is_iterated(edge_policy: EdgePolicy, tmp_path: Path) -> None:
    """The server does not get the wrapper to send past us; the file is closed as ever."""
    path = tmp_path / "sent"
    path.write_bytes(b"x" * 10_000)

    class Wrapper:
        def __init__(self, file: io.BufferedReader, size: int = 8192) -> None:
            self.file, self.size = file, size

        def __getitem__(self, index: int) -> bytes:
            chunk = self.file.read(self.size)
            if not chunk:
                raise IndexError
            return chunk

        def close(self) -> None:
            self.file.close()

    file = path.open("rb")
    app, gateway = wsgi(answering(Wrapper(file)), edge_policy), Gateway()  # type: ignore[arg-type]
    body = app(environ(), gateway.start_response)
    assert not isinstance(body, Wrapper)
    assert [len(chunk) for chunk in body] == [8192, 1808]
    body.close()  # type: ignore[attr-defined]
    assert file.closed
    assert recorded(edge_policy, app) == [(200, 0, 10_000)]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("key", ["free.someone", "a,b"])
def test_lint(edge_policy: EdgePolicy, method: str, key: str) -> None:
    """Werkzeug's checker has nothing to say on either side of the meter, whether it serves or refuses."""

    def plain(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        env["wsgi.input"].read(5)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return [b"plain"]

    app = LintMiddleware(wsgi(LintMiddleware(plain), edge_policy))
    body = b"12345" if method == "POST" else b""
    env = environ(method, body=body, HTTP_X_API_KEY=key)
    served = app(env, Gateway().start_response)
    assert (b"".join(served) == b"plain") == (key == "free.someone")
    served.close()


def test_the_event_is_written_before_the_last_byte_leaves(edge_policy: EdgePolicy) -> None:
    """Under ASGI, when the last message is handed to the server, its event is in the journal."""
    seen = []

    class Watching(Checked):
        async def send(self, message: Message) -> None:
            if message["type"] == "http.response.body":
                seen.append((message.get("more_body", False), has_recorded(app.meter)))
            await super().send(message)

    app = asgi(speaking, edge_policy)
    server = Watching()
    asyncio.run(app(http_scope(), server.receive, server.send))
    assert seen == [(True, False), (True, False), (True, False), (False, True)]


def test_the_event_of_a_head_is_written_before_its_fields_leave(edge_policy: EdgePolicy) -> None:
    """They are all that the client waits for."""
    seen = []

    class Watching(Checked):
        async def send(self, message: Message) -> None:
            seen.append(has_recorded(app.meter))
            await super().send(message)

    app = asgi(speaking, edge_policy)
    server = Watching()
    asyncio.run(app(http_scope("HEAD"), server.receive, server.send))
    assert seen[0]


@pytest.mark.parametrize("declared", [True, False])
def test_the_event_is_written_before_the_last_chunk_leaves(
    edge_policy: EdgePolicy, *, declared: bool
) -> None:
    """Under WSGI, with the chunk that reaches the declared length, or with the end of the iterable."""

    def plain(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "6")] if declared else [])
        return [b"one", b"two"]

    app = wsgi(plain, edge_policy)
    body = app(environ(), Gateway().start_response)
    seen = [has_recorded(app.meter) for _ in body]
    assert seen == [False, declared]
    assert has_recorded(app.meter)
    body.close()  # type: ignore[attr-defined]


def test_an_exempt_route_is_not_touched(edge_policy: EdgePolicy) -> None:
    """Its messages and its body are the app's own, and reports there count nothing."""

    async def reporting(scope: Scope, receive: Receive, send: Send) -> None:
        current().add("tokens", 5)
        assert current().subject is None
        await speaking(scope, receive, send)

    app = asgi(reporting, edge_policy)
    sent = asyncio.run(call(app, path="/health"))
    assert sent[0] is START
    assert recorded(edge_policy, app) == []
