"""The app that is metered in the chaos; each answer names the event that it becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from meter_mw import current
from meter_mw.asgi import MeterMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

PIECE = b"x" * 1_000


async def item(request: Request) -> PlainTextResponse:
    """Answer with a few bytes."""
    return PlainTextResponse("an item", headers=_named())


async def echo(request: Request) -> Response:
    """Answer with what came."""
    return Response(await request.body(), headers=_named())


async def stream(request: Request) -> StreamingResponse:
    """Answer with so many pieces."""
    pieces = int(request.query_params["pieces"])

    async def body() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield PIECE

    return StreamingResponse(body(), headers=_named())


def _named() -> dict[str, str]:
    return {"X-Event": current().id or ""}


app = MeterMiddleware(
    Starlette(
        routes=[
            Route("/v1/item", item),
            Route("/v1/echo", echo, methods=["POST"]),
            Route("/v1/stream", stream),
        ]
    )
)
