"""What a scope says of a request, and what answers are dressed with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

from meter_mw.model import Request
from meter_mw.policy.paths import routed_path
from meter_mw.respond import exposed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive, Scope, Send

    from meter_mw.admission import Admission
    from meter_mw.exchange import Exchange
    from meter_mw.meter import Meter
    from meter_mw.respond import Fields

POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1

_EXPOSING = "Access-Control-Expose-Headers"


def facts(scope: Scope) -> Request:
    """Give the facts of a request, or of a handshake."""
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]

    def field(name: str) -> list[str]:
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]

    client, is_socket = scope.get("client"), scope["type"] == "websocket"
    return Request(
        method=scope.get("method", "GET"),  # a WebSocket handshake is a GET (RFC 6455, section 4.1)
        path=routed_path(scope["path"], scope.get("root_path", "")),
        query=scope.get("query_string", b"").decode("latin-1"),
        field=field,
        peer=client[0] if client else None,
        frames=is_socket or not is_http1(scope),
        is_socket=is_socket,
    )


def is_http1(scope: Scope) -> bool:
    """Whether the client speaks HTTP/1, which frames no bodies."""
    return str(scope.get("http_version", "1.1")).startswith("1")


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
    headers = MutableHeaders(raw=[])
    _add(fields, headers, scope)
    await send({"type": f"{kind}.start", "status": status, "headers": headers.raw})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


def dress(meter: Meter, exchange: Exchange, headers: MutableHeaders, scope: Scope) -> None:
    """Take from the fields of an app's answer what they tell us, and add the limit fields."""
    for name in exchange.hear(headers.getlist):
        del headers[name]
    _add(meter.responder.fields(exchange.admission), headers, scope)


def _add(fields: Fields, headers: MutableHeaders, scope: Scope) -> None:
    """Append fields, and let a script on another origin read them."""
    for name, value in fields:
        headers.append(name, value)
    if any(name == b"origin" for name, _ in scope["headers"]):
        exposing = exposed(", ".join(headers.getlist(_EXPOSING)) or None, fields)
        if exposing is not None:
            headers[_EXPOSING] = exposing
