"""The floor itself: one EVALSHA of redis-py (blocking), without any app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.meters.evalsha import blocking

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.workload import Setting


def build(setting: Setting) -> Callable[[str], bool]:
    return blocking(setting)
