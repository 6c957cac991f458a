"""One WebSocket: a request when it is accepted, then messages and bytes both ways until it ends."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from meter_mw.asgi.answers import POLICY_VIOLATION, dress
from meter_mw.asgi.ending import Stopped
from meter_mw.journal import NotDurable
from meter_mw.model import Count
from meter_mw.policy.terms import OnExhausted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from meter_mw.admission import Standing
    from meter_mw.exchange import Exchange
    from meter_mw.meter import Meter

_log = logging.getLogger(__name__)

_TRY_AGAIN_LATER = 1013  # the IANA registry of WebSocket close codes

_LONGEST_REASON = 123  # RFC 6455, section 5.5

_SWITCHED, _FORBIDDEN = 101, 403

_IN = (Count.REQUEST_MESSAGES, Count.REQUEST_BYTES)
_OUT = (Count.RESPONSE_MESSAGES, Count.RESPONSE_BYTES)


class Socket:
    """Stands between the app and the server for one WebSocket.

    A message that finds a limit used up is the last one, or where that limit cuts, does not pass; then the
    socket is closed. The app hears that, and what it still sends is an error, as it is to a client that left.
    """

    def __init__(self, meter: Meter, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        self._meter = meter
        self._exchange = exchange
        self._scope = scope
        self._receive = receive
        self._send = send
        self._kept: Message | None = None
        self._closing: Message | None = None
        self._is_closed = False
        self._is_gone = False

    async def run(self, app: ASGIApp) -> None:
        """Serve the socket; what an app raises as we closed it is not the server's to hear."""
        try:
            await app(self._scope, self.receive, self.send)
            await self._close()
            self._end(500)
        except Exception:
            if not self._is_closed:
                self._end(500)
                raise
            _log.debug("an app failed when a limit had closed its socket", exc_info=True)
        finally:
            self._end(0)

    def _end(self, unanswered: int) -> None:
        """Close the count; without a handshake, the status is what servers answer to a client that stayed."""
        self._exchange.status = self._exchange.status or (0 if self._is_gone else unanswered)
        self._meter.abandon(self._exchange)

    async def receive(self) -> Message:
        """Give the app its next message, if that fits and nothing is to be closed first."""
        await self._close()
        if not self._is_closed:
            message = self._kept or await self._receive()
            self._kept = None
            if self._is_closed:
                return _disconnect(self._closing)
            if message["type"] != "websocket.receive" or await self._comes(message):
                return await self._heard(message)
        return _disconnect(self._closing)

    async def _comes(self, message: Message) -> bool:
        """Count a message from the client; say whether it passes."""
        size = _size(message)
        try:
            end = await self._end_of(_IN, size)
        except BaseException:
            self._kept = message
            raise
        if end is OnExhausted.CUT:
            await self._close()
        return not self._is_closed

    async def _heard(self, message: Message) -> Message:
        if message["type"] == "websocket.disconnect":
            self._is_gone = True
            if self._exchange.status:
                with suppress(NotDurable):  # nobody is left to be told
                    await self._meter.aconclude(self._exchange)
        return message

    async def send(self, message: Message) -> None:
        """Hand a message of the app to the server, if it fits."""
        if self._is_closed:
            if message["type"] == "websocket.send":
                raise Stopped("a limit has closed this socket")
            return
        match message["type"]:
            case "websocket.send":
                await self._goes(message)
                return
            case "websocket.accept":
                message = self._begun(message, _SWITCHED)
            case "websocket.close":
                self._closing = None
                self._exchange.status = self._exchange.status or _FORBIDDEN
                await self._meter.aconclude(self._exchange)
            case "websocket.http.response.start":
                message = self._begun(message, message["status"])
            case "websocket.http.response.body":
                self._exchange.response_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._meter.aconclude(self._exchange)
        await self._send(message)

    def _begun(self, message: Message, status: int) -> Message:
        self._exchange.status = status
        raw = list(message.get("headers", ()))
        dress(self._meter, self._exchange, raw, self._scope)
        return {**message, "headers": raw}

    async def _goes(self, message: Message) -> None:
        """Count a message to the client and send it; close the socket after it, or in its place."""
        size = _size(message)
        end = await self._end_of(_OUT, size)
        if end is OnExhausted.CUT:
            await self._close()
        if self._is_closed:
            raise Stopped("a limit has closed this socket")
        await self._send(message)
        if end is OnExhausted.FINISH:
            await self._close()

    async def _end_of(self, counts: tuple[Count, Count], size: int) -> OnExhausted | None:
        """Count one more message; where it does not fit, say when the socket is to be closed."""
        exchange, passing = self._exchange, ((counts[0], 1), (counts[1], size))
        room = await self._meter.gate.alets(exchange, *passing, refuses=True)
        if room is None:
            return None
        if self._closing is None:
            exchange.stopped(room.denied_by)
            self._closing = _closing(exchange.limited_by)
        if room.unavailable or any(_cuts(each) for each in room.denied_by):
            return OnExhausted.CUT
        for count, units in passing:
            exchange.count(count, units)
        return OnExhausted.FINISH

    async def _close(self) -> None:
        """Close the socket, if that is to be done; its event is written before the client can know."""
        if self._closing is None or self._is_closed or self._is_gone:
            return
        self._is_closed = True
        await self._meter.aconclude(self._exchange)
        with suppress(OSError):
            await self._send(self._closing)


def _cuts(how: Standing) -> bool:
    return how.line.limit.on_exhausted is OnExhausted.CUT


def _closing(limits: Sequence[str]) -> Message:
    """Give our close: by the limits that are used up, or as they cannot be checked."""
    code, reason = _TRY_AGAIN_LATER, "The usage of this key cannot be checked at the moment."
    if limits:
        code, reason = POLICY_VIOLATION, f"The limit {', '.join(limits)} is used up."
    return {"type": "websocket.close", "code": code, "reason": reason[:_LONGEST_REASON]}


def _disconnect(closing: Message | None) -> Message:
    """Give what the app hears of our close."""
    told = closing or {}
    return {"type": "websocket.disconnect", "code": told.get("code"), "reason": told.get("reason")}


def _size(message: Message) -> int:
    """Give the bytes of a message; text goes as UTF-8."""
    data = message.get("bytes")
    if data is not None:
        return len(data)
    text = message.get("text") or ""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
