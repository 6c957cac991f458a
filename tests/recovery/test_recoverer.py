"""Who recovers what, and for how long: estates are let go of when nothing of them is needed any more."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw.meter import Meter
from recovery.test_reaping import killed, recorded, rules
from support.policies import request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.servers import RedisServer


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def serve(meter: Meter) -> None:
    exchange = meter.exchange(meter.admit(request(key="k")), "GET")
    exchange.begin(200, None)
    meter.conclude(exchange)


def opened(folder: Path, store: str, retention_us: int) -> Meter:
    made = rules(folder, store, "void")
    return Meter(replace(made, events=replace(made.events, retention_us=retention_us)))


def test_nothing_is_left_of_what_is_not_retained(
    tmp_path: Path, redis_server: RedisServer, redis_url: str
) -> None:
    """An estate that is settled and delivered is deleted, and its canaries with it."""
    first = opened(tmp_path, redis_url, 0)
    serve(first)
    assert first.flush()
    until(lambda: len(redis_server.client().keys("*:canary:*")) == 2)
    (left,) = [path.name for path in (tmp_path / "journal").glob("p*")]
    first.close()
    second = opened(tmp_path, redis_url, 0)
    second.start()
    try:
        until(lambda: left not in {path.name for path in (tmp_path / "journal").glob("p*")})
        assert len(recorded(tmp_path)) == 0
        assert not redis_server.client().keys(f"*:canary:{left}*")
    finally:
        second.close()


def test_what_is_retained_is_kept_for_a_replay(
    tmp_path: Path, redis_url: str, redis_server: RedisServer
) -> None:
    """An estate of the dead is watched for as long as it is retained, by who took it over."""
    killed(tmp_path, redis_url, "void")
    (left,) = [path.name for path in (tmp_path / "journal").glob("p*")]
    meter = opened(tmp_path, redis_url, 3_600_000_000)
    meter.start()
    try:
        client = redis_server.client()
        until(lambda: len(client.keys(f"*:canary:{left}*")) == 2)
        client.flushall()
        until(lambda: len(client.keys(f"*:canary:{left}*")) == 2)
        until(lambda: counted(meter) == 1)
        assert left in {path.name for path in (tmp_path / "journal").glob("p*")}
    finally:
        meter.close()


def counted(meter: Meter) -> int | None:
    """Give what the cap has counted."""
    usage = meter.usage(request(key="k"))
    return next(each.standing.used for each in usage.limits if each.standing.line.limit.name == "cap")  # type: ignore[union-attr]


def test_two_processes_do_not_recover_the_same(tmp_path: Path, redis_url: str) -> None:
    """The lock decides: what is given back is given back once."""
    killed(tmp_path, redis_url, "void")
    meters = [opened(tmp_path, redis_url, 3_600_000_000) for _ in range(3)]
    for meter in meters:
        meter.start()
    try:
        until(lambda: counted(meters[0]) == 1)
        until(lambda: sum(len(meter._recoverer._heirs) for meter in meters) == 1)
    finally:
        for meter in meters:
            meter.close()
