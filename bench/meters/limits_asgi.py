"""`limits` by hand: the middleware that one writes in an afternoon, with fixed windows and no fields.

Fixed windows are the quickest strategy that `limits` has, and redis-py the quickest of its clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limits import parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.responses import PlainTextResponse

from bench.apps import starlette_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from bench.workload import Setting


class ByHand:
    """Hits one limit after the other, each by a call of its own."""

    def __init__(self, app: ASGIApp, setting: Setting) -> None:
        self.app = app
        self.limits = [parse(str(limit)) for limit in setting.limits]
        storage = RedisStorage(setting.redis, implementation="redispy") if setting.redis else MemoryStorage()
        self.limiter = FixedWindowRateLimiter(storage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request that fits every limit."""
        if scope["type"] == "http":
            key = next(value for name, value in scope["headers"] if name == b"x-api-key").decode("latin-1")
            for limit in self.limits:
                if not await self.limiter.hit(limit, key):
                    await PlainTextResponse("Too Many Requests", 429)(scope, receive, send)
                    return
        await self.app(scope, receive, send)


def build(setting: Setting) -> ByHand:
    return ByHand(starlette_app.build(setting), setting)
