"""Where the time of a request goes: what runs in each part of the package, by Python's own profiler.

The profiler makes every call dearer, so the shares are what counts, and the calls of each request. What the
bare app takes, and what threads do beside the request, is left out.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from bench.drive import AsgiDriver
from bench.machine import machine
from bench.meters import ours_asgi
from bench.redis_server import running_redis
from bench.workload import KEYS, LIMITS, TCP, Setting, Store

_WARMING, _REQUESTS = 4_000, 4_000

_ROOMS = {
    "the edge": ("asgi/",),
    "who asks, and for what": ("identifying", "turnstile", "ready", "policy/", "charging", "recent", "rids"),
    "the decision": ("core", "judging", "admission", "driving", "quota", "talk", "model"),
    "leases": ("leasing/",),
    "the store": ("stores/",),
    "limit fields": ("respond",),
    "the count": ("exchange", "meter", "keeping", "gate", "lasting"),
    "the event, its closing and the register": (
        "booking", "closing", "events", "journal/", "recovery/", "forks",
    ),
}  # fmt: skip
_WAITING = ("poll", "sendall", "send'", "recv", "select", "acquire")


@dataclass(frozen=True, slots=True)
class Profile:
    """The seconds that each part has taken, and the calls of one request of ours."""

    seconds: Counter[str]
    calls: float


def main(*, quick: bool) -> str:
    """Profile requests from leases, and such as the store decides; give the table."""
    share = 10 if quick else 1
    found = {}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as place:
        folder = Path(place)
        with running_redis(folder) as redis:
            for speed in ("leased", "strict"):
                setting = Setting(LIMITS[:3], Store(TCP, redis.url), folder / speed)
                found[speed] = asyncio.run(_profiled(setting, speed, share))
    rows = [f"| Starlette, Redis, 3 limits | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    for room in (*_ROOMS, "waiting for Redis, and its client's loop"):
        cells = (f"{_share(each, room):.0%}" for each in found.values())
        rows.append(f"| {room} | {' | '.join(cells)} |")
    rows.append(f"| *calls of one request* | {' | '.join(f'{each.calls:.0f}' for each in found.values())} |")
    return f"Profiled {machine()}.\n\n" + "\n".join(rows)


def _share(profile: Profile, room: str) -> float:
    return profile.seconds[room] / max(1e-9, profile.seconds.total())


async def _profiled(setting: Setting, speed: str, share: int) -> Profile:
    app = ours_asgi.build(setting, speed)
    drive = AsgiDriver(app)
    for key in islice(cycle(KEYS[:8]), _WARMING // share):
        await drive.one(key)
    profiler = cProfile.Profile()
    profiler.enable()
    for key in islice(cycle(KEYS[:8]), _REQUESTS // share):
        await drive.one(key)
    profiler.disable()
    await ours_asgi.leave(app)
    ours_asgi.close(app)
    return _read(profiler, _REQUESTS // share)


def _read(profiler: cProfile.Profile, requests: int) -> Profile:
    """Add up what functions take by themselves; what is built in counts for who calls it."""
    seconds: Counter[str] = Counter()
    calls = 0
    for (file, _, name), (_, count, own, _, callers) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if file == "~":
            for (caller, *_), (_, times, took, _) in callers.items():
                room = _waits(name) or _room(caller)
                seconds[room] += took
                calls += times if _room(caller) else 0
        else:
            seconds[_room(file)] += own
            calls += count if _room(file) else 0
    del seconds[""]
    return Profile(seconds, calls / requests)


def _waits(name: str) -> str:
    return "waiting for Redis, and its client's loop" if any(word in name for word in _WAITING) else ""


def _room(file: str) -> str:
    _, _, inner = file.partition("/meter_mw/")
    for room, beginnings in _ROOMS.items():
        if inner.startswith(beginnings):
            return room
    return ""
