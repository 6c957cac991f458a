"""A Django project whose limits are tried, served by WSGI or by ASGI; its views are as the server is."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from apps import subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from django.http import HttpRequest

_STEP = 7_000

settings.configure(
    SECRET_KEY="subject",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["meter_mw.django.MeterMiddleware", "django.middleware.common.CommonMiddleware"],
    LOGGING_CONFIG=None,
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    METER_POLICY=subject.POLICIES / "main.yaml",
)
django.setup()

_inside = 0


def _size(request: HttpRequest) -> int:
    return int(request.GET.get("size", "0"))


def _chunks(size: int) -> Iterator[bytes]:
    for begun in range(0, size, _STEP):
        yield b"x" * min(_STEP, size - begun)


async def _achunks(size: int) -> AsyncIterator[bytes]:
    for chunk in _chunks(size):
        yield chunk


def sized(request: HttpRequest) -> HttpResponse:
    """Have it all at once."""
    return HttpResponse(b"x" * _size(request))


def chunked(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_chunks(_size(request)))


async def achunked(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_achunks(_size(request)))


def declared(request: HttpRequest) -> StreamingHttpResponse:
    """Stream what is declared, under ASGI out of a synchronous view and iterator."""
    size = _size(request)
    return StreamingHttpResponse(_chunks(size), headers={"Content-Length": str(size)})


def drain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"%d" % len(request.body))


def inside(request: HttpRequest) -> HttpResponse:
    global _inside  # noqa: PLW0603 - one process counts how many are in here
    _inside += 1
    seen = _inside
    time.sleep(0.03)
    _inside -= 1
    return HttpResponse(b"%d" % seen)


async def ainside(request: HttpRequest) -> HttpResponse:
    global _inside  # noqa: PLW0603 - one process counts how many are in here
    _inside += 1
    seen = _inside
    await asyncio.sleep(0.03)
    _inside -= 1
    return HttpResponse(b"%d" % seen)


def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the view fails")


_is_async = bool(os.environ.get("SUBJECT_ASYNC"))

urlpatterns = [
    path("v1/sized", sized),
    path("v1/chunked", achunked if _is_async else chunked),
    path("v1/declared", declared),
    path("v1/drain", drain),
    path("v1/inside", ainside if _is_async else inside),
    path("v1/fail", fail),
]

app = None if _is_async else WSGIHandler()
asgi = ASGIHandler() if _is_async else None
