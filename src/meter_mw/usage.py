"""The endpoint that tells a key its own plan, limits and usage, for ASGI, WSGI and Django.

It is mounted in an app behind the metering middleware, whose meter it asks. Nothing is consumed by asking,
but for the request itself where its route is not exempt.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.environ import facts
from meter_mw.meter import METER, Meter
from meter_mw.model import MeterError, Request
from meter_mw.quota import Cap, Rate
from meter_mw.reporting import LimitUsage, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping, Sequence
    from typing import Any
    from wsgiref.types import StartResponse, WSGIEnvironment

    from django.http import HttpRequest, HttpResponse
    from starlette.types import Receive, Scope, Send

    from meter_mw.admission import Admission
    from meter_mw.quota import Quota

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_US = 1_000_000
_ALLOWED = ("GET", "HEAD")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class _Response(NamedTuple):
    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes


class _Asgi:
    """The endpoint as an ASGI app: an object, as routers take a function for a handler."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """Answer the caller of one request."""
        meter = _meter(scope)
        if scope["type"] != "http":
            raise MeterError("usage is asked for by HTTP")
        request = _facts(scope)
        found = await meter.ausage(request) if request.method in _ALLOWED else None
        response = _response(meter, found)
        fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.fields]
        await send({"type": "http.response.start", "status": response.status, "headers": fields})
        body = b"" if request.method == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body})


asgi = _Asgi()
"""To be mounted, or routed to, in FastAPI, Starlette and other ASGI apps."""


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer the caller of one request; to be mounted in Flask and other WSGI apps."""
    method = environ["REQUEST_METHOD"]
    response = _asked(_meter(environ), environ, method)
    start_response(f"{response.status} {_REASONS[response.status]}", list(response.fields))
    return [b"" if method == "HEAD" else response.body]


def django_view(request: HttpRequest) -> HttpResponse:
    """Answer the caller of one request; a view for Django's `urlpatterns`."""
    from django.http import HttpResponse  # noqa: PLC0415 - the other frameworks need no Django

    response = _asked(_meter(request.META), request.META, request.method or "GET")
    body = b"" if request.method == "HEAD" else response.body
    answer = HttpResponse(body, status=response.status)
    for name, value in response.fields:
        answer[name] = value
    return answer


def document(usage: Usage) -> dict[str, object]:
    """Give what a caller is told, as it stands in the JSON."""
    caller = usage.caller
    told: dict[str, object] = {"subject": caller.subject, "plan": caller.plan.name}
    if caller.account is not None:
        told["account"] = caller.account
    told["time"] = _moment(usage.now_us)
    told["limits"] = [_limit(each, usage.now_us) for each in usage.limits]
    return told


def _meter(carrier: Mapping[str, Any]) -> Meter:
    meter = carrier.get(METER)
    if not isinstance(meter, Meter):
        raise MeterError("there is no meter here: is MeterMiddleware around the app that this is mounted in?")
    return meter


def _asked(meter: Meter, environ: Mapping[str, Any], method: str) -> _Response:
    request = facts(environ, method, "")
    return _response(meter, meter.usage(request) if method in _ALLOWED else None)


def _facts(scope: MutableMapping[str, Any]) -> Request:
    """Give the facts by which a caller is known; the path is not one of them."""
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]

    def field(name: str) -> list[str]:
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]

    client = scope.get("client")
    query = scope.get("query_string", b"").decode("latin-1")
    return Request(scope["method"], "", query, field, client[0] if client else None)


def _response(meter: Meter, found: Usage | Admission | None) -> _Response:
    if found is None:
        title = {"type": "about:blank", "title": _REASONS[405], "status": 405}
        return _json(405, title, ("Allow", ", ".join(_ALLOWED)), media_type="application/problem+json")
    if isinstance(found, Usage):
        return _json(200, document(found))
    refusal, fields, body = meter.refuse(found)
    return _Response(refusal.status, fields, body)


def _json(
    status: int,
    content: dict[str, object] | dict[str, str | int],
    *more: tuple[str, str],
    media_type: str = "application/json",
) -> _Response:
    body = json.dumps(content).encode()
    about = (("Content-Type", media_type), ("Content-Length", str(len(body))))
    return _Response(status, (*about, ("Cache-Control", "no-store"), *more), body)


def _limit(each: LimitUsage, now_us: int) -> dict[str, object]:
    how, limit = each.standing, each.standing.line.limit
    told: dict[str, object] = {"name": limit.name, "meter": limit.meter.name, "scope": limit.scope.value}
    if each.route is not None:
        told["route"] = each.route
    told |= _amount(limit.quota)
    if how.used is not None:
        told["used"] = how.used
    told["remaining"] = how.remaining
    if each.overage is not None:
        told["overage"] = each.overage
    if isinstance(limit.quota, Cap) and how.reset_us is not None:
        told |= {"since": _moment(how.start_us), "resets_at": _moment(now_us + how.reset_us)}
    if how.reset_us is not None:
        told["reset_in_s"] = -(-how.reset_us // _SECOND_US)
    if each.until is not None:
        told["until"] = each.until.isoformat()
    return told


def _amount(quota: Quota) -> dict[str, object]:
    """Say how much a limit allows."""
    if isinstance(quota, Rate):
        seconds = quota.period_us / _SECOND_US
        window = int(seconds) if seconds.is_integer() else seconds
        return {"kind": "rate", "limit": quota.units, "window": window, "burst": quota.burst}
    if not isinstance(quota, Cap):
        return {"kind": "concurrent", "limit": quota.units}
    told: dict[str, object] = {"kind": "cap", "limit": quota.units, "period": quota.period.word}
    if quota.grace:
        told |= {"grace": quota.grace, "included": quota.included}
    if quota.ceiling is not None:
        told["ceiling"] = quota.ceiling
    return told


def _moment(at_us: int) -> str:
    """Give a moment as RFC 3339 has it, in UTC."""
    moment = _EPOCH + timedelta(microseconds=at_us)
    return moment.isoformat().replace("+00:00", "Z")
