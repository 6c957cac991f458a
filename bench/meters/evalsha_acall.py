"""The floor itself: one EVALSHA of redis-py (asyncio), without any app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.meters.evalsha import asynchronous

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.workload import Setting


def build(setting: Setting) -> Callable[[str], Awaitable[bool]]:
    return asynchronous(setting)
