"""The floor in a middleware: one EVALSHA of redis-py (blocking) a request, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.apps import flask_app
from bench.meters.by_hand import WsgiByHand
from bench.meters.evalsha import blocking

if TYPE_CHECKING:
    from bench.workload import Setting


def build(setting: Setting) -> WsgiByHand:
    return WsgiByHand(flask_app.build(setting).wsgi_app, blocking(setting))
