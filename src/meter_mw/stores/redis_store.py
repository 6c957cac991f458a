"""The store in Redis, for callers that may block: `redis_link` has its manners, `meter.lua` its sums."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

from meter_mw.stores.cluster_map import is_cluster, read_cluster_url
from meter_mw.stores.port import PATIENCE_US, StoreUnavailable
from meter_mw.stores.redis_link import (
    BATCH,
    FAILURES,
    Address,
    Breaker,
    Crowded,
    Leave,
    StoreClock,
    Trip,
    are_answers,
    converse,
    read_url,
    refused,
    unavailable,
)
from meter_mw.stores.redis_protocol import (
    SERVER_CLOCK,
    admit_call,
    closed,
    closing_call,
    peek_call,
    tally,
)
from meter_mw.stores.redis_socket import RedisSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.cluster_store import ClusterStore
    from meter_mw.stores.port import Admit, Charge, Closed, Closing, Tally, TopUp
    from meter_mw.stores.redis_link import Errors, Talk
    from meter_mw.stores.redis_protocol import Call, ScriptCall


def open_store(
    url: str,
    *,
    connections: int | None = None,
    clock: Callable[[], int] | None = None,
    guess: StoreClock | None = None,
) -> RedisStore | ClusterStore:
    """Open a store by URL: redis, rediss, valkey, valkeys, unix or redis+unix; nothing is connected yet.

    Those of a cluster are redis+cluster, rediss+cluster, valkey+cluster and valkeys+cluster. `clock` replaces
    the server's time, for tests. `guess` is what is known of that, where another store learns it too.
    """
    if is_cluster(url):
        from meter_mw.stores.cluster_store import ClusterStore  # noqa: PLC0415 - it is made of these stores

        return ClusterStore(read_cluster_url(url, connections), clock=clock, guess=guess)
    return RedisStore(read_url(url, connections), clock=clock, guess=guess)


class RedisStore:
    """Quota state in Redis; one per process is enough for all threads, and for children that it forks."""

    def __init__(
        self, address: Address, *, clock: Callable[[], int] | None = None, guess: StoreClock | None = None
    ) -> None:
        self._address = address
        self._clock = clock
        self._store_clock = guess or StoreClock()
        self._pools: dict[int, _Pool] = {}
        self._pool()

    def now_us(self) -> int:
        """Give the server's time as the replies so far tell it."""
        return self._store_clock.now_us() if self._clock is None else self._clock()

    def close(self) -> None:
        """Let go of connections; the next command opens new ones."""
        self._pool().drop()

    def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        """Decide in one round trip; see `Store.admit`."""
        return self._read(admit_call(command, self._time()), patience_us, urgent=True)

    def admit_many(
        self, commands: Sequence[Admit | TopUp], *, patience_us: int
    ) -> Sequence[Tally | StoreUnavailable]:
        """Decide in round trips of a hundred; see `Store.admit_many`."""
        deadline = time.monotonic() + patience_us / 1_000_000
        answers: list[Tally | StoreUnavailable] = []
        for start in range(0, len(commands), BATCH):
            batch = commands[start : start + BATCH]
            calls = [admit_call(each, self._time()) for each in batch]
            left_us = int((deadline - time.monotonic()) * 1_000_000)
            sent_us = self._store_clock.local()
            try:
                replies = self._ask(calls, left_us, urgent=True, values=(ResponseError,))
            except StoreUnavailable as failure:
                answers += [failure] * len(batch)
            else:
                answers += [self._told(each, sent_us) for each in replies]
        return answers

    def _told(self, reply: object, sent_us: int) -> Tally | StoreUnavailable:
        if isinstance(reply, ResponseError):
            return refused(reply, self._address.place)
        try:
            answer = tally(reply)
        except StoreUnavailable as garbled:
            return garbled
        self._store_clock.learn(answer.now_us, sent_us)
        return answer

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything; see `Store.peek`."""
        return self._read(peek_call(tag, charges, self._time()), PATIENCE_US, urgent=False)

    def settle(self, closings: Sequence[Closing], *, patience_us: int = PATIENCE_US) -> Sequence[Closed]:
        """Apply in round trips of a hundred; see `Store.settle`."""
        clock = self._time()
        calls = [closing_call(each, clock) for each in closings]
        answers: list[Closed] = []
        for start in range(0, len(calls), BATCH):
            sent_us = self._store_clock.local()
            for reply in self._ask(calls[start : start + BATCH], patience_us, urgent=False):
                answer, now_us = closed(reply)
                answers.append(answer)
            self._store_clock.learn(now_us, sent_us)
        return answers

    def parts(self) -> Sequence[str]:
        """Give a hash tag for each part that may lose data by itself: there is one."""
        return ("canary",)

    def part_of(self, tag: str) -> str:  # noqa: ARG002 - there is one
        """Give the hash tag of the part that a tag is in."""
        return "canary"

    def told(self, calls: Sequence[Call], *, patience_us: int) -> dict[str, list[object] | StoreUnavailable]:
        """Have the server answer, by its place; error replies, and its silence, are values."""
        deadline = time.monotonic() + patience_us / 1_000_000
        answer = self._pool().make(Trip(tuple(calls)), deadline)
        place = self._address.place
        return {place: unavailable(answer, place) if isinstance(answer, Exception) else list(answer)}

    def ask(
        self, calls: Sequence[Call], *, patience_us: int, urgent: bool = True, values: Errors = ()
    ) -> list[object]:
        """Have other commands answered in one round trip, or raise StoreUnavailable; see `converse`."""
        return self._ask(calls, patience_us, urgent=urgent, values=values)

    def _read(self, call: ScriptCall, patience_us: int, *, urgent: bool) -> Tally:
        sent_us = self._store_clock.local()
        (reply,) = self._ask((call,), patience_us, urgent=urgent)
        answer = tally(reply)
        self._store_clock.learn(answer.now_us, sent_us)
        return answer

    def _ask(
        self, calls: Sequence[Call], patience_us: int, *, urgent: bool, values: Errors = ()
    ) -> list[object]:
        deadline = time.monotonic() + patience_us / 1_000_000
        pool = self._pool()
        leave: Leave | None = None
        answer: list[object] | Exception | None = None
        if not pool.breaker.is_open:
            leave, answer = Leave.FREELY, pool.make(Trip(tuple(calls)), deadline)
            if are_answers(answer, calls):
                pool.breaker.answered()  # another's silence may have opened it meanwhile
                return answer
        talk = converse(calls, self._address.place, pool.breaker, urgent=urgent, values=values, leave=leave)
        return _hold(talk, pool, deadline, answer)

    def _time(self) -> int:
        return SERVER_CLOCK if self._clock is None else self._clock()

    def _pool(self) -> _Pool:
        """Give this process's connections: a fork's child makes its own, and leaves its parent's alone."""
        pid = os.getpid()
        pool = self._pools.get(pid)
        if pool is None:
            pool = _Pool(self._address)
            self._pools = {pid: pool}
        return pool


def _hold(
    talk: Talk, pool: _Pool, deadline: float, answer: Sequence[object] | Exception | None
) -> list[object]:
    """Hold a conversation over blocking connections; its first trip may be answered already."""
    try:
        trip = next(talk)
        while True:
            trip = talk.send(pool.make(trip, deadline) if answer is None else answer)
            answer = None
    except StopIteration as end:
        replies: list[object] = end.value
        return replies
    finally:
        talk.close()


class _Pool:
    """Connections of one process: at most so many, the last used first."""

    def __init__(self, address: Address) -> None:
        self.breaker = Breaker()
        self._address = address
        self._idle: list[RedisSocket] = []
        self._places = _Places(address.connections)

    def make(self, trip: Trip, deadline: float) -> list[object] | Exception:
        """Make one round trip before `deadline`, by the monotonic clock; give the failure where it fails."""
        try:
            self._places.take(deadline)
        except Crowded as failure:
            return failure.with_traceback(None)
        try:
            if trip.fresh:
                self.drop()
            return self._exchange(trip.calls, deadline)
        except FAILURES as failure:
            return failure.with_traceback(None)
        finally:
            self._places.give()

    def _exchange(self, calls: Sequence[Call], deadline: float) -> list[object]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = RedisSocket(self._address, deadline)
        try:
            replies = connection.exchange(calls, deadline)
        except BaseException:
            connection.drop()
            raise
        self._idle.append(connection)
        return replies

    def drop(self) -> None:
        """Close the connections that are not in use."""
        with suppress(IndexError):
            while True:
                self._idle.pop().drop()


class _Places:
    """So many callers at the same time; to take a place that is free costs no lock."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._free = [True] * number
        self._freed = threading.Condition()
        self._waiting = 0

    def take(self, deadline: float) -> None:
        """Take a place, waiting for it until `deadline`; raises Crowded."""
        if self._taken():
            return
        with self._freed:
            self._waiting += 1
            try:
                if not self._freed.wait_for(self._taken, max(0.0, deadline - time.monotonic())):
                    raise Crowded(f"its {self._number} connections are all in use")
            finally:
                self._waiting -= 1

    def _taken(self) -> bool:
        try:
            return self._free.pop()
        except IndexError:
            return False

    def give(self) -> None:
        """Give a place back."""
        self._free.append(True)
        if self._waiting:
            with self._freed:
                self._freed.notify()
