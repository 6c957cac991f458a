"""Every store keeps the laws."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from meter_mw.stores.aredis_store import open_async_store
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.redis_store import RedisStore, open_store
from meter_mw.testing.stores import StoreConformance
from support.servers import on_every_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.port import Admit, Charge, Closed, Closing, StoreUnavailable, Tally, TopUp


class TestMemoryStore(StoreConformance):
    def make_store(self, clock: Callable[[], int]) -> MemoryStore:
        return MemoryStore(clock)


@on_every_redis
class TestRedisStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str) -> None:
        self.url = redis_url

    def make_store(self, clock: Callable[[], int]) -> RedisStore:
        return open_store(self.url, clock=clock)


class RunAsync:
    """An async store behind blocking calls; closings go through the blocking store, as in production."""

    def __init__(self, url: str, clock: Callable[[], int]) -> None:
        self._runner = asyncio.Runner()
        self._store = open_async_store(url, clock=clock)
        self._closings = open_store(url, clock=clock)
        self.now_us = self._store.now_us

    def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        return self._runner.run(self._store.admit(command, patience_us=patience_us))

    def admit_many(
        self, commands: Sequence[Admit | TopUp], *, patience_us: int
    ) -> Sequence[Tally | StoreUnavailable]:
        return self._closings.admit_many(commands, patience_us=patience_us)

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        return self._runner.run(self._store.peek(tag, charges))

    def settle(self, closings: Sequence[Closing]) -> Sequence[Closed]:
        return self._closings.settle(closings)

    def close(self) -> None:
        self._runner.run(self._store.aclose())
        self._runner.close()
        self._closings.close()


@on_every_redis
class TestAsyncRedisStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str) -> None:
        self.url = redis_url

    def make_store(self, clock: Callable[[], int]) -> RunAsync:
        return RunAsync(self.url, clock)
