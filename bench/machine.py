"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from bench.redis_server import binary

if TYPE_CHECKING:
    from bench.contenders import Contender

_BESIDE = ("uvicorn", "httptools", "uvloop", "gunicorn", "redis", "hiredis", "pyrate-limiter", "werkzeug")


def machine() -> str:
    """Name the machine, the interpreter and the Redis, in one line."""
    redis = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"v=(\S+)", redis)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release()}, {platform.python_implementation()} {platform.python_version()}, "
        f"Redis {number[1] if number else '?'} on loopback, "
        f"load average {os.getloadavg()[0]:.1f} at the start"
    )


def versions(contenders: list[Contender]) -> str:
    """Name the versions of all that took part."""
    names = dict.fromkeys([each.package for each in contenders] + list(_BESIDE))
    return ", ".join(f"{name} {found}" for name in names if (found := _version(name)))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
