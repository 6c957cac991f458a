"""The floor of a strict decision: one token bucket by one EVALSHA of redis-py, blocking and asyncio.

It is the least that a limit in Redis costs by this client: no fields, no events, one limit. Its time is the
server's, and its state a hash, as in any tutorial.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import redis
import redis.asyncio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.workload import Limit, Setting

SCRIPT = """
local capacity, per_us, now = tonumber(ARGV[1]), tonumber(ARGV[2]), redis.call('TIME')
local at = now[1] * 1000000 + now[2]
local had = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = capacity
if had[1] then
  tokens = math.min(capacity, tonumber(had[1]) + math.max(0, at - tonumber(had[2])) * per_us)
end
local passes = tokens >= 1
if passes then tokens = tokens - 1 end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', at))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return passes and 1 or 0
"""
DIGEST = hashlib.sha1(SCRIPT.encode()).hexdigest()


def _arguments(limit: Limit) -> tuple[int, str, int]:
    return limit.amount, repr(limit.amount / limit.seconds / 1_000_000), limit.seconds * 1_000


def blocking(setting: Setting) -> Callable[[str], bool]:
    """Give what asks redis-py's blocking client, which is connected and knows the script."""
    client = _loaded(setting)
    arguments = _arguments(tightest(setting))

    def may_pass(key: str) -> bool:
        return client.evalsha(DIGEST, 1, f"floor:{key}", *arguments) == 1

    return may_pass


def asynchronous(setting: Setting) -> Callable[[str], Awaitable[bool]]:
    """Give what asks redis-py's asyncio client, whose pool has as many connections as requests in flight."""
    _loaded(setting).close()
    client = redis.asyncio.Redis.from_url(str(setting.redis))
    arguments = _arguments(tightest(setting))

    async def may_pass(key: str) -> bool:
        return await client.evalsha(DIGEST, 1, f"floor:{key}", *arguments) == 1  # type: ignore[misc]

    return may_pass


def tightest(setting: Setting) -> Limit:
    """Give the one limit that is counted: the one that is reached first."""
    return min(setting.limits, key=lambda limit: limit.amount)


def _loaded(setting: Setting) -> redis.Redis:
    client = redis.Redis.from_url(str(setting.redis))
    client.script_load(SCRIPT)
    return client
