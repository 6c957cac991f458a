"""pyrate-limiter by hand: its asyncio call, a bucket for each key (see `pyrate_buckets`), and no fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrate_limiter import Limiter

from bench.apps import starlette_app
from bench.meters.by_hand import AsgiByHand
from bench.meters.pyrate_buckets import Buckets

if TYPE_CHECKING:
    from bench.workload import Setting


def build(setting: Setting) -> AsgiByHand:
    limiter = Limiter(Buckets(setting))

    async def may_pass(key: str) -> bool:
        return await limiter.try_acquire_async(key, blocking=False)

    return AsgiByHand(starlette_app.build(setting), may_pass)
