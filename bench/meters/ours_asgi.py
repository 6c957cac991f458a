"""meter_mw around the bare app, with everything that it does: fields, bytes and events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.apps import starlette_app
from bench.meters.ours import policy
from meter_mw.asgi import MeterMiddleware

if TYPE_CHECKING:
    from bench.workload import Setting


def build(setting: Setting, speed: str) -> MeterMiddleware:
    return MeterMiddleware(starlette_app.build(setting), policy(setting, speed))


def drain(app: MeterMiddleware) -> None:
    app.meter.flush()


async def leave(app: MeterMiddleware) -> None:
    await app.meter.aflush()


def close(app: MeterMiddleware) -> None:
    app.meter.close()
