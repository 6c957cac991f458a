"""`limits` by hand around a WSGI app, with fixed windows and no fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limits import parse
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from bench.apps import flask_app

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from bench.workload import Setting


class ByHand:
    """Hits one limit after the other, each by a call of its own."""

    def __init__(self, app: WSGIApplication, setting: Setting) -> None:
        self.app = app
        self.limits = [parse(str(limit)) for limit in setting.limits]
        self.limiter = FixedWindowRateLimiter(storage_from_string(setting.redis or "memory://"))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Pass a request that fits every limit."""
        key = environ["HTTP_X_API_KEY"]
        for limit in self.limits:
            if not self.limiter.hit(limit, key):
                start_response("429 Too Many Requests", [("Content-Length", "0")])
                return [b""]
        return self.app(environ, start_response)


def build(setting: Setting) -> ByHand:
    return ByHand(flask_app.build(setting).wsgi_app, setting)
