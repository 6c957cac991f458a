"""pyrate-limiter's buckets, one for each caller, as its engine documents.

All rates of a bucket go in one call. The algorithm is the one with constant state: the default keeps an
entry for each request, which would grow with the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrate_limiter import BucketFactory, Rate, RateItem, StateBucket, TokenBucket
from pyrate_limiter.buckets import RedisStateStore
from redis.asyncio import Redis

if TYPE_CHECKING:
    from bench.workload import Setting


class Buckets(BucketFactory):
    """A bucket for each caller."""

    def __init__(self, setting: Setting) -> None:
        rising = sorted(setting.limits, key=lambda limit: limit.seconds)
        self._rates = [Rate(limit.amount, limit.seconds * 1_000) for limit in rising]
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
