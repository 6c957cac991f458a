"""The Django edge: one middleware for WSGI and ASGI, sync and async views.

Put it first in MIDDLEWARE: what stands before it changes bytes that are counted already, and serves
what it answers itself unmetered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.utils.module_loading import import_string

from meter_mw.core import Answer
from meter_mw.exchange import MARK, enter
from meter_mw.meter import Meter
from meter_mw.model import Request
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from meter_mw.core import Admission
    from meter_mw.exchange import Exchange
    from meter_mw.respond import Body, Fields


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
        exchange = self._opened(request, admission)
        try:
            response = cast("HttpResponseBase", self._get_response(request))
            return self._passed(request, response, exchange)
        except BaseException:
            self._ended(exchange)
            raise

    async def _asynchronously(self, request: HttpRequest) -> HttpResponseBase:
        admission = await self.meter.aadmit(_facts(request))
        if not admission.serves:
            return self._refused(request, admission)
        exchange = self._opened(request, admission)
        try:
            response = await cast("Awaitable[HttpResponseBase]", self._get_response(request))
            return self._passed(request, response, exchange)
        except BaseException:
            self._ended(exchange)
            raise

    def _refused(self, request: HttpRequest, admission: Admission) -> HttpResponse:
        refusal, fields, body = self.meter.refuse(admission)
        response = HttpResponse(body, status=refusal.status)
        _add(request, response, fields)
        return response

    def _opened(self, request: HttpRequest, admission: Admission) -> Exchange:
        exchange = self.meter.exchange(admission, request.method or "GET")
        request.META[MARK] = exchange
        enter(exchange)
        if admission.answer is not Answer.EXEMPT:
            _count_body(request, exchange)
        return exchange

    def _ended(self, exchange: Exchange) -> None:
        self.meter.finish(exchange)
        enter(None)

    def _passed(
        self, request: HttpRequest, response: HttpResponseBase, exchange: Exchange
    ) -> HttpResponseBase:
        if exchange.admission.answer is Answer.EXEMPT:
            return response
        _add(request, response, self.meter.responder.fields(exchange.admission))
        declared = response.get("Content-Length", "")
        exchange.begin(response.status_code, int(declared) if declared.isdecimal() else None)
        if isinstance(response, StreamingHttpResponse) and not exchange.bodiless:
            stream = _AsyncStream if response.is_async else _Stream
            response.streaming_content = stream(response, exchange, self.meter)
            return response
        if isinstance(response, HttpResponse):
            exchange.passes(len(response.content))
        self._ended(exchange)
        return response


def _facts(request: HttpRequest) -> Request:
    meta = request.META

    def field(name: str) -> list[str]:
        value = meta.get("HTTP_" + name.upper().replace("-", "_"))
        return [] if value is None else [value]

    return Request(
        method=request.method or "GET",
        path=request.path_info,
        query=meta.get("QUERY_STRING", ""),
        field=field,
        peer=meta.get("REMOTE_ADDR") or None,
    )


def _add(request: HttpRequest, response: HttpResponseBase, fields: Fields) -> None:
    for name, value in fields:
        response[name] = value
    if fields and "HTTP_ORIGIN" in request.META:
        exposing = exposed(response.get("Access-Control-Expose-Headers"), fields)
        if exposing is not None:
            response["Access-Control-Expose-Headers"] = exposing


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
        setattr(request, _BODY, _Input(stream, exchange))


class _Input:
    """The request body under WSGI, counted as Django reads it."""

    def __init__(self, stream: BinaryIO, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def _count(self, data: bytes) -> bytes:
        self._exchange.request_bytes += len(data)
        return data

    def read(self, *size: int) -> bytes:
        return self._count(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._count(self._stream.readline(*size))

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class _Stream:
    """A streamed response, counted as the handler takes it; Django calls `close` when it is done."""

    def __init__(self, response: StreamingHttpResponse, exchange: Exchange, meter: Meter) -> None:
        self._chunks: Iterator[bytes] = iter(response.streaming_content)  # type: ignore[arg-type]
        self._exchange = exchange
        self._meter = meter

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        enter(self._exchange)
        try:
            chunk = next(self._chunks)
        except BaseException:
            self.close()
            raise
        self._exchange.passes(len(chunk))
        if self._exchange.completes():
            self._meter.finish(self._exchange)
        return chunk

    def close(self) -> None:
        self._meter.finish(self._exchange)
        enter(None)


class _AsyncStream:
    """The same for an asynchronous stream."""

    def __init__(self, response: StreamingHttpResponse, exchange: Exchange, meter: Meter) -> None:
        self._chunks: AsyncIterator[bytes] = aiter(response.streaming_content)  # type: ignore[arg-type]
        self._exchange = exchange
        self._meter = meter

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        enter(self._exchange)
        try:
            chunk = await anext(self._chunks)
        except BaseException:
            self.close()
            raise
        self._exchange.passes(len(chunk))
        if self._exchange.completes():
            self._meter.finish(self._exchange)
        return chunk

    def close(self) -> None:
        self._meter.finish(self._exchange)
        enter(None)
