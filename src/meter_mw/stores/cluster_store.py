"""The store in a Redis Cluster, for callers that may block: a `RedisStore` for each node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from meter_mw.stores import cluster
from meter_mw.stores.cluster_map import PAUSE_S, SlotMap, routed
from meter_mw.stores.port import PATIENCE_US, StoreUnavailable, Tally
from meter_mw.stores.redis_link import BATCH, REDIRECTIONS, StoreClock
from meter_mw.stores.redis_protocol import SERVER_CLOCK
from meter_mw.stores.redis_store import RedisStore
from meter_mw.stores.settler import Settler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.cluster import Asking
    from meter_mw.stores.cluster_map import Place, Round, Seeds
    from meter_mw.stores.port import Admit, Charge, Closed, Closing, TopUp
    from meter_mw.stores.redis_protocol import Call

T = TypeVar("T")

_UNDONE_WITHIN_S = 1.0


class ClusterStore:
    """Quota state in a Redis Cluster; one per process is enough for all threads, and for its children."""

    def __init__(
        self, seeds: Seeds, *, clock: Callable[[], int] | None = None, guess: StoreClock | None = None
    ) -> None:
        self._seeds = seeds
        self._clock = clock
        self._store_clock = guess or StoreClock()
        self._slots = SlotMap(seeds)
        self._nodes: dict[Place, RedisStore] = {}
        self._undo = Settler(self)

    def now_us(self) -> int:
        """Give the nodes' time as the replies so far tell it."""
        return self._store_clock.now_us() if self._clock is None else self._clock()

    def close(self) -> None:
        """Give back what is still to be given back, and let go of connections."""
        if self._undo.waiting:
            self._undo.flush(_UNDONE_WITHIN_S)
        for node in tuple(self._nodes.values()):
            node.close()

    def later(self, closing: Closing) -> None:
        """Have something closed in the background."""
        self._undo.put(closing)

    def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        """Decide in one round trip, or two or three where several slots are concerned; see `Store.admit`."""
        sent_us = self._store_clock.local()
        tally = self._hold(cluster.decide(command, self._time(), self.later, self._slots.fails), patience_us)
        self._store_clock.learn(tally.now_us, sent_us)
        return tally

    def admit_many(
        self, commands: Sequence[Admit | TopUp], *, patience_us: int
    ) -> Sequence[Tally | StoreUnavailable]:
        """Decide in round trips of a hundred for each node; see `Store.admit_many`."""
        deadline = time.monotonic() + patience_us / 1_000_000
        answers: list[Tally | StoreUnavailable] = []
        for start in range(0, len(commands), BATCH):
            clock, sent_us = self._time(), self._store_clock.local()
            deciding = [
                cluster.decide(each, clock, self.later, self._slots.fails)
                for each in commands[start : start + BATCH]
            ]
            left_us = int((deadline - time.monotonic()) * 1_000_000)
            told = self._hold(cluster.together(deciding), left_us)
            for each in told:
                if isinstance(each, Tally):
                    self._store_clock.learn(each.now_us, sent_us)
            answers += told
        return answers

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything; see `Store.peek`."""
        return self._hold(cluster.look(tag, charges, self._time()), PATIENCE_US)

    def settle(self, closings: Sequence[Closing], *, patience_us: int = PATIENCE_US) -> Sequence[Closed]:
        """Apply in batches of a hundred; see `Store.settle`."""
        answers: list[Closed] = []
        for start in range(0, len(closings), BATCH):
            sent_us = self._store_clock.local()
            talk = cluster.close(closings[start : start + BATCH], self._time())
            closed, now_us = self._hold(talk, patience_us)
            self._store_clock.learn(now_us, sent_us)
            answers += closed
        return answers

    def parts(self) -> Sequence[str]:
        """Give a hash tag for each node: it may lose data by itself. Raises StoreUnavailable."""
        if not self._slots.is_known:
            self.ask((("GET", "mw:{canary}"),), patience_us=PATIENCE_US)
        return self._slots.parts()

    def part_of(self, tag: str) -> str:
        """Give the hash tag that stands for the node of a tag; "" where that is not known."""
        return self._slots.part_of(tag) if self._slots.is_known else ""

    def told(self, calls: Sequence[Call], *, patience_us: int) -> dict[str, list[object] | StoreUnavailable]:
        """Have each node answer, by its place; error replies are values. Raises StoreUnavailable."""
        self.parts()
        told: dict[str, list[object] | StoreUnavailable] = {}
        for place in self._slots.masters():
            told |= self._node(place).told(calls, patience_us=patience_us)
        return told

    def ask(self, calls: Sequence[Call], *, patience_us: int) -> list[object]:
        """Have other commands answered, each by the node of its key, or raise StoreUnavailable."""
        replies = self._route(calls, time.monotonic() + patience_us / 1_000_000)
        for reply in replies:
            if isinstance(reply, StoreUnavailable):
                raise reply
        return replies

    def _hold(self, talk: Asking[T], patience_us: int) -> T:
        deadline = time.monotonic() + patience_us / 1_000_000
        try:
            calls = next(talk)
            while True:
                calls = talk.send(self._route(calls, deadline))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            talk.close()

    def _route(self, calls: Sequence[Call], deadline: float) -> list[object]:
        routing = routed(calls, self._slots)
        try:
            trip = next(routing)
            while True:
                trip = routing.send(self._make(trip, deadline))
        except StopIteration as end:
            replies: list[object] = end.value
            return replies

    def _make(self, trip: Round, deadline: float) -> dict[Place, list[object] | StoreUnavailable]:
        if trip.pause:
            time.sleep(max(0.0, min(PAUSE_S, deadline - time.monotonic())))
        answers: dict[Place, list[object] | StoreUnavailable] = {}
        for place, calls in trip.calls.items():
            left = deadline - time.monotonic()
            if left <= 0:
                answers[place] = StoreUnavailable(f"redis at {place[0]}:{place[1]} was not asked in time")
                continue
            try:
                answers[place] = self._node(place).ask(
                    calls, patience_us=int(left * trip.share * 1_000_000), values=REDIRECTIONS
                )
            except StoreUnavailable as failure:
                answers[place] = failure
        return answers

    def _node(self, place: Place) -> RedisStore:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes.setdefault(place, RedisStore(self._seeds.address(place)))
        return node

    def _time(self) -> int:
        return SERVER_CLOCK if self._clock is None else self._clock()
