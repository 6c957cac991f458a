"""What a server imports: the app that BENCH_SERVE describes, on the core that it names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bench.contenders import ALL
from bench.workload import LIMITS, Setting

VARIABLE = "BENCH_SERVE"


def described(place: int, setting: Setting, cores: list[int]) -> str:
    """Describe an app for `app` to make in another process; `place` is the contender's among all."""
    return json.dumps(
        {
            "contender": place,
            "limits": len(setting.limits),
            "redis": setting.redis,
            "folder": str(setting.folder),
            "cores": cores,
        }
    )


def app() -> Any:
    """Make the app."""
    wanted = json.loads(os.environ[VARIABLE])
    if wanted["cores"]:
        os.sched_setaffinity(0, wanted["cores"])
    setting = Setting(LIMITS[: wanted["limits"]], wanted["redis"], Path(wanted["folder"]))
    return ALL[wanted["contender"]].build(setting)
