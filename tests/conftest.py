"""What every test may ask for: a real Redis, clean, and a clock that stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meter_mw.testing.stores import Clock
from support.postgres import PostgresServer
from support.servers import BINARIES, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    """Give a running PostgreSQL; each test makes a database of its own in it."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def clock() -> Clock:
    """Give a clock that only the test moves."""
    return Clock()
