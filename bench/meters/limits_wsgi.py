"""`limits` by hand, with fixed windows and no fields, around a bare WSGI app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limits import parse
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from bench.apps import flask_app
from bench.meters.by_hand import WsgiByHand

if TYPE_CHECKING:
    from bench.workload import Setting


def build(setting: Setting) -> WsgiByHand:
    limits = [parse(str(limit)) for limit in setting.limits]
    limiter = FixedWindowRateLimiter(storage_from_string(setting.uri))

    def may_pass(key: str) -> bool:
        return all(limiter.hit(limit, key) for limit in limits)

    return WsgiByHand(flask_app.build(setting).wsgi_app, may_pass)
