"""Fleets of real workers that share one Redis: a cap is reached exactly, and everything served is billed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from fleet.fleet import GUNICORN, UVICORN, ask, events_by_subject, policy_file, press, serving
from meter_mw.policy.identity import Credential, pseudonym
from support.proxy import FaultProxy
from support.servers import BINARIES, on_every_redis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from support.servers import RedisServer

pytestmark = pytest.mark.lengthy

CAP = 1_000
LOSSY_CAP = 300
RUNS = 5


def subject(key: str) -> str:
    """Give the subject of a key that no policy lists."""
    return pseudonym(b"s" * 32, Credential(key))


def test_eight_workers_and_two_hundred_clients_reach_a_cap_exactly(redis_url: str, tmp_path: Path) -> None:
    """Four gunicorn and four uvicorn workers admit exactly 1,000 of a cap of 1,000, five times."""
    policy = policy_file(tmp_path, redis_url, f"[{{cap: {CAP}/year}}]")
    with (
        serving(UVICORN, policy, "--workers", "4") as asgi,
        serving(GUNICORN, policy, "--workers", "4", "--threads", "25") as wsgi,
    ):
        for run in range(RUNS):
            statuses = asyncio.run(press([asgi, wsgi], f"key-{run}", clients=200, requests=CAP + 200))
            assert {200: CAP, 429: 200} == statuses, f"run {run}"
    billed = events_by_subject(tmp_path / "usage.jsonl")
    assert {subject(f"key-{run}"): CAP for run in range(RUNS)} == {
        each: count for each, count in billed.items() if each != subject("ready")
    }


@on_every_redis
@pytest.mark.parametrize("server", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
def test_eight_limits_are_one_command(
    server: tuple[str, ...], redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    """A request with eight limits costs the server one EVALSHA, and nothing to settle what it has charged."""
    rates = ", ".join(f"{{name: r{n}, rate: {n}000/second}}" for n in range(1, 5))
    caps = ", ".join(f"{{name: c{n}, cap: {n}000/month}}" for n in range(1, 5))
    policy = policy_file(tmp_path, redis_url, f"[{rates}, {caps}]", "speed: strict")
    with serving(server, policy) as port, redis_server.client() as client:
        asyncio.run(press([port], "warm", clients=1, requests=5))
        _await_canary(client)  # what a newborn sent before it is sent once more
        _await_scripts(client, 6)  # of these and of the one that found the server ready
        client.config_resetstat()
        statuses = asyncio.run(press([port], "eight", clients=1, requests=50))
        _await_scripts(client, 50)
        calls = _calls(client)
    assert {200: 50} == statuses
    assert calls["cmdstat_evalsha"] == 50
    assert calls.get("cmdstat_eval", 0) < 10  # by what watches the store now and then


def _calls(client: redis.Redis) -> dict[str, int]:
    return {name: int(each["calls"]) for name, each in client.info("commandstats").items()}


def _await_canary(client: redis.Redis) -> None:
    """Wait until the server's process has written that it watches the store."""
    end = time.monotonic() + 60
    while not client.keys("mw:{canary}:canary:*"):
        assert time.monotonic() < end
        time.sleep(0.05)


def _await_scripts(client: redis.Redis, least: int) -> None:
    """Wait until the background settlements have arrived, and no more come."""
    end, before = time.monotonic() + 60, -1
    while (found := _scripts(_calls(client))) < least or found != before:
        assert time.monotonic() < end, found
        before = found
        time.sleep(0.3)


def _scripts(calls: dict[str, int]) -> int:
    return calls.get("cmdstat_evalsha", 0) + calls.get("cmdstat_eval", 0)


@pytest.mark.timed
@pytest.mark.parametrize("server", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
def test_a_stopped_redis_holds_no_request_beyond_the_deadline(
    server: tuple[str, ...], start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """While Redis is stopped each answer takes the deadline and 50 ms at most, and then all is well."""
    redis = start_redis(binary=BINARIES[0])
    policy = policy_file(tmp_path, redis.url, "[{rate: 1000/second}, {cap: 1000/month}]", deadline="100ms")
    with serving(server, policy) as port:
        assert asyncio.run(ask(port, "k")) == 200
        redis.freeze()
        waits = [asyncio.run(_wait(port)) for _ in range(40)]
        redis.thaw()
        end = time.monotonic() + 20
        while asyncio.run(ask(port, "k")) != 200:
            assert time.monotonic() < end, "the meter has not noticed that Redis is back"
    assert max(waits) <= 0.150


async def _wait(port: int) -> float:
    """Give the seconds that a refusal took, less what this machine was late by for other reasons."""
    late = 0.0

    async def tick() -> None:
        nonlocal late
        while True:
            due = time.monotonic() + 0.002
            await asyncio.sleep(0.002)
            late = max(late, time.monotonic() - due)

    ticking = asyncio.create_task(tick())
    start = time.monotonic()
    assert await ask(port, "k") == 503
    waited = time.monotonic() - start
    ticking.cancel()
    return waited - late


@pytest.mark.parametrize("server", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
def test_lost_replies_count_nothing_twice(
    server: tuple[str, ...], start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Behind a proxy that cuts after requests, a cap admits exactly its units: none lost, none double."""
    redis = start_redis(binary=BINARIES[0])
    statuses: Counter[int] = Counter()
    lost = 0
    with FaultProxy(redis.port) as proxy:
        policy = policy_file(tmp_path, proxy.url, f"[{{cap: {LOSSY_CAP}/year}}]")
        with serving(server, policy) as port:
            while statuses[429] < 20:
                proxy.cut_replies = 3
                statuses += asyncio.run(press([port], "lossy", clients=8, requests=20))
                lost += 3 - proxy.cut_replies
    assert lost > 0
    assert LOSSY_CAP == statuses[200]
    assert LOSSY_CAP == events_by_subject(tmp_path / "usage.jsonl")[subject("lossy")]
