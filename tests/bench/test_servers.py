"""The tools of the bench do what its figures rest on: servers, load, delay, and what Redis says of itself."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import redis
from bench.asked import Asked, Witness
from bench.contenders import LEASED, one
from bench.delay import delayed
from bench.event_sink import event_sink, taken
from bench.inprocess import Added
from bench.load import LoadError, creep, generate, hammer
from bench.redis_server import Served, free_port, running_redis
from bench.served import described, read
from bench.serving import serving
from bench.workload import LIMITS, Setting, Store

from bench import paced, store_cost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.lengthy, pytest.mark.xdist_group("bench")]  # one bench at a time


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Give a Redis of these tests' own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


def setting(server: Served, folder: Path, number: int = 3, **more: int) -> Setting:
    return Setting(LIMITS[:number], Store("Redis", server.url), folder, **more)


def test_redis_tells_round_trips_and_script_calls(server: Served) -> None:
    """A pipeline is one trip; looking is none."""
    with Witness(server.url) as witness, redis.Redis.from_url(server.url) as client:
        client.ping()
        before = witness.look()
        assert witness.look() - before == Asked(0, 0, 0)
        for _ in range(3):
            client.get("a")
        pipeline = client.pipeline(transaction=False)
        for _ in range(5):
            pipeline.eval("return 1", 0)
        pipeline.execute()
        asked = witness.look() - before
    assert (asked.reads, asked.scripts) == (4, 5)
    assert asked.scripts_us >= 0


def test_the_other_ways_to_redis(server: Served) -> None:
    """The socket is the same server; a proxy adds its delay to each trip, whole, and not to each command."""
    with (
        delayed(server.port, 0.02) as port,
        redis.Redis.from_url(server.unix_url) as near,
        redis.Redis(port=port) as far,
    ):
        near.set("way", "both")
        assert far.get("way") == b"both"
        begin = time.perf_counter()
        for _ in range(3):
            far.ping()
        assert time.perf_counter() - begin >= 3 * 0.02
        pipeline = far.pipeline(transaction=False)
        for _ in range(200):
            pipeline.ping()
        begin = time.perf_counter()
        pipeline.execute()
        assert time.perf_counter() - begin < 200 * 0.02


def test_a_setting_reaches_another_process_whole(tmp_path: Path) -> None:
    """What is described is what is read."""
    wanted = Setting(LIMITS, Store("Redis", "redis://h:1/0"), tmp_path, workers=4)
    assert read(described(3, wanted, [1])) == (3, wanted, [1])


def test_processes_share_a_limit(server: Served, tmp_path: Path) -> None:
    """Many clients get what it allows; each process alone in memory would give as much again."""
    shared = replace(setting(server, tmp_path, workers=2), limits=(replace(LIMITS[2], amount=100),))
    with serving(one("limits", "Starlette"), shared, []) as up:
        assert len(up.processes()) == 2
        told = hammer(up.port, "hammered", connections=32, requests=150)
        assert (told.admitted, told.refused, told.others) == (100, 50, 0)
        told = creep(up.port, "crept", connections=8, limit=100)
        assert (told.admitted, told.before_refusal) == (100, 100)
        with pytest.raises(LoadError, match="only 0 of 40"):
            generate(up.port, connections=4, warmup=4, requests=40, fields=True)


def test_a_busy_key_is_lent_to(server: Served, tmp_path: Path) -> None:
    """At its pace, a lease saves round trips, which is told."""
    busy, added = setting(server, tmp_path, paced=1_000), Added()
    contenders = [one("bare", "Starlette"), one(LEASED, "Starlette")]
    paced.measure(contenders, busy, paced.Effort(1, 200), added)
    assert added.trips.spread(contenders[1], busy.title).median < 0.5
    assert added.time_us.spread(contenders[0], busy.title).median > 0


def test_what_a_decision_costs_redis(server: Served, tmp_path: Path) -> None:
    """Its time, and its memory: less at rest than while the last request is remembered."""
    assert store_cost.server_us(setting(server, tmp_path), 64) > 0
    found = store_cost.bytes_per_subject(setting(server, tmp_path), 2_000, 60)
    assert found.subjects == 2_000
    assert 50 < found.at_rest <= found.remembered < 2_000


def test_a_connection_that_is_lost_comes_again() -> None:
    """What was on its way has no answer; the others go on."""
    port, met = free_port(), []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(writer)
        answers = 2 if len(met) == 1 else 100
        for _ in range(answers):
            if not await reader.readuntil(b"\r\n\r\n"):
                break
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def both() -> object:
        async with await asyncio.start_server(meet, "127.0.0.1", port):
            return await asyncio.to_thread(hammer, port, "key", connections=1, requests=10)

    told = asyncio.run(both())
    assert told == type(told)(9, 0, 0)
    assert len(met) == 2


def test_the_sink_of_events_knows_who_sent() -> None:
    """Bytes are told by sender."""
    with event_sink() as url:
        for who, size in (("moesif", 3), ("moesif", 4), ("apitally", 5)):
            urllib.request.urlopen(f"{url}/{who}/v1/traces", b"x" * size, timeout=10).close()
        assert taken(url) == {"moesif": 7, "apitally": 5}
