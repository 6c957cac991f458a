"""meter_mw around the bare app, with everything that it does: fields, bytes and events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.apps import flask_app
from bench.meters.ours import policy
from meter_mw.wsgi import MeterMiddleware

if TYPE_CHECKING:
    from bench.workload import Setting


def build(setting: Setting, speed: str) -> MeterMiddleware:
    return MeterMiddleware(flask_app.build(setting).wsgi_app, policy(setting, speed))


def drain(app: MeterMiddleware) -> None:
    app.meter.flush()


def close(app: MeterMiddleware) -> None:
    app.meter.close()
