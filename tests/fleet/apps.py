"""Two apps for fleets of workers: the policy comes from METER_POLICY."""

from __future__ import annotations

from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from meter_mw.asgi import MeterMiddleware as AsgiMeter
from meter_mw.wsgi import MeterMiddleware as WsgiMeter


async def hello(request: Request) -> PlainTextResponse:
    """Say something of a known length."""
    return PlainTextResponse("hello")


asgi = AsgiMeter(Starlette(routes=[Route("/hello", hello)]))

wsgi = Flask(__name__)
wsgi.add_url_rule("/hello", view_func=lambda: "hello")
wsgi.wsgi_app = WsgiMeter(wsgi.wsgi_app)  # type: ignore[method-assign]
