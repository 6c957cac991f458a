"""Flask-Limiter with its fields switched on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import request
from flask_limiter import Limiter

from bench.apps import flask_app

if TYPE_CHECKING:
    from flask import Flask

    from bench.workload import Setting


def _key() -> str:
    return request.headers["X-API-Key"]


def build(setting: Setting) -> Flask:
    app = flask_app.build(setting)
    Limiter(
        _key,
        app=app,
        default_limits=[str(limit) for limit in setting.limits],
        headers_enabled=True,
        storage_uri=setting.uri,
    )
    return app
