"""meter_mw with nothing to limit: one event a request, journaled and posted to a local sink."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.apps import starlette_app
from bench.event_sink import VARIABLE
from bench.meters.ours import policy
from bench.meters.ours_asgi import close, drain, leave
from meter_mw.asgi import MeterMiddleware

if TYPE_CHECKING:
    from bench.workload import Setting

__all__ = ["build", "close", "drain", "leave"]


def build(setting: Setting) -> MeterMiddleware:
    wanted = policy(setting)
    wanted["headers"] = {"ietf": False}
    wanted["events"] = {
        "journal": str(setting.folder / "journal"),
        "sinks": [{"http": f"{os.environ[VARIABLE]}/meter_mw"}],
    }
    return MeterMiddleware(starlette_app.build(setting), wanted)
