"""What every test may ask for: a real Redis, clean, and a clock that stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from meter_mw.testing.stores import Clock
from support.postgres import PostgresServer
from support.servers import BINARIES, RedisServer
from support.timed import pytest_runtest_protocol  # noqa: F401 - it is found by its name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # how long an example takes tells of the machine


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, begin with what is lengthy, and keep other files together."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if not any(map(item.get_closest_marker, ("lengthy", "xdist_group"))):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: item.get_closest_marker("lengthy") is None)


@pytest.fixture(scope="session")
def _running() -> Iterator[dict[str, RedisServer]]:
    """Keep one server of each binary for the session, started when it is first asked for."""
    servers: dict[str, RedisServer] = {}
    yield servers
    for server in servers.values():
        server.stop()


@pytest.fixture
def redis_server(_running: dict[str, RedisServer], request: pytest.FixtureRequest) -> RedisServer:
    """Give a running server; `on_every_redis` runs a test on each of the binaries."""
    binary = getattr(request, "param", BINARIES[0])
    if binary not in _running:
        _running[binary] = RedisServer(binary=binary)
    return _running[binary]


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Give the URL of a server with nothing in it."""
    with redis_server.client() as client:
        client.flushall()
        client.script_flush()
        client.config_resetstat()
    return redis_server.url


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisServer]]:
    """Start servers of the test's own, to be stopped, killed or frozen; all are gone when it ends."""
    started: list[RedisServer] = []

    def start(*options: str, binary: str = BINARIES[0], port: int | None = None) -> RedisServer:
        started.append(RedisServer(*options, binary=binary, port=port))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Give a running PostgreSQL, with an empty database for each test that asks for one."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def clock() -> Clock:
    """Give a clock that only the test moves."""
    return Clock()
