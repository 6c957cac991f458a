"""What a server imports: the app that BENCH_SERVE describes, on the cores that it names.

Each process of the server leaves a file named `ready-` and its number beside the app's own files, so that
nobody is timed, or counted, before all of them are there.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.contenders import ALL
from bench.workload import Limit, Setting, Store

VARIABLE = "BENCH_SERVE"
READY = "ready-"


def described(place: int, setting: Setting, cores: list[int]) -> str:
    """Describe an app for `app` to make in another process; `place` is the contender's among all."""
    return json.dumps({"contender": place, "cores": cores, "setting": asdict(setting)}, default=str)


def read(description: str) -> tuple[int, Setting, list[int]]:
    """Read what `described` gave."""
    wanted = json.loads(description)
    told = wanted["setting"]
    limits = tuple(Limit(**each) for each in told["limits"])
    told |= {"limits": limits, "store": Store(**told["store"]), "folder": Path(told["folder"])}
    return wanted["contender"], Setting(**told), wanted["cores"]


def app() -> Any:
    """Make the app."""
    place, setting, cores = read(os.environ[VARIABLE])
    if cores:
        os.sched_setaffinity(0, cores)
    made = ALL[place].build(setting)
    (setting.folder / f"{READY}{os.getpid()}").touch()
    return made
