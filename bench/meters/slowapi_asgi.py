"""slowapi as its pure ASGI middleware, the quickest that it has, with its fields switched on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowapi import Limiter
from slowapi.middleware import SlowAPIASGIMiddleware

from bench.apps import starlette_app

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from bench.workload import Setting


def _key(request: Request) -> str:
    return request.headers["x-api-key"]


def build(setting: Setting) -> Starlette:
    app = starlette_app.build(setting)
    app.state.limiter = Limiter(
        key_func=_key,
        default_limits=[str(limit) for limit in setting.limits],
        headers_enabled=True,
        storage_uri=setting.uri,
    )
    app.add_middleware(SlowAPIASGIMiddleware)
    return app
