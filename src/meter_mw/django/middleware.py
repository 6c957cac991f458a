"""The Django edge: one middleware for WSGI and ASGI, sync and async views.

Put it first in MIDDLEWARE: what stands before it changes bytes that are counted already, and serves
what it answers itself unmetered.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.utils.module_loading import import_string

from meter_mw.admission import Answer
from meter_mw.django.streams import closing, counted, streamed
from meter_mw.environ import CountedInput, facts
from meter_mw.exchange import MARK, enter
from meter_mw.meter import METER, Meter
from meter_mw.model import Count
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from meter_mw.admission import Admission
    from meter_mw.exchange import Exchange, Passing
    from meter_mw.gate import Gate
    from meter_mw.lasting import Room
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
        wanted = _facts(request)
        admission = self.meter.admit(wanted)
        if not admission.serves:
            return self._refused(request, admission)
        with self._counted(request, admission, wanted) as exchange:
            come = _come(request, exchange)
            self._judge(exchange, self.meter.gate.lets(exchange, come, refuses=True))
            response = None
            if exchange.refusal is None:
                response = cast("HttpResponseBase", self._get_response(request))
            response = self._begun(request, response, exchange)
            size = _download(response, exchange)
            fits = self.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, size)) is None
            response, is_over = self._pass(request, response, exchange, fits=fits)
            if is_over:
                self.meter.conclude(exchange)
        return response

    async def _asynchronously(self, request: HttpRequest) -> HttpResponseBase:
        wanted = _facts(request)
        admission = await self.meter.aadmit(wanted)
        if not admission.serves:
            return self._refused(request, admission)
        with self._counted(request, admission, wanted) as exchange:
            come = _come(request, exchange)
            self._judge(exchange, await self.meter.gate.alets(exchange, come, refuses=True))
            response = None
            if exchange.refusal is None:
                response = await cast("Awaitable[HttpResponseBase]", self._get_response(request))
            response = self._begun(request, response, exchange)
            size = _download(response, exchange)
            fits = await self.meter.gate.alets(exchange, (Count.RESPONSE_BYTES, size)) is None
            response, is_over = self._pass(request, response, exchange, fits=fits)
            if is_over:
                await self.meter.aconclude(exchange)
        return response

    def _refused(self, request: HttpRequest, admission: Admission) -> HttpResponse:
        refusal, fields, body = self.meter.refuse(admission)
        response = HttpResponse(body, status=refusal.status)
        del response["Content-Type"]
        _add(fields, response, request)
        return response

    @contextmanager
    def _counted(self, request: HttpRequest, admission: Admission, wanted: Request) -> Iterator[Exchange]:
        """Count a request until its response is there; a streamed one is counted on by its stream."""
        exchange = self.meter.exchange(admission, request.method or "GET")
        request.META[MARK] = exchange
        request.META[METER] = self.meter
        if admission.answer is not Answer.EXEMPT:
            _count_body(request, exchange, self.meter.gate, in_steps=wanted.declared is None)
        outer = enter(exchange)
        try:
            yield exchange
        except BaseException:
            self.meter.abandon(exchange)
            raise
        finally:
            enter(outer)

    def _judge(self, exchange: Exchange, room: Room | None) -> None:
        """Refuse an upload that Django has read and does not fit; none of it is handed on, nor counted."""
        if room is not None:
            exchange.refuse(room)

    def _begun(
        self, request: HttpRequest, response: HttpResponseBase | None, exchange: Exchange
    ) -> HttpResponseBase:
        """Give the response as it begins: the app's, or a refusal in its place."""
        if response is None or exchange.refusal is not None:
            refusal = self._refused(request, exchange.refusal or exchange.admission)
            exchange.status = refusal.status_code
            return refusal if response is None else closing(refusal, response)
        for name in exchange.hear(lambda name: [response[name]] if name in response else []):
            del response[name]
        if exchange.admission.answer is not Answer.EXEMPT:
            _add(self.meter.responder.fields(exchange.admission), response, request)
            exchange.begin(response.status_code, response.get("Content-Length"))
        return response

    def _pass(
        self, request: HttpRequest, response: HttpResponseBase, exchange: Exchange, *, fits: bool
    ) -> tuple[HttpResponseBase, bool]:
        """Have a response counted as it passes; say whether it is there as a whole, and its count is over."""
        if exchange.admission.answer is Answer.EXEMPT:
            return response, False
        if exchange.refusal is None:
            if isinstance(response, HttpResponse) and not fits:
                response = streamed(response)
            if isinstance(response, StreamingHttpResponse) and not exchange.completes():
                response.streaming_content = counted(request, response, exchange, self.meter)
                return response, False
        return response, True


def _facts(request: HttpRequest) -> Request:
    known = facts(request.META, request.method or "GET", request.path_info)
    scope = getattr(request, "scope", None)
    return known if scope is None else known._replace(frames=scope.get("http_version", "") in ("2", "3"))


def _download(response: HttpResponseBase, exchange: Exchange) -> int:
    """Give the bytes of a response that is there as a whole."""
    answered = exchange.refusal is not None or exchange.admission.answer is Answer.EXEMPT
    if answered or not isinstance(response, HttpResponse):
        return 0
    return exchange.clipped(len(response.content))


def _add(fields: Fields, response: HttpResponseBase, request: HttpRequest) -> None:
    """Append fields, and let a script on another origin read them."""
    for name, value in fields:
        present = response.get(name)
        response[name] = value if present is None else f"{present}, {value}"
    if "HTTP_ORIGIN" in request.META:
        exposing = exposed(response.get(_EXPOSING), fields)
        if exposing is not None:
            response[_EXPOSING] = exposing


def _count_body(request: HttpRequest, exchange: Exchange, gate: Gate, *, in_steps: bool) -> None:
    """Have the request body counted as it is read, where Django has not read it yet (WSGI)."""
    stream = getattr(request, _BODY, None)
    if stream is not None and not hasattr(request, "scope"):
        setattr(request, _BODY, CountedInput(stream, exchange, gate, in_steps=in_steps))


def _come(request: HttpRequest, exchange: Exchange) -> Passing:
    """Give the bytes of request body that Django has read before any middleware (ASGI)."""
    stream = getattr(request, _BODY, None)
    if stream is None or not hasattr(request, "scope") or exchange.admission.answer is Answer.EXEMPT:
        return Count.REQUEST_BYTES, 0
    here = stream.tell()
    size = stream.seek(0, 2) - here
    stream.seek(here)
    return Count.REQUEST_BYTES, size
