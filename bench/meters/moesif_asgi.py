"""Moesif's ASGI middleware, posting to a local sink, with bodies switched off.

Its batches are the default: 100 events a second leave the process, and the rest wait in memory.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from moesifasgi import MoesifMiddleware

from bench.apps import starlette_app
from bench.event_sink import VARIABLE

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from bench.workload import Setting


async def _caller(request: Request, _: Response) -> str:
    return request.headers["x-api-key"]


def build(setting: Setting) -> MoesifMiddleware:
    wanted = {
        "APPLICATION_ID": "bench",
        "LOG_BODY": False,
        "BASE_URI": f"{os.environ[VARIABLE]}/moesif",
        "IDENTIFY_USER": _caller,
    }
    made = MoesifMiddleware(starlette_app.build(setting), wanted)
    logging.getLogger().setLevel(logging.WARNING)  # it has every library speak
    return made
