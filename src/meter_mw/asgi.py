"""The ASGI edge: one middleware for FastAPI, Starlette and every other ASGI app.

Rule 1: messages pass one for one and at once; nothing is held back, merged or split.
Rule 2: a byte of the response counts when the server has taken it while the client was there; the last
one counts before it leaves, because the event must be in the journal by then.
Rule 3: whatever ends the exchange (the last byte, an error, a disconnect, a cancellation), it is
finished once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

from meter_mw.core import Answer
from meter_mw.exchange import MARK, enter
from meter_mw.meter import Meter
from meter_mw.model import Request
from meter_mw.policy.paths import routed_path
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from meter_mw.core import Admission
    from meter_mw.exchange import Exchange
    from meter_mw.policy.policy import Policy
    from meter_mw.respond import Body

_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


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
        self.meter = Meter(policy, refusal=refusal)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; count what is a request and not counted yet."""
        if scope["type"] == "lifespan":
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
        enter(exchange)
        try:
            if admission.answer is Answer.EXEMPT:
                await self.app(scope, receive, send)
            elif scope["type"] == "http":
                await _Http(self.meter, exchange, scope, receive, send).run(self.app)
            else:
                await _WebSocket(self.meter, exchange, send).run(self.app, scope, receive)
        finally:
            enter(None)


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
    for name, value in fields:
        headers.append(name, value)
    if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
        exposing = exposed(None, fields)
        if exposing:
            headers.append("Access-Control-Expose-Headers", exposing)
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": headers.raw})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


class _Http:
    """One HTTP exchange: counts what passes `receive` and `send`, and notices when the client leaves."""

    def __init__(self, meter: Meter, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        self._meter = meter
        self._exchange = exchange
        self._scope = scope
        self._receive = receive
        self._send = send
        self._awaiting = 0
        self._gone = False
        self._inbox: deque[Message] = deque()
        self._arrival = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self.receive, self.send)
            self._exchange.status = self._exchange.status or (0 if self._gone else 500)
        except Exception:
            self._exchange.status = self._exchange.status or 500
            raise
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._meter.finish(self._exchange)

    async def receive(self) -> Message:
        message = await self._next()
        if message["type"] == "http.request":
            self._exchange.request_bytes += len(message.get("body", b""))
        elif message["type"] == "http.disconnect":
            self._gone = True
        return message

    async def _next(self) -> Message:
        """Give what the watch has picked up, then what the server has."""
        while not self._inbox and self._watch is not None and not self._watch.done():
            self._arrival.clear()
            await self._arrival.wait()
        if self._inbox:
            return self._inbox.popleft()
        self._awaiting += 1
        try:
            return await self._receive()
        finally:
            self._awaiting -= 1

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            await self._send_body(message)
            return
        if kind == "http.response.start":
            message = self._begin(message)
        elif kind == "http.response.pathsend":
            self._exchange.passes(Path(message["path"]).stat().st_size)  # noqa: ASYNC240 - one stat
            self._meter.finish(self._exchange)
        await self._send(message)

    def _begin(self, message: Message) -> Message:
        exchange = self._exchange
        headers = MutableHeaders(raw=list(message.get("headers", ())))
        declared = headers.get("content-length", "")
        exchange.begin(message["status"], int(declared) if declared.isdecimal() else None)
        fields = self._meter.responder.fields(exchange.admission)
        for name, value in fields:
            headers.append(name, value)
        if fields and any(name == b"origin" for name, _ in self._scope["headers"]):
            exposing = exposed(headers.get("access-control-expose-headers"), fields)
            if exposing:
                headers["Access-Control-Expose-Headers"] = exposing
        if exchange.completes():
            self._meter.finish(exchange)
        return {**message, "headers": headers.raw}

    async def _send_body(self, message: Message) -> None:
        exchange = self._exchange
        size = len(message.get("body", b""))
        if not message.get("more_body", False) or exchange.completes(size):
            if not self._gone:
                exchange.passes(size)
            self._meter.finish(exchange)
            await self._send(message)
            return
        if self._watch is None and not self._awaiting:
            self._watch = asyncio.create_task(self._watching())
        await self._send(message)
        if not self._gone:
            exchange.passes(size)

    async def _watching(self) -> None:
        """Look out for the client's leaving while the app streams and does not look itself.

        Servers go on taking what is sent to a client that has left, so only `receive` tells. What comes
        in is kept for the app: at most one part of a body that it has not read.
        """
        while True:
            message = await self._receive()
            self._inbox.append(message)
            self._arrival.set()
            if message["type"] == "http.disconnect":
                self._gone = True
                return
            if message.get("more_body", False):
                return


class _WebSocket:
    """One WebSocket: counted as one request, when it is accepted or turned away."""

    def __init__(self, meter: Meter, exchange: Exchange, send: Send) -> None:
        self._meter = meter
        self._exchange = exchange
        self._send = send

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, self.send)
        finally:
            self._end(0)

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in self._meter.responder.fields(self._exchange.admission):
                headers.append(name, value)
            message = {**message, "headers": headers.raw}
            self._end(101)
        elif kind == "websocket.close":
            self._end(403)
        elif kind == "websocket.http.response.start":
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
