"""asgi-ratelimit: its own middleware and its RedisBackend, one script for all limits; it sends no fields.

The other backend for Redis keeps an entry for each request. A rule takes at most one limit of each period,
five in all. All requests of the one route share a zone, as they share a limit with everyone else here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ratelimit import RateLimitMiddleware, Rule
from ratelimit.backends.redis import RedisBackend
from ratelimit.backends.simple import MemoryBackend
from redis.asyncio import StrictRedis

from bench.apps import starlette_app

if TYPE_CHECKING:
    from starlette.types import Scope

    from bench.workload import Setting


async def _caller(scope: Scope) -> tuple[str, str]:
    key = next(value for name, value in scope["headers"] if name == b"x-api-key")
    return key.decode("latin-1"), "default"


def build(setting: Setting) -> RateLimitMiddleware:
    backend = MemoryBackend() if setting.redis is None else RedisBackend(StrictRedis.from_url(setting.redis))
    rule = Rule(zone="items", **{limit.period: limit.amount for limit in setting.limits})
    return RateLimitMiddleware(starlette_app.build(setting), _caller, backend, {"^/v1/items": [rule]})
