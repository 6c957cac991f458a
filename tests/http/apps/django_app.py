"""The subject in Django: settings, views and both entry points, with every variant of the meter."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import TYPE_CHECKING

import django
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path

import meter_mw.asgi
import meter_mw.wsgi
from apps import subject
from meter_mw import current

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase
    from starlette.types import ASGIApp, Receive, Scope, Send

PART = 16 * 1024
"""What is read of a body at a time."""

METER = "meter_mw.django.MeterMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"
COMMON = "django.middleware.common.CommonMiddleware"

settings.configure(
    SECRET_KEY="subject",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[METER, COMMON],
    LOGGING_CONFIG=None,
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
)
django.setup()


def _paused(stream: subject.Stream) -> Iterator[bytes]:
    for chunk in stream.chunks:
        stream.on_chunk()
        yield chunk
        time.sleep(stream.pause)


async def _apaused(stream: subject.Stream) -> AsyncIterator[bytes]:
    for chunk in stream.chunks:
        stream.on_chunk()
        yield chunk
        if stream.pause:  # without one, the stream never lets the event loop have a turn
            await asyncio.sleep(stream.pause)


def _native(reply: subject.Reply, *, is_async: bool) -> HttpResponseBase:
    if isinstance(reply, subject.Stream):
        chunks = _apaused(reply) if is_async else _paused(reply)
        response = StreamingHttpResponse(chunks, content_type=reply.media_type)
        if reply.length is not None:
            response["Content-Length"] = str(reply.length)
        return response
    if isinstance(reply, subject.File):
        return FileResponse(reply.path.open("rb"))
    response = HttpResponse(reply.body, status=reply.status)
    for name, value in reply.fields:
        if name == "Set-Cookie":
            response.set_cookie(*value.split("="))
        else:
            response[name] = value
    return response


def _call(name: str, request: HttpRequest, parameters: dict[str, str]) -> subject.Call:
    subject.ran(name, request.path)
    return subject.Call(parameters, request.GET, b"" if name == "unread" else request.body)


def _view(
    name: str, methods: tuple[str, ...], function: Callable[[subject.Call], subject.Reply], *, is_async: bool
) -> Callable[..., object]:
    allowed = {*methods, "HEAD"} if "GET" in methods else set(methods)

    def view(request: HttpRequest, **parameters: str) -> HttpResponseBase:
        if request.method not in allowed:
            return HttpResponse(status=405)
        return _native(function(_call(name, request, parameters)), is_async=False)

    async def aview(request: HttpRequest, **parameters: str) -> HttpResponseBase:
        if request.method not in allowed:
            return HttpResponse(status=405)
        return _native(function(_call(name, request, parameters)), is_async=True)

    return aview if is_async else view


def threaded(request: HttpRequest) -> HttpResponse:
    """Run in a worker thread under ASGI, because the view is synchronous."""
    current().add("tokens", 3)
    return HttpResponse(b"thread")


def tasked(request: HttpRequest) -> HttpResponse:
    thread = threading.Thread(target=current().add, args=("tokens", 4))
    thread.start()
    thread.join()
    return HttpResponse(b"task")


async def atasked(request: HttpRequest) -> HttpResponse:
    await asyncio.create_task(sync_to_async(lambda: current().add("tokens", 4))())
    return HttpResponse(b"task")


def _parts(request: HttpRequest) -> Iterator[bytes]:
    while chunk := request.read(PART):
        yield chunk


async def _aparts(request: HttpRequest) -> AsyncIterator[bytes]:
    for chunk in _parts(request):
        yield chunk


def drain(request: HttpRequest) -> HttpResponse:
    """Read a body as it comes, and say how long it was."""
    return HttpResponse(str(sum(map(len, _parts(request)))).encode())


def duplex(request: HttpRequest) -> StreamingHttpResponse:
    """Send back each part of a body as it comes."""
    return StreamingHttpResponse(_parts(request))


async def aduplex(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_aparts(request))


def after(request: HttpRequest) -> HttpResponse:
    """Report when the response is closed, which is after its last byte."""
    response = HttpResponse(b"after")
    response._resource_closers.append(functools.partial(current().add, "tokens", 6))
    return response


def _urls(*, is_async: bool) -> list[object]:
    return [
        path("v1/tokens/thread", threaded),
        path("v1/tokens/task", atasked if is_async else tasked),
        path("v1/tokens/after", after),
        path("v1/drain", drain),
        path("v1/duplex", aduplex if is_async else duplex),
        *(
            path(
                template.lstrip("/").replace("{", "<").replace("}", ">"),
                _view(name, methods, function, is_async=is_async),
            )
            for name, methods, template, function in subject.ENDPOINTS
        ),
    ]


urlpatterns: list[object] = []
"""Filled by the entry point that is served: a process is either synchronous or asynchronous."""


def _build(name: str, handler: type[WSGIHandler | ASGIHandler]) -> WSGIHandler | ASGIHandler:
    """Build a handler whose middleware reads the settings of a variant."""
    if not urlpatterns:
        urlpatterns.extend(_urls(is_async=handler is ASGIHandler))
    settings.METER_POLICY = subject.POLICIES / f"{name}.yaml"
    settings.METER_REFUSAL = "apps.subject.refusal_body" if name == "own-body" else None
    settings.FORCE_SCRIPT_NAME = "/api" if name == "forced-script-name" else None
    settings.MIDDLEWARE = {
        "twice": [METER, METER, COMMON],
        "gzip-inside": [METER, GZIP, COMMON],
        "gzip-outside": [GZIP, METER, COMMON],
    }.get(name, [METER, COMMON])
    return handler()


@subject.built_once
def variant(name: str) -> WSGIApplication:
    """Build the WSGI app as `name` says."""
    app = _build(name, WSGIHandler)
    if name == "nested":
        return meter_mw.wsgi.MeterMiddleware(app, policy=subject.POLICIES / "nested.yaml")
    return app


@subject.built_once
def avariant(name: str) -> ASGIApp:
    """Build the ASGI app as `name` says."""
    app = _build(name, ASGIHandler)
    if name == "nested":
        return meter_mw.asgi.MeterMiddleware(app, policy=subject.POLICIES / "nested.yaml")
    return app


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Hand a request to the variant that its field X-Variant names."""
    subject.check_outside()
    name = environ.get("HTTP_X_VARIANT", "main")
    if name == "mount-inside":
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/api", environ["PATH_INFO"].removeprefix("/api")
    return variant(name)(environ, start_response)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request to the variant that its field X-Variant names."""
    subject.check_outside()
    if scope["type"] == "lifespan":
        raise RuntimeError("Django has no lifespan")
    name = dict(scope["headers"]).get(b"x-variant", b"main").decode()
    if name == "mount-inside":
        scope["root_path"] = "/api"
    await avariant(name)(scope, receive, send)


assert iscoroutinefunction(asgi)
