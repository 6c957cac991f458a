"""Apps with the usage endpoint mounted, in Starlette and in Flask; the policy comes from METER_POLICY."""

from __future__ import annotations

from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from meter_mw import usage
from meter_mw.asgi import MeterMiddleware as AsgiMeter
from meter_mw.wsgi import MeterMiddleware as WsgiMeter


async def hello(request: Request) -> PlainTextResponse:
    """Say something of a known length."""
    return PlainTextResponse("hello")


asgi = AsgiMeter(
    Starlette(routes=[Route("/hello", hello), Route("/usage", usage.asgi), Mount("/mounted", usage.asgi)])
)

wsgi = Flask(__name__)
wsgi.add_url_rule("/hello", view_func=lambda: "hello")
_mounts = {"/usage": usage.wsgi, "/mounted": usage.wsgi}
wsgi.wsgi_app = WsgiMeter(DispatcherMiddleware(wsgi.wsgi_app, _mounts))  # type: ignore[method-assign]
