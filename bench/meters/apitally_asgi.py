"""Apitally for Starlette as its guide sets it up, posting to a local sink.

Logs and headers are not captured, and no consumer is named, which would take an extra step in the app.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from apitally.starlette import init

from bench.apps import starlette_app
from bench.event_sink import VARIABLE

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from bench.workload import Setting


def build(setting: Setting) -> Starlette:
    app = starlette_app.build(setting)
    init(
        app,
        write_token="apt_" + "b" * 24,
        env="bench",
        capture_logs=False,
        capture_response_headers=False,
        otlp_endpoint=f"{os.environ[VARIABLE]}/apitally",
    )
    return app
