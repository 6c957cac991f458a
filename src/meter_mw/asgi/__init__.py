"""The ASGI edge: one middleware for FastAPI, Starlette and every other ASGI app.

Rule 1: messages pass one for one and at once; nothing is held back, merged or split, but where a limit cuts.
Rule 2: a byte of the response counts when it is handed to the server while the client is there: before
it leaves, because by the last one the event must be in the journal.
Rule 3: whatever ends the exchange (the last byte, an error, a disconnect, a cancellation), it is
finished once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meter_mw.admission import Admission, Answer
from meter_mw.asgi.answers import facts, refuse
from meter_mw.asgi.ending import leaving
from meter_mw.asgi.http import HttpExchange
from meter_mw.asgi.websocket import Socket
from meter_mw.exchange import MARK, enter
from meter_mw.meter import METER, Meter
from meter_mw.model import MeterError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from meter_mw.policy.policy import Policy
    from meter_mw.respond import Body


class MeterMiddleware:
    """Meters every HTTP request and WebSocket of an ASGI app.

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
        if self._mistake is not None or MARK in scope or scope["type"] not in ("http", "websocket"):
            await self._unmetered(scope, receive, send)
            return
        request, meter = facts(scope), self.meter
        begun = meter.begin(request)
        admission = begun if isinstance(begun, Admission) else await meter.await_admission(begun)
        if not admission.serves:
            await refuse(meter, admission, scope, receive, send)
            return
        exchange = scope[MARK] = meter.exchange(admission, request.method)
        scope[METER] = meter
        outer = enter(exchange)
        try:
            is_http = scope["type"] == "http"
            if admission.answer is Answer.EXEMPT:
                await self.app(scope, receive, leaving(send, exchange, outer) if is_http else send)
            elif is_http:
                await HttpExchange(meter, exchange, outer, scope, receive, send).run(self.app)
            else:
                await Socket(meter, exchange, scope, receive, send).run(self.app)
        finally:
            enter(outer)

    async def _unmetered(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._mistake is not None:
            await _fail_to_start(self._mistake, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, _Lifespan(self.meter, send).send)
        else:
            await self.app(scope, receive, send)


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
