"""fastapi-limiter as a dependency of the route; it sends no fields.

As its README shows it, one bucket counts all callers together. Here a factory gives each API key a bucket
of its own; see `pyrate_buckets`, its engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Depends, Request
from fastapi_limiter.depends import RateLimiter
from pyrate_limiter import Limiter

from bench.apps import fastapi_app
from bench.meters.pyrate_buckets import Buckets

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bench.workload import Setting


async def _caller(request: Request) -> str:
    return request.headers["x-api-key"]


def build(setting: Setting) -> FastAPI:
    limiter = RateLimiter(Limiter(Buckets(setting)), identifier=_caller)
    return fastapi_app.build(setting, [Depends(limiter)])
