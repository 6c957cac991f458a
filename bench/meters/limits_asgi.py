"""`limits` by hand, with fixed windows and no fields, around a bare ASGI app.

Fixed windows are the quickest strategy that `limits` has, and redis-py the quickest of its clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limits import parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter

from bench.apps import starlette_app
from bench.meters.by_hand import AsgiByHand

if TYPE_CHECKING:
    from bench.workload import Setting


def build(setting: Setting) -> AsgiByHand:
    limits = [parse(str(limit)) for limit in setting.limits]
    storage = RedisStorage(setting.uri, implementation="redispy") if setting.redis else MemoryStorage()
    limiter = FixedWindowRateLimiter(storage)

    async def may_pass(key: str) -> bool:
        for limit in limits:
            if not await limiter.hit(limit, key):
                return False
        return True

    return AsgiByHand(starlette_app.build(setting), may_pass)
