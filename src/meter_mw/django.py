"""The Django edge: one middleware for WSGI and ASGI, sync and async views.

Put it first in MIDDLEWARE: what stands before it changes bytes that are counted already, and serves
what it answers itself unmetered.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.utils.module_loading import import_string

from meter_mw.core import Answer
from meter_mw.environ import CountedInput, facts
from meter_mw.exchange import MARK, enter
from meter_mw.meter import Meter
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from meter_mw.core import Admission
    from meter_mw.exchange import Exchange
    from meter_mw.model import Request
    from meter_mw.respond import Body, Fields

_EXPOSING = "Access-Control-Expose-Headers"

_BODY = "_stream"
"""Where Django keeps the request body that it has not read yet."""


class MeterMiddleware:
    """Meters every request of a Django project.

    Settings: METER_POLICY (a path, a mapping or a loaded Policy; else the environment's METER_POLICY, else
    `meter.yaml`), METER_REFUSAL (optional: a callable, or its dotted path, that gives the body of
    refusals). Raises PolicyError at start-up for a policy that is wrong.
    """

    sync_capable = True
    async_capable = True

    def __init__(
        self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]
    ) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        refusal: Body | str | None = getattr(settings, "METER_REFUSAL", None)
        self.meter = Meter(
            getattr(settings, "METER_POLICY", None),
            refusal=import_string(refusal) if isinstance(refusal, str) else refusal,
        )

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Count a request that is not counted yet."""
        if MARK in request.META or MARK in getattr(request, "scope", ()):
            return self._get_response(request)
        return self._asynchronously(request) if self._is_async else self._synchronously(request)

    def _synchronously(self, request: HttpRequest) -> HttpResponseBase:
        admission = self.meter.admit(_facts(request))
        if not admission.serves:
            return self._refused(request, admission)
        with self._counted(request, admission) as exchange:
            response = cast("HttpResponseBase", self._get_response(request))
            self._pass(request, response, exchange)
        return response

    async def _asynchronously(self, request: HttpRequest) -> HttpResponseBase:
        admission = await self.meter.aadmit(_facts(request))
        if not admission.serves:
            return self._refused(request, admission)
        with self._counted(request, admission) as exchange:
            response = await cast("Awaitable[HttpResponseBase]", self._get_response(request))
            self._pass(request, response, exchange)
        return response

    def _refused(self, request: HttpRequest, admission: Admission) -> HttpResponse:
        refusal, fields, body = self.meter.refuse(admission)
        response = HttpResponse(body, status=refusal.status)
        del response["Content-Type"]
        _add(fields, response, request)
        return response

    @contextmanager
    def _counted(self, request: HttpRequest, admission: Admission) -> Iterator[Exchange]:
        """Count a request until its response is there; a streamed one is counted on by its stream."""
        exchange = self.meter.exchange(admission, request.method or "GET")
        request.META[MARK] = exchange
        if admission.answer is not Answer.EXEMPT:
            _count_body(request, exchange)
        outer = enter(exchange)
        try:
            yield exchange
        except BaseException:
            self.meter.finish(exchange)
            raise
        finally:
            enter(outer)

    def _pass(self, request: HttpRequest, response: HttpResponseBase, exchange: Exchange) -> None:
        if exchange.admission.answer is Answer.EXEMPT:
            return
        _add(self.meter.responder.fields(exchange.admission), response, request)
        exchange.begin(response.status_code, response.get("Content-Length"))
        if isinstance(response, StreamingHttpResponse) and not exchange.completes():
            response.streaming_content = _stream(request, response, exchange, self.meter)
            return
        if isinstance(response, HttpResponse):
            exchange.passes(len(response.content))
        self.meter.finish(exchange)


def _facts(request: HttpRequest) -> Request:
    return facts(request.META, request.method or "GET", request.path_info)


def _add(fields: Fields, response: HttpResponseBase, request: HttpRequest) -> None:
    """Append fields, and let a script on another origin read them."""
    for name, value in fields:
        present = response.get(name)
        response[name] = value if present is None else f"{present}, {value}"
    if "HTTP_ORIGIN" in request.META:
        exposing = exposed(response.get(_EXPOSING), fields)
        if exposing is not None:
            response[_EXPOSING] = exposing


def _count_body(request: HttpRequest, exchange: Exchange) -> None:
    """Have the request body counted: as it is read under WSGI, at once where Django has it all (ASGI)."""
    stream = getattr(request, _BODY, None)
    if stream is None:
        return
    if hasattr(request, "scope"):
        here = stream.tell()
        exchange.request_bytes += stream.seek(0, 2) - here
        stream.seek(here)
    else:
        setattr(request, _BODY, CountedInput(stream, exchange))


def _stream(
    request: HttpRequest, response: StreamingHttpResponse, exchange: Exchange, meter: Meter
) -> _Stream | _AsyncStream:
    """Have a streamed response counted as the server takes it."""
    chunks = response.streaming_content
    if response.is_async:
        return _AsyncStream(cast("AsyncIterator[bytes]", chunks), exchange, meter)
    if hasattr(request, "scope"):
        return _AsyncStream(_listed(cast("Iterable[bytes]", chunks)), exchange, meter)
    return _Stream(cast("Iterable[bytes]", chunks), exchange, meter)


async def _listed(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Give a synchronous stream as Django serves one under ASGI: read whole, in a thread.

    Counted there it would be whole before the client has a byte of it, and stay so when the client leaves.
    """
    for chunk in await sync_to_async(lambda: list(chunks))():
        yield chunk


class _Counting:
    """What counts a streamed response; Django calls `close` when it is done with it."""

    def __init__(self, exchange: Exchange, meter: Meter) -> None:
        self._exchange = exchange
        self._meter = meter

    def _passed(self, chunk: bytes) -> bytes:
        self._exchange.passes(len(chunk))
        if self._exchange.completes():
            self._meter.finish(self._exchange)
        return chunk

    def close(self) -> None:
        self._meter.finish(self._exchange)
        enter(None)


class _Stream(_Counting):
    """A stream that blocks."""

    def __init__(self, chunks: Iterable[bytes], exchange: Exchange, meter: Meter) -> None:
        super().__init__(exchange, meter)
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        enter(self._exchange)
        try:
            return self._passed(next(self._chunks))
        except BaseException:
            self.close()
            raise


class _AsyncStream(_Counting):
    """A stream that is awaited.

    The event loop gets a turn before each chunk: a stream that never waits would not let it hear of a
    client that left, and the server take the rest.
    """

    def __init__(self, chunks: AsyncIterator[bytes], exchange: Exchange, meter: Meter) -> None:
        super().__init__(exchange, meter)
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        enter(self._exchange)
        try:
            await asyncio.sleep(0)
            return self._passed(await anext(self._chunks))
        except BaseException:
            self.close()
            raise
