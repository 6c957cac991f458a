"""Two apps whose answers take a moment, so that a kill finds them at work: the policy is METER_POLICY."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from flask import Flask
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from meter_mw.asgi import MeterMiddleware as AsgiMeter
from meter_mw.wsgi import MeterMiddleware as WsgiMeter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

PAUSE_S = 0.01
PIECE = b"x" * 100


async def hello(request: Request) -> StreamingResponse:
    """Send three pieces, a moment apart."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(PAUSE_S)
            yield PIECE

    return StreamingResponse(pieces())


asgi = AsgiMeter(Starlette(routes=[Route("/hello", hello)]))

wsgi = Flask(__name__)


@wsgi.get("/hello")
def slow() -> Iterator[bytes]:
    """Send three pieces, a moment apart."""
    for _ in range(3):
        time.sleep(PAUSE_S)
        yield PIECE


wsgi.wsgi_app = WsgiMeter(wsgi.wsgi_app)  # type: ignore[method-assign]
