"""The ASGI edge under limits, by hand and on a real server: cuts, refused uploads, sockets, slots."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
import websockets
from harness import KEY, Checked, call, has_recorded, http_scope
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from websockets.sync.client import connect

import servers
from meter_mw import current
from meter_mw.asgi import MeterMiddleware
from meter_mw.asgi.answers import facts
from meter_mw.exchange import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starlette.websockets import WebSocket

    from support.servers import RedisServer

CHUNKED = [KEY, (b"transfer-encoding", b"chunked")]
METERS = {
    "requests": {"count": "requests"},
    "ingress": {"count": "request-bytes"},
    "egress": {"count": "response-bytes"},
    "asked": {"count": "request-messages"},
    "told": {"count": "response-messages"},
    "tokens": {"from_header": "X-Tokens", "strip": True},
}


def cap(meter: str, units: int, **changes: object) -> dict[str, object]:
    return {"name": meter, "meter": meter, "cap": f"{units}/year", **changes}


@dataclass
class Metered:
    """Makes metered apps, and reads what they recorded."""

    home: Path
    store: str
    made: list[MeterMiddleware]

    def __call__(self, app: ASGIApp, *limits: Mapping[str, object], **changes: object) -> MeterMiddleware:
        document = {
            "version": 1,
            "service": "limits",
            "store": self.store,
            "identity": {"api_key": [{"header": "X-API-Key"}], "secret": servers.SECRET},
            "meters": METERS,
            "routes": [{"path": "/{rest:path}", "name": "any"}],
            "plans": {"default": {"limits": list(limits)}},
            "events": {
                "journal": str(self.home / "journal"),
                "sinks": [{"file": str(self.home / "events.jsonl")}],
            },
            **changes,
        }
        self.made.append(MeterMiddleware(app, policy=document))
        return self.made[-1]

    def events(self) -> list[dict[str, Any]]:
        """Give the data of every event so far."""
        assert all(each.meter.flush() for each in self.made)
        path = self.home / "events.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [each["data"] for each in found if each["type"] == "meter_mw.request.v1"]


@pytest.fixture(params=["memory", "redis"])
def metered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Metered]:
    store = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    maker = Metered(tmp_path, store, [])
    yield maker
    for each in maker.made:
        each.meter.close()


def run(app: MeterMiddleware, talk: Awaitable[Any]) -> Any:
    """Run in an event loop of its own, and let go of that loop's connections."""

    async def main() -> Any:
        try:
            return await talk
        finally:
            await app.meter.aflush()

    return asyncio.run(main())


def passed(sent: list[Message]) -> bytes:
    return b"".join(each.get("body", b"") for each in sent)


START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Sending:
    """An app that sends messages, and notes what stopped it."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages
        self.stopped_at: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for index, message in enumerate(self.messages):
            try:
                await send(message)
            except OSError:
                self.stopped_at = index
                raise


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send(body(b"plain", more=False))


# Responses


@pytest.mark.parametrize("size", [100, 300, 999, 1_000, 5_000])
def test_a_cut_passes_to_the_byte(metered: Metered, size: int) -> None:
    """In chunks of any size, exactly the cap passes; the transfer is left incomplete, and all is told."""
    inner = Sending(START, *[body(b"x" * size)] * 50, body(b"", more=False))
    app = metered(inner, cap("egress", 1_000, reserve=64, on_exhausted="cut"))
    sent = run(app, call(app))
    assert len(passed(sent)) == 1_000
    assert sent[-1]["more_body"]
    assert inner.stopped_at == 1 + 1_000 // size
    (event,) = metered.events()
    told = {name: event[name] for name in ("requests", "response_bytes", "status", "limited_by")}
    assert told == {"requests": 1, "response_bytes": 1_000, "status": 200, "limited_by": ["egress"]}
    assert run(app, call(app))[0]["status"] == 429


def test_the_event_of_a_cut_is_written_before_it(metered: Metered) -> None:
    """When the last bytes leave, what they come to is in the journal."""
    seen = []

    class Watching(Checked):
        async def send(self, message: Message) -> None:
            seen.append(has_recorded(app.meter))
            await super().send(message)

    app = metered(
        Sending(START, body(b"x" * 9), body(b"x" * 9)), cap("egress", 10, reserve=9, on_exhausted="cut")
    )
    server = Watching()
    run(app, app(http_scope(), server.receive, server.send))
    assert seen == [False, False, True]


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend", "zerocopysend-from"])
def test_files_are_cut_to_the_byte(metered: Metered, tmp_path: Path, kind: str) -> None:
    """What the server would send by itself is sent in part: as bytes, or with a count."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 1_000)
    with path.open("rb") as file:
        message: Message = {"type": f"http.response.{kind[:12]}", "file": file, "count": 200_000}
        if kind == "pathsend":
            message = {"type": "http.response.pathsend", "path": str(path)}
        elif kind == "zerocopysend-from":
            message |= {"offset": 10}
        app = metered(Sending(START, message), cap("egress", 100_003, reserve=64, on_exhausted="cut"))
        sent = run(app, call(app))
    if kind == "pathsend":
        assert passed(sent) == path.read_bytes()[:100_003]
    else:
        assert sent[1:] == [{**message, "count": 100_003, "more_body": True}]
    assert sent[-1]["more_body"]
    assert metered.events()[0]["response_bytes"] == 100_003


def test_what_is_declared_is_asked_for_at_once(metered: Metered) -> None:
    """A long response of a known length tops up in wide steps."""
    start = START | {"headers": [(b"content-length", b"6000")]}
    app = metered(
        Sending(start, *[body(b"x" * 100)] * 60), cap("egress", 9_999, reserve=100, on_exhausted="cut")
    )
    asked = []
    top_up = app.meter.gate._atop_up

    async def counting(exchange: Any, count: Any, units: int, *, refuses: bool) -> Any:
        asked.append(exchange.passed(count) + units)
        return await top_up(exchange, count, units, refuses=refuses)

    app.meter.gate._atop_up = counting  # type: ignore[method-assign]
    assert len(passed(run(app, call(app)))) == 6_000
    assert asked == [200]
    assert metered.events()[0]["response_bytes"] == 6_000


def test_a_length_of_thousands_of_digits_is_not_believed(metered: Metered) -> None:
    """What an app declares may be anything; the server is left to judge it, and what passes counts."""
    start = START | {"headers": [(b"content-length", b"9" * 5_000)]}
    app = metered(Sending(start, body(b"x" * 700), body(b"", more=False)), cap("egress", 9_999, reserve=100))
    assert passed(run(app, call(app))) == b"x" * 700
    assert metered.events()[0]["response_bytes"] == 700


def test_a_response_may_finish(metered: Metered) -> None:
    """With `finish` all of it passes; the next request is refused."""
    app = metered(Sending(START, *[body(b"x" * 700)] * 3, body(b"", more=False)), cap("egress", 1_000))
    sent = run(app, call(app))
    assert (len(passed(sent)), sent[-1]["more_body"]) == (2_100, False)
    (event,) = metered.events()
    assert (event["response_bytes"], "limited_by" in event) == (2_100, False)
    assert run(app, call(app))[0]["status"] == 429


def test_a_head_is_never_cut(metered: Metered) -> None:
    """What has no content takes nothing, whatever is sent."""
    inner = Sending(START, body(b"x" * 700), body(b"x" * 700, more=False))
    app = metered(inner, cap("egress", 10, reserve=1, on_exhausted="cut"))
    run(app, call(app, method="HEAD"))
    assert inner.stopped_at is None
    assert metered.events()[0]["response_bytes"] == 0


def test_fields_of_the_response_report_units(metered: Metered) -> None:
    """They are counted before the head leaves, and stripped where the policy says so."""
    start = START | {"headers": [(b"x-tokens", b"5"), (b"x-own", b"1"), (b"x-tokens", b"7")]}
    app = metered(Sending(start, body(b"", more=False)), cap("tokens", 100))
    sent = run(app, call(app))
    names = [name for name, _ in sent[0]["headers"]]
    assert b"x-tokens" not in names
    assert names[0] == b"x-own"
    assert metered.events()[0]["tokens"] == 12


def test_fifty_streams_together_pass_no_cap(metered: Metered) -> None:
    """What all of them got is at most the cap, and what is recorded."""
    inner = Sending(START, *[body(b"x" * 700)] * 30, body(b"", more=False))
    app = metered(inner, cap("egress", 400_001, reserve=900, on_exhausted="cut"))

    async def together() -> list[list[Message]]:
        return await asyncio.gather(*[call(app) for _ in range(50)])

    sent = [messages for messages in run(app, together()) if messages[0]["status"] == 200]
    total = sum(len(passed(messages)) for messages in sent)
    assert 300_000 <= total <= 400_001
    assert sum(event["response_bytes"] for event in metered.events()) == total


# Uploads


async def _drained(receive: Receive) -> int:
    """Read a body as Starlette does; gives its length."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        size += len(message["body"])
        if not message["more_body"]:
            return size


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    await _drained(receive)
    await plain(scope, receive, send)


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    with contextlib.suppress(ClientDisconnect):
        await _drained(receive)
        await plain(scope, receive, send)


async def complaining(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await _drained(receive)
    except ClientDisconnect:
        await send(START | {"status": 400})
        await send(body(b"bad body", more=False))
    else:
        await plain(scope, receive, send)


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await _drained(receive)
    except ClientDisconnect:
        await send(START)
        while True:
            await send(body(b"x" * 100_000))
    else:
        await plain(scope, receive, send)


UPLOADERS = pytest.mark.parametrize("inner", [raising, silent, complaining, endless])


def parts(*sizes: int, ends: bool = True) -> list[Message]:
    last = len(sizes) - 1 if ends else len(sizes)
    return [
        {"type": "http.request", "body": b"u" * size, "more_body": index != last}
        for index, size in enumerate(sizes)
    ]


def upload(app: ASGIApp, *sizes: int, ends: bool = True, **scope: object) -> Awaitable[list[Message]]:
    return call(app, method="POST", incoming=parts(*sizes, ends=ends), **{"headers": CHUNKED, **scope})


@UPLOADERS
def test_an_upload_that_can_never_fit_is_413(metered: Metered, inner: ASGIApp) -> None:
    """Whatever the app does of it, the client gets one whole refusal, and the cap keeps what had passed."""
    app = metered(inner, cap("ingress", 1_000, reserve=100))
    sent = run(app, upload(app, 400, 400, 400, 400, ends=False))
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]
    fields = dict(sent[0]["headers"])
    assert (sent[0]["status"], fields[b"connection"]) == (413, b"close")
    assert fields[b"content-type"] == b"application/problem+json"
    assert json.loads(passed(sent))["violated-policies"] == ["ingress"]
    (event,) = metered.events()
    wanted = {
        "requests": 0,
        "request_bytes": 800,
        "response_bytes": 0,
        "status": 413,
        "charged": False,
        "limited_by": ["ingress"],
    }
    assert {name: event[name] for name in wanted} == wanted
    assert run(app, upload(app, 200))[0]["status"] == 200
    assert run(app, upload(app, 1))[0]["status"] == 429


@UPLOADERS
def test_an_upload_that_does_not_fit_now_is_429(metered: Metered, inner: ASGIApp) -> None:
    """It says when to come back; of a body that was read to its end, the connection may go on."""
    app = metered(inner, cap("ingress", 1_000, reserve=100))
    assert run(app, upload(app, 300, 300))[0]["status"] == 200
    sent = run(app, upload(app, 300, 300))
    fields = dict(sent[0]["headers"])
    assert (sent[0]["status"], b"retry-after" in fields) == (429, True)
    assert b"connection" not in fields
    assert [each["request_bytes"] for each in metered.events()] == [600, 300]


def test_an_upload_over_http2_keeps_its_connection(metered: Metered) -> None:
    """There is no Connection field there; and no length has to be declared."""
    app = metered(raising, cap("ingress", 1_000, reserve=100))
    sent = run(app, upload(app, 600, 600, ends=False, http_version="2", headers=[KEY]))
    assert (sent[0]["status"], b"connection" in dict(sent[0]["headers"])) == (413, False)


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({}, False),
        ({"http_version": "1.0"}, False),
        ({"http_version": "2"}, True),
        ({"http_version": "3"}, True),
        ({"type": "websocket"}, True),
    ],
)
def test_which_requests_come_in_frames(changes: dict[str, object], frames: bool) -> None:
    """HTTP/2, HTTP/3 and WebSockets declare no length where they have one."""
    assert facts(http_scope(**changes)).frames is frames  # type: ignore[arg-type]


def test_a_declared_upload_is_refused_before_it_is_read(metered: Metered) -> None:
    """The app is not called."""
    app = metered(raising, cap("ingress", 1_000))
    server = Checked(parts(1_001))
    scope = http_scope("POST", headers=[KEY, (b"content-length", b"1001")])
    run(app, app(scope, server.receive, server.send))
    assert (server.sent[0]["status"], server.received) == (413, 0)


def test_an_upload_beside_its_response_breaks_it_off(metered: Metered) -> None:
    """What has begun cannot be refused: it ends incomplete, and the request is charged for."""
    heard = []

    async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        while True:
            heard.append(message := await receive())
            await send(body(message.get("body", b"")))

    app = metered(echoing, cap("ingress", 1_000, reserve=100))
    sent = run(app, upload(app, 600, 600, ends=False))
    assert passed(sent) == b"u" * 600
    assert sent[-1]["more_body"]
    assert [each["type"] for each in heard] == ["http.request", "http.disconnect"]
    (event,) = metered.events()
    assert (event["requests"], event["status"], event["limited_by"]) == (1, 200, ["ingress"])


def test_a_read_that_is_given_up_loses_nothing(metered: Metered) -> None:
    """Cancelled while the store is asked, it leaves its part for the next."""

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        reading = asyncio.create_task(_drained(receive))
        await asked.wait()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        app.meter.gate._atop_up = top_up  # type: ignore[method-assign]
        await send(START)
        await send(body(b"%d" % await _drained(receive), more=False))

    app = metered(impatient, cap("ingress", 1_000, reserve=10))
    top_up, asked = app.meter.gate._atop_up, asyncio.Event()

    async def never(*_: object, **__: object) -> Any:
        asked.set()
        await asyncio.Event().wait()

    app.meter.gate._atop_up = never  # type: ignore[method-assign]
    assert passed(run(app, upload(app, 600))) == b"600"


def test_without_its_store_an_upload_is_503(tmp_path: Path, start_redis: Callable[..., RedisServer]) -> None:
    """Where the limit fails closed; what was held before is still good."""
    redis = start_redis()
    metered = Metered(tmp_path, redis.url, [])

    class Failing(Checked):
        async def receive(self) -> Message:
            if self.received == 1:
                redis.stop()
            return await super().receive()

    app = metered(raising, cap("ingress", 1_000, reserve=100))
    server = Failing(parts(100, 100))
    asyncio.run(app(http_scope("POST", headers=CHUNKED), server.receive, server.send))
    assert server.sent[0]["status"] == 503
    app.meter.close(0.1)


# Sockets


class Talk:
    """The server's end of one WebSocket: what the client sends, and what it gets."""

    def __init__(self, *incoming: str | bytes, then: Message | None = None) -> None:
        self.sent: list[Message] = []
        self.written: list[bool] = []
        self.app: MeterMiddleware | None = None
        self._closed = asyncio.Event()
        self._then = then
        self._incoming: list[Message] = [{"type": "websocket.connect"}]
        for each in incoming:
            name = "text" if isinstance(each, str) else "bytes"
            self._incoming.append({"type": "websocket.receive", name: each})

    async def receive(self) -> Message:
        if self._incoming:
            return self._incoming.pop(0)
        if self._then is None:
            await self._closed.wait()
        return self._then or {"type": "websocket.disconnect", "code": 1005}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        assert not self._closed.is_set(), f"{message} after the close"
        if self.app is not None:
            self.written.append(has_recorded(self.app.meter))
        if message["type"] == "websocket.close":
            self._closed.set()

    def serve(self, app: MeterMiddleware, **scope: object) -> list[Message]:
        """Hold the conversation."""
        self.app = app
        run(app, app(http_scope(**{"type": "websocket", **scope}), self.receive, self.send))  # type: ignore[arg-type]
        return self.sent

    @property
    def texts(self) -> list[str]:
        """What the client got."""
        return [each["text"] for each in self.sent if each["type"] == "websocket.send"]


class Echo:
    """An app that answers each message, and notes how it ended."""

    def __init__(self) -> None:
        self.last: Message = {}
        self.failed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await self.answer(receive, send)

    async def answer(self, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            try:
                await send({"type": "websocket.send", "text": message["text"].upper()})
            except OSError:
                self.failed = True
        self.last = message


@pytest.mark.parametrize(("on", "gets"), [("finish", 3), ("cut", 2)])
@pytest.mark.parametrize("meter", ["asked", "told"])
def test_a_socket_ends_at_its_limit_of_messages(metered: Metered, meter: str, on: str, gets: int) -> None:
    """With two messages, the third is the last one or does not pass; the close says why, its event first."""
    inner = Echo()
    app = metered(inner, cap(meter, 2, on_exhausted=on))
    talk = Talk("a", "b", "c", "d", "e")
    sent = talk.serve(app)
    assert talk.texts == ["A", "B", "C"][:gets]
    assert sent[-1] == {"type": "websocket.close", "code": 1008, "reason": f"The limit {meter} is used up."}
    assert talk.written == [False] * (1 + gets) + [True]
    assert (inner.last["type"], inner.last["code"]) == ("websocket.disconnect", 1008)
    assert inner.failed == ((meter, on) == ("told", "cut"))
    (event,) = metered.events()
    asked = 3 if meter == "told" else gets
    wanted = {
        "requests": 1,
        "status": 101,
        "limited_by": [meter],
        "request_messages": asked,
        "response_messages": gets,
        "request_bytes": asked,
        "response_bytes": gets,
    }
    assert {name: event[name] for name in wanted} == wanted


@pytest.mark.parametrize("meter", ["ingress", "egress"])
def test_a_socket_is_cut_before_its_limit_of_bytes(metered: Metered, meter: str) -> None:
    """Text counts as UTF-8; a message that does not fit does not pass in part."""
    app = metered(Echo(), cap(meter, 10, reserve=3, on_exhausted="cut"))
    talk = Talk("\u00e4\u00f6\u00fc", "abcd", "\u00df")
    assert talk.serve(app)[-1]["code"] == 1008
    assert talk.texts == ["\u00c4\u00d6\u00dc", "ABCD"]
    (event,) = metered.events()
    counted = event["request_bytes" if meter == "ingress" else "response_bytes"]
    assert counted == 10


def test_bytes_are_counted_both_ways(metered: Metered) -> None:
    """And messages; without limits nothing is asked."""

    async def mirror(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"] * 2, "text": None})

    app = metered(mirror)
    Talk(b"", b"\xff" * 5, then={"type": "websocket.disconnect", "code": 1001}).serve(app)
    (event,) = metered.events()
    assert [event[name] for name in ("request_messages", "response_messages")] == [2, 2]
    assert [event[name] for name in ("request_bytes", "response_bytes", "status")] == [5, 10, 101]


def test_a_closed_socket_stays_closed(metered: Metered) -> None:
    """What the app still sends is an error, its own close is not, and what it raises is nobody's."""
    seen: list[object] = []

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "1"})
        for _ in range(2):
            with pytest.raises(OSError, match="limit"):
                await send({"type": "websocket.send", "text": "2"})
        seen.extend([(await receive())["code"], (await receive())["code"]])
        await send({"type": "websocket.close"})
        raise ValueError

    app = metered(stubborn, cap("told", 1, on_exhausted="cut"))
    sent = Talk("late", "later").serve(app)
    assert [each["type"] for each in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert seen == [1008, 1008]
    assert metered.events()[0]["request_messages"] == 0


def test_an_app_that_leaves_after_the_last_message(metered: Metered) -> None:
    """The close is ours unless it has closed by itself."""

    async def once(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await receive()
        if scope["path"] == "/closes":
            await send({"type": "websocket.close", "code": 1000})

    app = metered(once, cap("asked", 1))
    assert Talk("a", "b").serve(app)[-1]["code"] == 1008
    app = metered(once, {**cap("asked", 1), "name": "other"})
    closes = [each for each in Talk("a", "b").serve(app, path="/closes") if "code" in each]
    assert [each["code"] for each in closes] == [1000]


def test_a_reader_hears_of_a_close_that_a_writer_met(metered: Metered) -> None:
    """It waits for a message meanwhile, and is told why none comes."""

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        reader = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send({"type": "websocket.send", "text": "1"})
        with pytest.raises(OSError, match="limit"):
            await send({"type": "websocket.send", "text": "2"})
        heard.append(await reader)

    heard: list[Message] = []
    app = metered(reading, cap("told", 1, on_exhausted="cut"))
    assert Talk().serve(app)[-1]["code"] == 1008
    assert [each["code"] for each in heard] == [1008]


def test_a_socket_read_that_is_given_up_loses_nothing(metered: Metered) -> None:
    """Cancelled while the store is asked, it leaves its message for the next."""

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.05)
        app.meter.gate._atop_up = top_up  # type: ignore[method-assign]
        await send({"type": "websocket.send", "text": (await receive())["text"]})

    async def never(*_: object, **__: object) -> Any:
        await asyncio.Event().wait()

    app = metered(impatient, cap("asked", 10, reserve=1))
    top_up, app.meter.gate._atop_up = app.meter.gate._atop_up, never  # type: ignore[method-assign]
    talk = Talk("a", "b")
    talk.serve(app)
    assert talk.texts == ["b"]
    assert metered.events()[0]["request_messages"] == 2


@pytest.mark.timed
def test_a_socket_may_go_on_at_its_rate(metered: Metered) -> None:
    """More than a burst passes in time; what comes too fast ends it."""
    fast: list[int] = []

    async def pacing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(6):
            await send({"type": "websocket.send", "text": "slow"})
            await asyncio.sleep(0.03)
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "websocket.send", "text": "fast"})
                fast.append(1)

    rate = {"name": "told", "meter": "told", "rate": "50/second", "burst": 3}
    app = metered(pacing, rate)
    talk = Talk()
    assert talk.serve(app)[-1]["code"] == 1008
    assert talk.texts.count("slow") == 6
    assert 1 <= len(fast) <= 10
    assert metered.events()[0]["response_messages"] == len(talk.texts)


def test_a_long_socket_is_recorded_in_parts(metered: Metered) -> None:
    """Each part says what passed in it; limits go on, and the slot is the same one."""

    async def lasting(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(2):
            await send({"type": "websocket.send", "text": (await receive())["text"] * 2})
            await asyncio.to_thread(app.meter._turner.turn, current())
        await Echo().answer(receive, send)

    app = metered(lasting, {"concurrent": 1}, cap("told", 4, on_exhausted="cut"))
    talk = Talk("a", "b", "c", "d", "e", "f")
    assert talk.serve(app)[-1]["code"] == 1008
    assert talk.texts == ["aa", "bb", "C", "D"]
    events = metered.events()
    assert [event["requests"] for event in events] == [1, 0, 0]
    assert [event.get("part", 0) for event in events] == [0, 1, 2]
    assert [event["response_messages"] for event in events] == [1, 1, 2]
    assert [event["response_bytes"] for event in events] == [2, 2, 2]
    refused = Talk("a")
    assert refused.serve(app)[-1]["code"] == 1008
    assert refused.texts == []


def test_two_tasks_of_a_socket_pass_no_cap(metered: Metered) -> None:
    """They ask for the same room; both count before either sends."""

    async def shouting(scope: Scope, receive: Receive, send: Send) -> None:
        async def shout() -> None:
            with contextlib.suppress(OSError):
                while True:
                    await send({"type": "websocket.send", "text": "!"})

        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.gather(*[shout() for _ in range(7)])

    app = metered(shouting, cap("told", 100, reserve=3, on_exhausted="cut"))
    talk = Talk()
    talk.serve(app)
    assert len(talk.texts) == 100
    assert metered.events()[0]["response_messages"] == 100


def test_long_names_fit_the_close(metered: Metered) -> None:
    """A reason has at most 123 bytes."""
    limits = [{**cap("asked", 1, on_exhausted="cut"), "name": letter * 64} for letter in "mn"]
    app = metered(Echo(), *limits)
    assert len(Talk("a", "b").serve(app)[-1]["reason"]) == 123


def test_without_its_store_a_socket_is_told_to_try_later(
    tmp_path: Path, start_redis: Callable[..., RedisServer]
) -> None:
    """Where its limit fails closed."""
    redis = start_redis()
    metered = Metered(tmp_path, redis.url, [])

    async def outliving(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.to_thread(redis.stop)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    app = metered(outliving, cap("asked", 100))
    talk = Talk(*["a"] * 200)
    asyncio.run(app(http_scope(type="websocket"), talk.receive, talk.send))
    assert talk.sent[-1]["code"] == 1013
    app.meter.close(0.1)


# Slots


class Again(Checked):
    """A client that sends its next request as soon as it has its answer, before the server returns."""

    def __init__(self, app: MeterMiddleware, last: Callable[[Message], bool]) -> None:
        super().__init__()
        self._app, self._last = app, last
        self.next: int | None = None

    async def send(self, message: Message) -> None:
        if self.next is None and self._last(message):
            self.next = 0
            self.next = (await call(self._app))[0]["status"]
        await super().send(message)


@pytest.mark.parametrize(
    ("method", "status", "declared", "last"),
    [
        ("GET", 200, None, "http.response.body"),
        ("GET", 200, b"5", "http.response.body"),
        ("HEAD", 200, None, "http.response.start"),
        ("GET", 204, None, "http.response.start"),
        ("GET", 304, b"5", "http.response.start"),
    ],
)
def test_a_slot_is_free_before_the_client_has_it_all(
    metered: Metered, method: str, status: int, declared: bytes | None, last: str
) -> None:
    """The end is the last message, or what completes the declared length, or the head where that is all."""
    start = START | {"status": status, "headers": [(b"content-length", declared)] if declared else []}
    more = declared is not None
    app = metered(
        Sending(start, body(b"12345", more=more), *[body(b"", more=False)] * more), {"concurrent": 1}
    )
    server = Again(app, lambda message: message["type"] == last)
    run(app, app(http_scope(method), server.receive, server.send))
    assert server.next == status


def test_a_slot_is_taken_until_then(metered: Metered) -> None:
    """A request in between is refused."""
    app = metered(Sending(START, body(b"1"), body(b"", more=False)), {"concurrent": 1})
    server = Again(app, lambda message: message.get("body") == b"1")
    run(app, app(http_scope(), server.receive, server.send))
    assert server.next == 429


async def _gives_up(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
    else:
        await send(START)
        await send(body(b"x"))
    match scope["path"]:
        case "/raises":
            raise ValueError
        case "/waits":
            await asyncio.Event().wait()
        case _:
            assert "disconnect" in (await receive())["type"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("path", ["/raises", "/waits", "/vanishes"])
def test_a_slot_comes_back_however_it_ends(metered: Metered, kind: str, path: str) -> None:
    """The app fails, is cancelled, or its client vanishes; what was held of bytes comes back too."""

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await (plain if scope["path"] == "/" else _gives_up)(scope, receive, send)

    app = metered(inner, {"concurrent": 1}, cap("egress", 100, reserve=60, on_exhausted="cut"))

    async def main() -> int:
        incoming = [
            {"type": "websocket.connect"},
            {"type": "websocket.disconnect", "code": 1006},
            {"type": "websocket.disconnect", "code": 1006},
        ]
        server = Checked(incoming if kind == "websocket" else [{"type": "http.disconnect"}])
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        task = asyncio.ensure_future(app(http_scope(type=kind, path=path), server.receive, send))
        with contextlib.suppress(ValueError, TimeoutError):
            await asyncio.wait_for(task, 0.3)
        assert await asyncio.to_thread(app.meter.flush)
        status: int = (await call(app, path="/"))[0]["status"]
        return status

    assert run(app, main()) == 200
    assert [each["status"] for each in metered.events()] == [200 if kind == "http" else 101, 200]


def test_a_socket_that_ends_frees_its_slot_first(metered: Metered) -> None:
    """A client that saw our close may come again at once."""
    violated = []

    class Returning(Talk):
        async def send(self, message: Message) -> None:
            if message["type"] == "websocket.close":
                again = Talk("a")
                scope = http_scope(type="websocket", extensions={"websocket.http.response": {}})
                await app(scope, again.receive, again.send)  # type: ignore[arg-type]
                violated.extend(json.loads(again.sent[-1]["body"])["violated-policies"])
            await super().send(message)

    app = metered(Echo(), {"concurrent": 1}, cap("asked", 1))
    assert Returning("a", "b").serve(app)[-1]["code"] == 1008
    assert violated == ["asked"]


# A real server


@pytest.fixture(params=["h11", "httptools"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., int]]:
    """Serve an app by uvicorn, in a thread; gives its port."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: ASGIApp, sockets: str = "websockets-sansio") -> int:
        config = uvicorn.Config(app, port=0, http=request.param, ws=sockets, log_level="warning")  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        servers.wait_for(lambda: server.started, "uvicorn")
        port: int = server.servers[0].sockets[0].getsockname()[1]
        return port

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


async def _streaming(request: Request) -> StreamingResponse:
    size, count = int(request.query_params["size"]), int(request.query_params["count"])

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * size
            await asyncio.sleep(0)

    length = {"Content-Length": str(size * count)} if "declared" in request.query_params else {}
    return StreamingResponse(chunks(), headers=length)


async def _uploading(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def _talking(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


async def _small(request: Request) -> PlainTextResponse:
    assert current().subject
    return PlainTextResponse("small")


INNER = Starlette(
    routes=[
        Route("/stream", _streaming),
        Route("/upload", _uploading, methods=["POST"]),
        Route("/small", _small),
        WebSocketRoute("/talk", _talking),
    ]
)


def raw(port: int, request: bytes) -> bytes:
    """Send bytes, and give all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while data := connection.recv(1 << 16):
            received += data
        return received


def _dechunked(data: bytes) -> tuple[bytes, bool]:
    """Give what chunks hold, and whether the last of them came."""
    content = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        if int(size, 16) == 0:
            return content, True
        content, data = content + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return content, False


@pytest.mark.parametrize("declared", ["", "&declared=1"])
def test_the_wire_ends_at_the_cap(
    metered: Metered, serve: Callable[..., int], capfd: pytest.CaptureFixture[str], declared: str
) -> None:
    """A raw socket gets exactly the cap, in a transfer that is visibly broken; no traceback is logged."""
    app = metered(INNER, cap("egress", 100_001, reserve=4096, on_exhausted="cut"))
    port = serve(app)
    request = f"GET /stream?size=1000&count=500{declared} HTTP/1.1\r\nHost: a\r\nX-API-Key: k\r\n\r\n"
    _, _, content = raw(port, request.encode()).partition(b"\r\n\r\n")
    if not declared:
        content, whole = _dechunked(content)
        assert not whole
    assert len(content) == 100_001
    assert metered.events()[0]["response_bytes"] == 100_001
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{port}/stream?size=60000&count=2", headers={"X-API-Key": "other"})
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("used", "status"), [(0, 413), (500, 429)])
def test_a_chunked_upload_is_refused_on_its_way(
    metered: Metered, serve: Callable[..., int], used: int, status: int
) -> None:
    """The client, still sending, gets the answer."""
    app = metered(INNER, cap("ingress", 1_000, reserve=100))
    url = f"http://127.0.0.1:{serve(app)}/upload"
    key = {"X-API-Key": "k"}
    assert httpx.post(url, content=b"u" * used, headers=key).status_code == 200

    def chunks() -> Iterator[bytes]:
        for _ in range(2 if used else 4):
            yield b"u" * 400
            time.sleep(0.05)

    answer = httpx.post(url, content=chunks(), headers=key)
    assert answer.status_code == status
    assert answer.json()["violated-policies"] == ["ingress"]
    event = metered.events()[-1]
    assert (event["requests"], event["status"], event["limited_by"]) == (0, status, ["ingress"])
    assert event["request_bytes"] <= 1_000 - used


@pytest.mark.parametrize("sockets", ["websockets", "websockets-sansio", "wsproto"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::uvicorn.config.UvicornDeprecationWarning")
def test_a_socket_on_a_real_server(metered: Metered, serve: Callable[..., int], sockets: str) -> None:
    """It closes with 1008 at the first message too many, and its event is there by then."""
    app = metered(INNER, cap("asked", 5, on_exhausted="cut"), {"concurrent": 1})
    port = serve(app, sockets)
    with connect(f"ws://127.0.0.1:{port}/talk", additional_headers={"X-API-Key": "k"}) as client:
        for number in range(5):
            client.send(str(number))
            assert client.recv() == str(number)
        client.send("one too many")
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            client.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "The limit asked is used up.")
    (event,) = metered.events()
    assert (event["status"], event["request_messages"], event["response_messages"]) == (101, 5, 5)
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}/talk", additional_headers={"X-API-Key": "k"}).__enter__()
    assert refused.value.response.status_code == 429


def test_a_client_in_sequence_never_meets_itself(metered: Metered, serve: Callable[..., int]) -> None:
    """500 requests one after the other, with one slot: none is refused."""
    app = metered(INNER, {"concurrent": 1})
    with httpx.Client(base_url=f"http://127.0.0.1:{serve(app)}", headers={"X-API-Key": "k"}) as client:
        statuses = {client.get("/small").status_code for _ in range(500)}
    assert statuses == {200}
    assert len(metered.events()) == 500


def test_an_aborted_stream_gives_back_what_it_held(metered: Metered, serve: Callable[..., int]) -> None:
    """The slot, and what of the reserve had not passed."""
    app = metered(INNER, {"concurrent": 1}, cap("egress", 50_000_000, reserve=40_000_000, on_exhausted="cut"))
    port = serve(app)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            b"GET /stream?size=100&count=100000000 HTTP/1.1\r\nHost: a\r\nX-API-Key: k\r\n\r\n"
        )
        assert connection.recv(1_000)
    url = f"http://127.0.0.1:{port}/stream?size=1&count=1"

    def status() -> int:
        return httpx.get(url, headers={"X-API-Key": "k"}).status_code

    servers.wait_for(lambda: status() == 200, "the slot")
    aborted, *_ = metered.events()
    assert aborted["status"] == 200
    assert aborted["response_bytes"] < 40_000_000
    left = httpx.get(url, headers={"X-API-Key": "k"}).headers["RateLimit"]
    assert (
        int(left.split('"egress";r=')[1].split(";")[0]) == 50_000_000 - aborted["response_bytes"] - 40_000_001
    )


def test_the_last_message_leaves_outside_of_the_exchange(metered: Metered) -> None:
    """A server that begins the next request from within finds none; the app still has its own."""
    seen: list[object] = []

    def here() -> object:
        try:
            return current().subject
        except UsageError:
            return None

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})
        seen.append(here() is not None)

    app = metered(answering, {"rate": "9/second"})

    async def send(message: Message) -> None:
        seen.append(here() is not None)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    run(app, app(http_scope(), receive, send))  # type: ignore[arg-type]
    assert seen == [True, True, False, True]
