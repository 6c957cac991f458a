"""The floor in a middleware: one EVALSHA of redis-py (asyncio) a request, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.apps import starlette_app
from bench.meters.by_hand import AsgiByHand
from bench.meters.evalsha import asynchronous

if TYPE_CHECKING:
    from bench.workload import Setting


def build(setting: Setting) -> AsgiByHand:
    return AsgiByHand(starlette_app.build(setting), asynchronous(setting))
