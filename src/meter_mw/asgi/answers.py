"""What a scope says of a request, and what answers are dressed with."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

from meter_mw.model import Request
from meter_mw.policy.paths import routed_path
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Receive, Scope, Send

    from meter_mw.admission import Admission
    from meter_mw.exchange import Exchange
    from meter_mw.meter import Meter
    from meter_mw.respond import Fields

POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1

_EXPOSING = "Access-Control-Expose-Headers"

_HTTP1 = frozenset({"1", "1.0", "1.1"})


def facts(scope: Scope) -> Request:
    """Give the facts of a request, or of a handshake."""
    client, is_socket = scope.get("client"), scope["type"] == "websocket"
    return Request(
        scope.get("method", "GET"),  # a WebSocket handshake is a GET (RFC 6455, section 4.1)
        routed_path(scope["path"], scope.get("root_path", "")),
        scope.get("query_string", b"").decode("latin-1"),
        _reader(scope["headers"]),
        client[0] if client else None,
        frames=is_socket or not is_http1(scope),
        is_socket=is_socket,
    )


def _reader(headers: Sequence[tuple[bytes, bytes]]) -> Callable[[str], Sequence[str]]:
    """Give what reads a field by its lower-case name; servers give names so, and most of them once."""
    known = dict(headers)
    names = b"\n".join(known)
    if len(known) != len(headers) or names != names.lower():
        return lambda name: [
            value.decode("latin-1") for key, value in headers if key.lower() == name.encode("latin-1")
        ]

    def field(name: str) -> Sequence[str]:
        value = known.get(name.encode("latin-1"))
        return () if value is None else (value.decode("latin-1"),)

    return field


def is_http1(scope: Scope) -> bool:
    """Whether the client speaks HTTP/1, which frames no bodies."""
    return scope.get("http_version", "1.1") in _HTTP1


async def refuse(meter: Meter, admission: Admission, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in the app's stead, before it sees the request."""
    refusal, fields, body = meter.refuse(admission)
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal.title})
            return
        kind = "websocket.http.response"
    await answer(refusal.status, fields, body, scope, send, kind=kind)


async def answer(
    status: int, fields: Fields, body: bytes, scope: Scope, send: Send, *, kind: str = "http.response"
) -> None:
    """Send a whole answer of ours."""
    headers: list[tuple[bytes, bytes]] = []
    _add(fields, headers, scope)
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


def dress(meter: Meter, exchange: Exchange, raw: list[tuple[bytes, bytes]], scope: Scope) -> None:
    """Take from the fields of an app's answer what they tell us, and add the limit fields."""
    if meter.policy.told_by_header:
        headers = MutableHeaders(raw=raw)
        for name in exchange.hear(headers.getlist):
            del headers[name]
    _add(meter.responder.fields(exchange.admission), raw, scope)


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    """Give the name of a field as ASGI has it, in lower case."""
    return name.lower().encode("latin-1")


def _add(fields: Fields, raw: list[tuple[bytes, bytes]], scope: Scope) -> None:
    """Append fields, and let a script on another origin read them."""
    raw += [(_name(name), value.encode("latin-1")) for name, value in fields]
    if fields and b"origin" in dict(scope["headers"]):
        headers = MutableHeaders(raw=raw)
        exposing = exposed(", ".join(headers.getlist(_EXPOSING)) or None, fields)
        if exposing is not None:
            headers[_EXPOSING] = exposing
