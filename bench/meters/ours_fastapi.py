"""meter_mw around the bare FastAPI app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.apps import fastapi_app
from bench.meters.ours import policy
from bench.meters.ours_asgi import close, drain, leave
from meter_mw.asgi import MeterMiddleware

if TYPE_CHECKING:
    from bench.workload import Setting

__all__ = ["build", "close", "drain", "leave"]


def build(setting: Setting, speed: str) -> MeterMiddleware:
    return MeterMiddleware(fastapi_app.build(setting), policy(setting, speed))
