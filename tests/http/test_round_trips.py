"""Round trips, as Redis counts them: one script admits a request and one settles it, whatever limits it."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest
import wire

import servers
from support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from servers import Server

NAMES = ("uvicorn-h11", "gunicorn-gthread", "django-gunicorn", "django-uvicorn")
REQUESTS = 20
MEGABYTES = 10


@pytest.fixture(scope="module", params=NAMES)
def watched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, redis.Redis]]:
    """Give a server, and a look behind its store."""
    home = tmp_path_factory.mktemp(request.param) / "home"
    with RedisServer() as store:
        environment = {"SUBJECT_REDIS": store.url}
        running = servers.running(request.param, home, environment=environment)
        with running as server, store.client() as client:
            yield server, client


class Client:
    """One subject of a plan."""

    def __init__(self, server: Server, plan: str) -> None:
        self.server = server
        self.subject = f"s-{uuid.uuid4().hex}"
        self._fields = (("X-API-Key", f"{plan}.{self.subject}.{self.subject}"), ("X-Variant", "redis"))

    def ask(self, target: str) -> wire.Answer:
        answer = wire.talk(self.server.port, wire.request("GET", target, self._fields))
        assert answer.status == 200
        return answer

    def settled(self, events: int) -> None:
        """Wait until what was asked is recorded, and settled with that."""
        self.server.events_of(self.subject, events, "redis")
        time.sleep(0.3)


def calls(client: redis.Redis) -> dict[str, int]:
    """Give how often Redis ran each command since it was last asked, but for our own."""
    stats = client.info("commandstats")
    client.config_resetstat()
    # The canary is an EVAL about once a second, whatever is asked.
    ours = ("eval", "info", "config", "client", "select", "ping", "hello", "command", "auth")
    names = ((name.removeprefix("cmdstat_").split("|")[0], each["calls"]) for name, each in stats.items())
    return {name: number for name, number in names if name not in ours}


INSIDE = {"time", "get", "set", "del", "hget", "hgetall", "hset", "hsetnx", "hdel", "pexpire"}
"""What a script asks of its own server, which costs no round trip."""


def scripts(found: dict[str, int]) -> int:
    """Give the calls of scripts, where nothing else was called."""
    assert found.keys() - INSIDE == {"evalsha"}
    return found["evalsha"]


def test_a_request_under_nine_limits(watched: tuple[Server, redis.Redis]) -> None:
    """Rates, caps, slots, an estimate, a shadow and four scopes: one script to admit, and one to settle."""
    server, store = watched
    client = Client(server, "lots")
    client.ask("/v1/items/1")
    client.settled(1)
    calls(store)
    for _ in range(REQUESTS):
        client.ask("/v1/items/1")
    client.settled(REQUESTS + 1)
    found = scripts(calls(store))
    print(f"TRIPS {server.name}: {found} scripts for {REQUESTS} requests under nine limits")
    assert found == 2 * REQUESTS
    names = [item.split(";")[0] for item in (client.ask("/v1/items/1").get("RateLimit") or "").split(", ")]
    assert names == [f'"{name}"' for name in LOTS]


LOTS = ("second", "minute", "month", "account", "world", "route", "egress", "concurrent")


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_long_stream_tops_up(watched: tuple[Server, redis.Redis], *, declared: bool) -> None:
    """Ten megabytes are asked for in steps: of 64 reserves where the length is declared, else of up to 16."""
    server, store = watched
    client = Client(server, "far")
    client.ask("/v1/items/1")
    client.settled(1)
    calls(store)
    count = MEGABYTES * 50
    target = f"/v1/stream?count={count}&size=20000" + ("&declared=1" if declared else "")
    assert client.ask(target).received == MEGABYTES * 1_000_000
    client.settled(2)
    found = scripts(calls(store))
    tops = found - 2
    print(f"TRIPS {server.name}: {tops} top-ups for {MEGABYTES} MB, {'' if declared else 'un'}declared")
    assert tops <= (4 if declared else 16)


def test_without_limits_nothing_is_asked(watched: tuple[Server, redis.Redis]) -> None:
    """A plan without limits costs Redis nothing."""
    server, store = watched
    client = Client(server, "free")
    client.ask("/v1/items/1")
    client.settled(1)
    calls(store)
    client.ask("/v1/items/1")
    client.settled(2)
    assert calls(store).keys() <= INSIDE
