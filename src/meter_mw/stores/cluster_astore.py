"""The store in a Redis Cluster, for callers on an event loop; what it says and how is `ClusterStore`'s."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from meter_mw.stores import cluster
from meter_mw.stores.aredis_store import AsyncRedisStore
from meter_mw.stores.cluster_map import PAUSE_S, SlotMap, routed
from meter_mw.stores.cluster_store import ClusterStore
from meter_mw.stores.port import PATIENCE_US, StoreUnavailable
from meter_mw.stores.redis_link import REDIRECTIONS, StoreClock
from meter_mw.stores.redis_protocol import SERVER_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.cluster import Asking
    from meter_mw.stores.cluster_map import Place, Round, Seeds
    from meter_mw.stores.port import Admit, Charge, Closed, Closing, Tally, TopUp
    from meter_mw.stores.redis_protocol import Call

T = TypeVar("T")


class AsyncClusterStore:
    """Quota state in a Redis Cluster; one per process is enough for all its event loops.

    Each loop has one connection to each node, and nodes are asked at the same time.
    """

    def __init__(
        self, seeds: Seeds, *, clock: Callable[[], int] | None = None, guess: StoreClock | None = None
    ) -> None:
        self._seeds = seeds
        self._clock = clock
        self._store_clock = guess or StoreClock()
        self._slots = SlotMap(seeds)
        self._nodes: dict[Place, AsyncRedisStore] = {}
        self._background = ClusterStore(seeds, clock=clock)

    def now_us(self) -> int:
        """Give the nodes' time as the replies so far tell it."""
        return self._store_clock.now_us() if self._clock is None else self._clock()

    async def aclose(self) -> None:
        """Give back what is still to be given back, and let go of the running loop's connections."""
        for node in tuple(self._nodes.values()):
            await node.aclose()
        await asyncio.to_thread(self._background.close)

    async def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        """Decide in one round trip, or two or three where several slots are concerned."""
        sent_us = self._store_clock.local()
        talk = cluster.decide(command, self._time(), self._background.later, self._slots.fails)
        tally = await self._hold(talk, patience_us)
        self._store_clock.learn(tally.now_us, sent_us)
        return tally

    async def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything; see `AsyncStore.peek`."""
        return await self._hold(cluster.look(tag, charges, self._time()), PATIENCE_US)

    async def settle(
        self, closings: Sequence[Closing], *, patience_us: int = PATIENCE_US
    ) -> Sequence[Closed]:
        """Apply in one round trip; see `AsyncStore.settle`."""
        if not closings:
            return []
        sent_us = self._store_clock.local()
        answers, now_us = await self._hold(cluster.close(closings, self._time()), patience_us)
        self._store_clock.learn(now_us, sent_us)
        return answers

    async def ask(self, calls: Sequence[Call], *, patience_us: int) -> list[object]:
        """Have other commands answered, each by the node of its key, or raise StoreUnavailable."""
        replies = await self._route(calls, _now() + patience_us / 1_000_000)
        for reply in replies:
            if isinstance(reply, StoreUnavailable):
                raise reply
        return replies

    async def _hold(self, talk: Asking[T], patience_us: int) -> T:
        deadline = _now() + patience_us / 1_000_000
        try:
            calls = next(talk)
            while True:
                calls = talk.send(await self._route(calls, deadline))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            talk.close()

    async def _route(self, calls: Sequence[Call], deadline: float) -> list[object]:
        routing = routed(calls, self._slots)
        try:
            trip = next(routing)
            while True:
                trip = routing.send(await self._make(trip, deadline))
        except StopIteration as end:
            replies: list[object] = end.value
            return replies

    async def _make(self, trip: Round, deadline: float) -> dict[Place, list[object] | StoreUnavailable]:
        if trip.pause:
            if _now() >= deadline:
                late = StoreUnavailable("the slot is on its way to another node of the cluster")
                return dict.fromkeys(trip.calls, late)
            await asyncio.sleep(PAUSE_S)
        # What lag has left of the time may be nothing: a node is asked all the same, and has a moment.
        patience_us = max(0, int((deadline - _now()) * trip.share * 1_000_000))

        async def one(place: Place, calls: tuple[Call, ...]) -> list[object] | StoreUnavailable:
            try:
                return await self._node(place).ask(calls, patience_us=patience_us, values=REDIRECTIONS)
            except StoreUnavailable as failure:
                return failure

        if len(trip.calls) == 1:
            ((place, calls),) = trip.calls.items()
            return {place: await one(place, calls)}
        answers = await asyncio.gather(*(one(place, calls) for place, calls in trip.calls.items()))
        return dict(zip(trip.calls, answers, strict=True))

    def _node(self, place: Place) -> AsyncRedisStore:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes.setdefault(place, AsyncRedisStore(self._seeds.address(place)))
        return node

    def _time(self) -> int:
        return SERVER_CLOCK if self._clock is None else self._clock()


def _now() -> float:
    return asyncio.get_running_loop().time()
