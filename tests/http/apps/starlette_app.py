"""The subject in Starlette, and in FastAPI where SUBJECT_FASTAPI is set, with every variant of the meter."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from apps import subject
from meter_mw import current
from meter_mw.asgi import MeterMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocket


async def _paused(stream: subject.Stream) -> AsyncIterator[bytes]:
    for chunk in stream.chunks:
        stream.on_chunk()
        yield chunk
        if stream.pause:  # without one, the stream never lets the event loop have a turn
            await asyncio.sleep(stream.pause)


def _native(reply: subject.Reply) -> Response:
    if isinstance(reply, subject.Stream):
        declared = {} if reply.length is None else {"Content-Length": str(reply.length)}
        return StreamingResponse(_paused(reply), media_type=reply.media_type, headers=declared)
    if isinstance(reply, subject.File):
        return FileResponse(reply.path)
    response = Response(reply.body, reply.status)
    for name, value in reply.fields:
        if name == "Content-Length":
            response.headers[name] = value
        else:
            response.headers.append(name, value)
    return response


def _endpoint(name: str, function: Callable[[subject.Call], subject.Reply]) -> Callable[..., object]:
    async def endpoint(request: Request) -> Response:
        subject.ran(name, request.url.path)
        body = b"" if name == "unread" else await request.body()
        return _native(function(subject.Call(request.path_params, request.query_params, body)))

    return endpoint


async def threaded(request: Request) -> Response:
    await run_in_threadpool(lambda: current().add("tokens", 3))
    return Response(b"thread")


async def tasked(request: Request) -> Response:
    async def work() -> None:
        current().add("tokens", 4)

    await asyncio.create_task(work())
    return Response(b"task")


async def after(request: Request) -> Response:
    """Report in a background task, which runs after the response."""
    return Response(b"after", background=BackgroundTask(current().add, "tokens", 6))


async def drain(request: Request) -> Response:
    """Read a body as it comes, and say how long it was."""
    return Response(str(sum([len(chunk) async for chunk in request.stream()])).encode())


class Duplex:
    """Sends back each part of a body as it comes; a StreamingResponse would look for the client itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for chunk in Request(scope, receive).stream():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text.upper())


def _routes() -> list[Route | WebSocketRoute]:
    native = [("/v1/tokens/thread", threaded), ("/v1/tokens/task", tasked), ("/v1/tokens/after", after)]
    return [
        *(Route(path, endpoint) for path, endpoint in native),
        Route("/v1/drain", drain, methods=["POST"]),
        Route("/v1/duplex", Duplex(), methods=["POST"]),
        *(
            Route(template, _endpoint(name, function), methods=list(methods))
            for name, methods, template, function in subject.ENDPOINTS
        ),
        WebSocketRoute("/v1/talk", talk),
    ]


async def raw_big(scope: Scope, receive: Receive, send: Send) -> None:
    """Stream 100 MB without ever calling receive."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    whole, rest = divmod(subject.BIG, subject.BIG_CHUNK)
    for _ in range(whole):
        await send({"type": "http.response.body", "body": b"x" * subject.BIG_CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b"x" * rest})


async def _passing(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def inner() -> Starlette:
    """Give the unmetered app."""
    app = Starlette(routes=[*_routes(), Mount("/v1/raw", raw_big)])
    if os.environ.get("SUBJECT_FASTAPI"):
        app = FastAPI()
        app.router.routes.extend(_routes())
        app.mount("/v1/raw", raw_big)
    return app


def _metered(app: ASGIApp, policy: str, **options: object) -> ASGIApp:
    return MeterMiddleware(app, policy=subject.POLICIES / f"{policy}.yaml", **options)


@subject.built_once
def variant(name: str) -> ASGIApp:
    """Build the app as `name` says: how the meter is installed, or else which policy it has."""
    main = functools.partial(_metered, policy=name)
    match name:
        case "added":
            app = inner()
            app.add_middleware(MeterMiddleware, policy=subject.POLICIES / "added.yaml")
            return app
        case "base-http":
            app = inner()
            app.add_middleware(BaseHTTPMiddleware, dispatch=_passing)
            app.add_middleware(MeterMiddleware, policy=subject.POLICIES / "base-http.yaml")
            app.add_middleware(BaseHTTPMiddleware, dispatch=_passing)
            return app
        case "own-body":
            return main(inner(), refusal=subject.refusal_body)
        case "twice":
            return main(_metered(inner(), name))
        case "gzip-inside":
            return main(GZipMiddleware(inner(), minimum_size=1))
        case "gzip-outside":
            return GZipMiddleware(main(inner()), minimum_size=1)
        case "cors-outside":
            return CORSMiddleware(main(inner()), allow_origins=["*"])
        case "mount-inside":
            return Starlette(routes=[Mount("/api", main(inner()))])
        case "mount-outside":
            return main(Starlette(routes=[Mount("/api", inner())]))
        case _:
            return main(inner())


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request to the variant that its field X-Variant names."""
    subject.check_outside()
    fields = dict(scope.get("headers", ()))
    await variant(fields.get(b"x-variant", b"main").decode())(scope, receive, send)
