"""The ASGI edge: one middleware for FastAPI, Starlette and every other ASGI app.

Rule 1: messages pass one for one and at once; nothing is held back, merged or split.
Rule 2: a byte of the response counts when it is handed to the server while the client is there: before
it leaves, because by the last one the event must be in the journal.
Rule 3: whatever ends the exchange (the last byte, an error, a disconnect, a cancellation), it is
finished once.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

from meter_mw.core import Answer
from meter_mw.exchange import MARK, enter
from meter_mw.meter import Meter
from meter_mw.model import MeterError, Request
from meter_mw.policy.paths import routed_path
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from meter_mw.core import Admission
    from meter_mw.exchange import Exchange
    from meter_mw.policy.policy import Policy
    from meter_mw.respond import Body, Fields

_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1

_BODIES = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})

_LISTEN_EVERY = 1 << 16
"""Bytes of a stream after which the event loop gets a turn.

An app that never waits would not let it hear of a client that left, and the server take the rest.
"""

_EXPOSING = "Access-Control-Expose-Headers"


class MeterMiddleware:
    """Meters every HTTP request and WebSocket handshake of an ASGI app.

    `policy` is a path, a mapping of the same shape or a loaded Policy; without one METER_POLICY names the
    file, else `meter.yaml`. `refusal` replaces the body of refusals. Raises PolicyError at start-up for a
    policy that is wrong.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: str | Path | Mapping[str, object] | Policy | None = None,
        *,
        refusal: Body | None = None,
    ) -> None:
        self.app = app
        self._mistake: MeterError | None = None
        try:
            self.meter = Meter(policy, refusal=refusal)
        except MeterError as mistake:
            if not _is_in_event_loop():
                raise
            # Starlette makes its middleware in the first call, where servers take an exception for an app
            # without a lifespan, and go on.
            self._mistake = mistake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; count what is a request and not counted yet."""
        if self._mistake is not None:
            await _fail_to_start(self._mistake, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, _Lifespan(self.meter, send).send)
        elif MARK in scope or scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        else:
            await self._metered(scope, receive, send)

    async def _metered(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _facts(scope)
        admission = await self.meter.aadmit(request)
        if not admission.serves:
            await _refuse(self.meter, admission, scope, receive, send)
            return
        exchange = scope[MARK] = self.meter.exchange(admission, request.method)
        outer = enter(exchange)
        try:
            if admission.answer is Answer.EXEMPT:
                await self.app(scope, receive, send)
            elif scope["type"] == "http":
                await _Http(self.meter, exchange, scope, receive, send).run(self.app)
            else:
                await _WebSocket(self.meter, exchange, scope, send).run(self.app, receive)
        finally:
            enter(outer)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _fail_to_start(mistake: MeterError, scope: Scope, receive: Receive, send: Send) -> None:
    """Have the server say what is wrong and stop, where it asks; serve nothing."""
    if scope["type"] != "lifespan":
        raise mistake
    await receive()
    await send({"type": "lifespan.startup.failed", "message": f"meter_mw: {mistake}"})


def _facts(scope: Scope) -> Request:
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]

    def field(name: str) -> list[str]:
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]

    client = scope.get("client")
    return Request(
        method=scope.get("method", "GET"),  # a WebSocket handshake is a GET (RFC 6455, section 4.1)
        path=routed_path(scope["path"], scope.get("root_path", "")),
        query=scope.get("query_string", b"").decode("latin-1"),
        field=field,
        peer=client[0] if client else None,
    )


async def _refuse(meter: Meter, admission: Admission, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in the app's stead, before it sees the request."""
    refusal, fields, body = meter.refuse(admission)
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal.title})
            return
        kind = "websocket.http.response"
    headers = MutableHeaders(raw=[])
    _add(fields, headers, scope)
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": headers.raw})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


def _add(fields: Fields, headers: MutableHeaders, scope: Scope) -> None:
    """Append fields, and let a script on another origin read them."""
    for name, value in fields:
        headers.append(name, value)
    if any(name == b"origin" for name, _ in scope["headers"]):
        exposing = exposed(", ".join(headers.getlist(_EXPOSING)) or None, fields)
        if exposing is not None:
            headers[_EXPOSING] = exposing


class _Http:
    """One HTTP exchange: counts what passes `receive` and `send`."""

    def __init__(self, meter: Meter, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        self._meter = meter
        self._exchange = exchange
        self._scope = scope
        self._inbox = _Inbox(receive)
        self._send = send
        self._unheard = 0

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self.receive, self.send)
            self._end(500)
        except Exception:
            self._end(500)
            raise
        finally:
            self._inbox.close()
            self._end(0)

    def _end(self, unanswered: int) -> None:
        """Close the count; without a response, the status is what servers answer to a client that stayed."""
        exchange = self._exchange
        exchange.status = exchange.status or (0 if self._inbox.gone else unanswered)
        self._meter.finish(exchange)

    async def receive(self) -> Message:
        message = await self._inbox.take()
        self._exchange.request_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = self._begin(message)
        elif message["type"] in _BODIES:
            self._pass(message)
        await self._send(message)
        if self._unheard >= _LISTEN_EVERY:
            self._unheard = 0
            await asyncio.sleep(0)

    def _begin(self, message: Message) -> Message:
        exchange = self._exchange
        headers = MutableHeaders(raw=list(message.get("headers", ())))
        exchange.begin(message["status"], headers.get("content-length"))
        _add(self._meter.responder.fields(exchange.admission), headers, self._scope)
        if exchange.completes():
            self._meter.finish(exchange)
        return {**message, "headers": headers.raw}

    def _pass(self, message: Message) -> None:
        exchange, size = self._exchange, _size(message)
        if not self._inbox.gone:
            exchange.passes(size)
        if exchange.completes() or not message.get("more_body", False):
            self._meter.finish(exchange)
        else:
            self._unheard += size
            self._inbox.watch()


def _size(message: Message) -> int:
    """Give the bytes of body that a message stands for."""
    match message["type"]:
        case "http.response.pathsend":
            return Path(message["path"]).stat().st_size
        case "http.response.zerocopysend":
            file = message["file"].fileno()
            offset = message.get("offset", os.lseek(file, 0, os.SEEK_CUR))
            rest: int = os.fstat(file).st_size - offset
            return min(rest, int(message.get("count", rest)))
        case _:
            body: bytes = message.get("body", b"")
            return len(body)


class _Inbox:
    """What the server has to say of a request, for the app and for us.

    Servers go on taking what is sent to a client that has left; only `receive` tells. So while the app
    streams and does not look itself, this does. What comes in is kept for the app: at most one part of a
    body that it has not read.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._watch: asyncio.Task[None] | None = None
        self._asked = 0
        self.gone = False

    async def take(self) -> Message:
        """Give the app its next message."""
        while self._watch is not None and not self._kept and not self._watch.done():
            await asyncio.wait((self._watch,))
        if self._kept:
            return self._kept.popleft()
        self._asked += 1
        try:
            return await self._next()
        finally:
            self._asked -= 1

    def watch(self) -> None:
        """Look out for the client's leaving, unless the app does, or has something to read first."""
        looking = self._asked or (self._watch is not None and not self._watch.done())
        unread = bool(self._kept) and self._kept[-1].get("more_body", False)
        if not (looking or unread or self.gone):
            self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        self._kept.append(await self._next())

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
        return message

    def close(self) -> None:
        """Look no more."""
        if self._watch is not None:
            self._watch.cancel()


class _WebSocket:
    """One WebSocket: counted as one request, when it is accepted or turned away."""

    def __init__(self, meter: Meter, exchange: Exchange, scope: Scope, send: Send) -> None:
        self._meter = meter
        self._exchange = exchange
        self._scope = scope
        self._send = send

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        try:
            await app(self._scope, receive, self.send)
        except Exception:
            self._end(500)
            raise
        finally:
            self._end(0)

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "websocket.accept":
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                _add(self._meter.responder.fields(self._exchange.admission), headers, self._scope)
                message = {**message, "headers": headers.raw}
                self._end(101)
            case "websocket.close":
                self._end(403)
            case "websocket.http.response.start":
                self._end(message["status"])
        await self._send(message)

    def _end(self, status: int) -> None:
        self._exchange.status = self._exchange.status or status
        self._meter.finish(self._exchange)


class _Lifespan:
    """Starts forwarding when the app has started, and flushes when it has stopped."""

    def __init__(self, meter: Meter, send: Send) -> None:
        self._meter = meter
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._meter.start()
        elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await self._meter.aflush()
        await self._send(message)
