"""What a strict decision costs Redis itself: its own time for an admission, and its memory for a subject."""

from __future__ import annotations

import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from bench.asked import Witness
from bench.meters.ours import policy
from meter_mw.charging import charges_of
from meter_mw.policy.loader import load
from meter_mw.policy.terms import Line, digest_of
from meter_mw.rids import new_rid
from meter_mw.stores.port import Admit, Tally, Verdict
from meter_mw.stores.redis_store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.workload import Setting
    from meter_mw.stores.port import Charge

_BATCH = 1_000
_PATIENCE_US = 60_000_000
_SOON_MS = 20 * 60_000
_FORGET = """
redis.replicate_commands()
local found = redis.call('SCAN', ARGV[1], 'COUNT', 10000)
for _, key in ipairs(found[2]) do
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('DEL', key) end
end
return found[1]
"""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of Redis for a subject: at rest, and while its last request is remembered too (15 minutes)."""

    subjects: int
    at_rest: float
    remembered: float


def server_us(setting: Setting, admissions: int) -> float:
    """Give the server's own µs for one admission of a subject that it knows."""
    url = str(setting.redis)
    with Witness(url) as witness:
        witness.forget_all()
        _admit(setting, 0, 64)
        before = witness.look()
        for _ in range(max(1, admissions // 64)):
            _admit(setting, 0, 64)
        asked = witness.look() - before
    return asked.scripts_us / asked.scripts


def bytes_per_subject(setting: Setting, subjects: int, seconds: float) -> Bytes:
    """Admit one request of each subject, and see what that takes.

    After `seconds` it is told of as many as there are by then.
    """
    url, half = str(setting.redis), subjects // 2
    with Witness(url) as witness:
        witness.forget_all()
        _admit(setting, subjects, 64)  # what the first ones bring along is nobody's
        empty = witness.used_bytes()
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=spawned) as pool:
            halves = [0, half], [half, subjects - half], [seconds] * 2
            subjects = sum(pool.map(_admit, [setting] * 2, *halves))
        remembered = witness.used_bytes() - empty
        _forget_the_passing(url)
        at_rest = witness.used_bytes() - empty
        witness.forget_all()
    return Bytes(subjects, at_rest / subjects, remembered / subjects)


def _admit(setting: Setting, first: int, count: int, seconds: float = math.inf) -> int:
    """Admit one request of each of `count` subjects; give how many those were when the time was over."""
    end = time.monotonic() + seconds
    loaded = load(policy(setting))
    caller = loaded.stranger("somebody")
    lines = tuple(Line(limit, 1, 1) for limit in caller.plan.limits)
    store = open_store(str(setting.redis))
    charges = charges_of(loaded, lines, caller, store.now_us())
    done = 0
    for begin in range(first, first + count, _BATCH):
        if time.monotonic() > end:
            break
        commands = list(_commands(charges, begin, min(first + count, begin + _BATCH), store.now_us()))
        for told in store.admit_many(commands, patience_us=_PATIENCE_US):
            if not isinstance(told, Tally) or told.verdict is not Verdict.ADMITTED:
                raise RuntimeError(f"a store with nothing in it did not admit: {told!r}")
        done += len(commands)
    store.close()
    return done


def _commands(charges: tuple[Charge, ...], begin: int, end: int, now_us: int) -> Iterator[Admit]:
    for subject in range(begin, end):
        tag = digest_of("bench", str(subject), size=16)
        yield Admit(new_rid(now_us), tag, now_us + _PATIENCE_US, charges, _PATIENCE_US)


def _forget_the_passing(url: str) -> None:
    """Delete what would soon be gone by itself: what is remembered of requests."""
    with redis.Redis.from_url(url) as client:
        script, cursor = client.register_script(_FORGET), b"0"
        while True:
            cursor = script(args=[cursor, _SOON_MS])
            if cursor == b"0":
                return
