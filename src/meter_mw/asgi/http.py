"""One HTTP exchange of an ASGI app: counts what passes, and lets no more of it pass than its limits do."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from meter_mw.asgi.answers import answer, dress, is_http1
from meter_mw.asgi.bodies import BODIES, first_of, size_of
from meter_mw.asgi.ending import Stopped, leaving
from meter_mw.asgi.inbox import Inbox
from meter_mw.exchange import enter
from meter_mw.journal import NotDurable
from meter_mw.model import Count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from meter_mw.admission import Admission
    from meter_mw.exchange import Exchange
    from meter_mw.lasting import Room
    from meter_mw.meter import Meter

_log = logging.getLogger(__name__)

_LISTEN_EVERY = 1 << 16
"""Bytes of a stream after which the event loop gets a turn.

An app that never waits would not let it hear of a client that left, and the server take the rest.
"""


class HttpExchange:
    """Stands between the app and the server for one request.

    An upload that does not fit is not read on: the app hears that its client has left, and whatever it
    answers, the client gets the refusal. A response that is cut ends without its last message, which servers
    make a broken transfer of.
    """

    __slots__ = (
        "_exchange", "_has_rest", "_inbox", "_is_cut", "_meter", "_outer", "_refused", "_scope", "_send",
        "_unheard",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - what ASGI hands over, and the exchange with the one around it
        self,
        meter: Meter,
        exchange: Exchange,
        outer: Exchange | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._meter = meter
        self._exchange = exchange
        self._outer = outer
        self._scope = scope
        self._inbox = Inbox(receive)
        self._send = send
        self._unheard = 0
        self._refused: Admission | None = None
        self._has_rest = False
        self._is_cut = False

    async def run(self, app: ASGIApp) -> None:
        """Serve the request; what an app raises as it was stopped is not the server's to hear."""
        exchange = self._exchange
        try:
            await app(self._scope, self.receive, self.send)
            if self._refused is not None:
                await self._answer()
            if not exchange.ended:
                await self._end(500)
        except Exception:
            if not self._is_stopped:
                await self._end(500)
                raise
            _log.debug("an app failed when a limit stopped it", exc_info=True)
            await self._answer()
        finally:
            self._inbox.close()
            if not exchange.ended:
                self._meter.abandon(exchange)

    @property
    def _is_stopped(self) -> bool:
        return self._is_cut or self._refused is not None

    async def _end(self, unanswered: int) -> None:
        """Close the count; without a response, the status is what servers answer to a client that stayed."""
        exchange = self._exchange
        exchange.status = exchange.status or (0 if self._inbox.gone else unanswered)
        with suppress(NotDurable):  # what the server answers now is no success
            await self._meter.aconclude(exchange)

    async def _conclude(self) -> None:
        """Close the count before the last byte leaves; where it may not leave, nothing more does."""
        booked = self._meter.finish(self._exchange)
        if booked is not None:
            try:
                await self._meter.arelease(self._exchange, booked)
            except NotDurable:
                self._is_cut = True
                raise

    async def receive(self) -> Message:
        """Give the app its next message, if that fits."""
        if self._is_stopped:
            return _gone()
        message = await self._inbox.take()
        size = len(message.get("body", b""))
        if not self._exchange.comes(size):
            try:
                room = await self._meter.gate.alets(self._exchange, (Count.REQUEST_BYTES, size), refuses=True)
            except BaseException:
                self._inbox.put_back(message)
                raise
            if room is not None:
                await self._stop_reading(room, message)
                return _gone()
        return message

    async def _stop_reading(self, room: Room, unread: Message) -> None:
        """Hand no more of the body to the app; a response that has begun breaks off."""
        if self._exchange.status:
            await self._break_off(room)
            return
        self._refused = self._exchange.refuse(room)
        self._has_rest = bool(unread.get("more_body", False))

    async def _answer(self) -> None:
        """Send the refusal of an upload that did not fit, unless that is done."""
        exchange = self._exchange
        if self._refused is None or exchange.status:
            return
        refusal, fields, body = self._meter.refuse(self._refused)
        if self._has_rest and is_http1(self._scope):
            fields = (*fields, ("Connection", "close"))
        exchange.status = refusal.status
        await self._conclude()
        send = leaving(self._send, exchange, self._outer)
        await answer(refusal.status, fields, body, self._scope, send)

    async def send(self, message: Message) -> None:
        """Hand a message of the app to the server, if it fits."""
        if self._is_cut or self._refused is not None:
            await self._swallow(message)
        elif message["type"] in BODIES:
            await self._pass(message)
        elif message["type"] == "http.response.start":
            await self._send(await self._begin(message))
        else:
            await self._send(message)

    async def _swallow(self, message: Message) -> None:
        """Let an app that was refused say its last to nobody; end its streams."""
        await self._answer()
        if self._is_cut or message.get("more_body", False):
            raise Stopped("a limit has ended this exchange")

    async def _begin(self, message: Message) -> Message:
        exchange = self._exchange
        raw = list(message.get("headers", ()))
        exchange.begin(message["status"], _length(raw))
        dress(self._meter, exchange, raw, self._scope)
        if exchange.completes():
            await self._conclude()
        return {**message, "headers": raw}

    async def _pass(self, message: Message) -> None:
        """Count what a message carries and hand it on, or break off where it does not fit."""
        exchange, size = self._exchange, size_of(message)
        if not self._inbox.gone:
            counted = exchange.clipped(size)
            if not exchange.goes(counted):
                await self._top_up(message, counted)
        if message.get("more_body", False):
            await self._hand_on(message, size)
            return
        await self._conclude()
        enter(self._outer)
        try:
            await self._send(message)
        finally:
            enter(exchange)

    async def _hand_on(self, message: Message, size: int) -> None:
        """Hand on a message that others follow, unless the client has all with it."""
        if self._exchange.completes():
            await self._conclude()
        else:
            self._unheard += size
            self._inbox.watch()
        await self._send(message)
        if self._unheard >= _LISTEN_EVERY:
            self._unheard = 0
            await asyncio.sleep(0)

    async def _top_up(self, message: Message, counted: int) -> None:
        """Have room made for a message of the response, or break off within it."""
        room = await self._meter.gate.alets(self._exchange, (Count.RESPONSE_BYTES, counted))
        if room is not None:
            await self._cut(room, message, counted)
            raise Stopped("a limit has ended this response")

    async def _cut(self, room: Room, message: Message, counted: int) -> None:
        """Break off within a message: what was granted of it still passes."""
        exchange = self._exchange
        granted = max(room.passes, exchange.response_room) - exchange.response_bytes
        left = max(0, min(granted, counted))
        exchange.count(Count.RESPONSE_BYTES, left)
        await self._break_off(room)
        async with aclosing(first_of(message, left)) as parts:
            async for part in parts:
                await self._send(part)

    async def _break_off(self, room: Room) -> None:
        """Let nothing more pass of a response that has begun."""
        self._is_cut = True
        self._exchange.stopped(room.denied_by)
        await self._conclude()


def _length(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Give the Content-Length that an app declares; the first, where it gives several."""
    for name, value in headers:
        if name == b"content-length" or name.lower() == b"content-length":
            return value.decode("latin-1")
    return None


def _gone() -> Message:
    """Give what an app hears when a limit has ended its exchange: its client can be told no more."""
    return {"type": "http.disconnect"}
