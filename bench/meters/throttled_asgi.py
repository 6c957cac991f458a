"""throttled-py by hand: its asyncio half, fixed windows (its quickest on Redis: no script), no fields.

Its FastAPI decorator takes one quota and sends fields; a middleware of `Throttled` objects is the quicker
way, and takes several. Its memory is made large enough that it forgets nobody.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from throttled.asyncio import MemoryStore, RateLimiterType, RedisStore, Throttled, rate_limiter

from bench.apps import starlette_app
from bench.meters.by_hand import AsgiByHand

if TYPE_CHECKING:
    from bench.workload import Setting

_ROOM = 10_000_000


def build(setting: Setting) -> AsgiByHand:
    store = RedisStore(server=setting.redis) if setting.redis else MemoryStore(options={"MAX_SIZE": _ROOM})
    throttles = [
        Throttled(
            using=RateLimiterType.FIXED_WINDOW.value,
            quota=rate_limiter.per_duration(timedelta(seconds=limit.seconds), limit.amount),
            store=store,
            key_prefix=f"bench:{number}",
        )
        for number, limit in enumerate(setting.limits)
    ]

    async def may_pass(key: str) -> bool:
        for throttle in throttles:
            if (await throttle.limit(key)).limited:
                return False
        return True

    return AsgiByHand(starlette_app.build(setting), may_pass)
