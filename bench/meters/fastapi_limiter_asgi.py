"""fastapi-limiter as a dependency of the route; it sends no fields.

As its README shows it, one bucket counts all callers together. Here a factory gives each API key a bucket
of its own, as its engine documents. All rates of a bucket go into one call. The algorithm is the one with
constant state: the default keeps an entry for each request, which would grow with the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Depends, Request
from fastapi_limiter.depends import RateLimiter
from pyrate_limiter import BucketFactory, Duration, Limiter, Rate, RateItem, StateBucket, TokenBucket
from pyrate_limiter.buckets import RedisStateStore
from redis.asyncio import Redis

from bench.apps import fastapi_app

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bench.workload import Setting


class Buckets(BucketFactory):
    """A bucket for each caller."""

    def __init__(self, setting: Setting) -> None:
        self._rates = [Rate(limit.amount, Duration[limit.period.upper()]) for limit in setting.limits]
        self._redis = None if setting.redis is None else Redis.from_url(setting.redis)
        self._buckets: dict[str, StateBucket] = {}

    def wrap_item(self, name: str, weight: int = 1) -> RateItem:
        """Date an item."""
        now: int = self._bucket(name).now()  # type: ignore[no-untyped-call]
        return RateItem(name, now, weight=weight)

    def get(self, item: RateItem) -> StateBucket:
        """Give the bucket of an item's caller."""
        return self._bucket(item.name)

    def _bucket(self, name: str) -> StateBucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            store = None if self._redis is None else RedisStateStore(self._redis, f"bench:{name}")
            bucket = self._buckets[name] = StateBucket(self._rates, TokenBucket(), store)
        return bucket


async def _caller(request: Request) -> str:
    return request.headers["x-api-key"]


def build(setting: Setting) -> FastAPI:
    limiter = RateLimiter(Limiter(Buckets(setting)), identifier=_caller)
    return fastapi_app.build(setting, [Depends(limiter)])
