"""The store in Redis, for callers on an event loop; what it says and how is `RedisStore`'s."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ResponseError

from meter_mw.stores.redis_link import (
    FAILURES,
    PATIENCE_US,
    Address,
    Breaker,
    Crowded,
    StoreClock,
    Transport,
    converse,
    read_url,
)
from meter_mw.stores.redis_protocol import admit_call, peek_call, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio.connection import AbstractConnection

    from meter_mw.stores.port import Admit, Charge, Tally
    from meter_mw.stores.redis_link import Talk, Trip
    from meter_mw.stores.redis_protocol import Call

_KINDS: dict[Transport, Callable[..., AbstractConnection]] = {
    Transport.TCP: Connection,
    Transport.TLS: SSLConnection,
    Transport.UNIX: UnixDomainSocketConnection,
}


def open_async_store(
    url: str, *, connections: int | None = None, clock: Callable[[], int] | None = None
) -> AsyncRedisStore:
    """Open a store by URL: see `open_store`; no loop need run yet."""
    return AsyncRedisStore(read_url(url, connections), clock=clock)


class AsyncRedisStore:
    """Quota state in Redis; one per process is enough for all its event loops, and for its children."""

    def __init__(self, address: Address, *, clock: Callable[[], int] | None = None) -> None:
        self._address = address
        self._clock = clock
        self._store_clock = StoreClock()
        self._pid = os.getpid()
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
        self._left_to_parent: list[object] = []
        _connect(address)  # refuse options that no connection knows, before anything is asked

    def now_us(self) -> int:
        """Give the server's time as the replies so far tell it."""
        return self._store_clock.now_us() if self._clock is None else self._clock()

    async def aclose(self) -> None:
        """Let go of the running loop's connections; the next command opens new ones."""
        await self._pool().drop()
        await asyncio.sleep(0)  # asyncio closes a socket in the loop's next round

    async def admit(self, command: Admit, *, patience_us: int) -> Tally:
        """Decide in one round trip; see `AsyncStore.admit`."""
        return await self._read(admit_call(command, self._time()), patience_us, urgent=True)

    async def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything; see `AsyncStore.peek`."""
        return await self._read(peek_call(tag, charges, self._time()), PATIENCE_US, urgent=False)

    async def _read(self, call: Call, patience_us: int, *, urgent: bool) -> Tally:
        sent_us = self._store_clock.local()
        deadline = asyncio.get_running_loop().time() + patience_us / 1_000_000
        pool = self._pool()
        talk = converse((call,), self._address.place, pool.breaker, urgent=urgent)
        (reply,) = await _hold(talk, pool, deadline)
        answer = tally(reply)
        self._store_clock.learn(answer.now_us, sent_us)
        return answer

    def _time(self) -> str:
        return "" if self._clock is None else str(self._clock())

    def _pool(self) -> _Pool:
        """Give the running loop's connections.

        Connections hold on to their loop, so a weak mapping would keep it for ever; a loop that is closed
        is let go of when the next one comes. A fork's child keeps its parent's connections untouched: to
        close one would take it out of the selector that parent and child share.
        """
        loop = asyncio.get_running_loop()
        if os.getpid() != self._pid:
            self._left_to_parent.append(self._pools)
            self._pools = {}
            self._pid = os.getpid()
        pool = self._pools.get(loop)
        if pool is None:
            for other in [each for each in self._pools if each.is_closed()]:
                self._pools.pop(other, None)
            pool = self._pools[loop] = _Pool(self._address)
        return pool


async def _hold(talk: Talk, pool: _Pool, deadline: float) -> list[object]:
    """Hold a conversation over connections of the loop."""
    try:
        trip = next(talk)
        while True:
            answer: Sequence[object] | Exception
            try:
                answer = await pool.make(trip, deadline)
            except FAILURES as failure:
                answer = failure.with_traceback(None)
            trip = talk.send(answer)
    except StopIteration as end:
        replies: list[object] = end.value
        return replies
    finally:
        talk.close()


def _connect(address: Address) -> AbstractConnection:
    """Make a connection whose waits end with the task's timeout alone."""
    kind = _KINDS[address.transport]
    try:
        connection = kind(socket_timeout=None, socket_connect_timeout=None, **address.options)
    except TypeError as error:
        raise ValueError(f"an option of the store's URL is not known: {error}") from None
    if address.tls is not None and isinstance(connection, SSLConnection):
        connection.ssl_context = address.tls
    return connection


class _Pool:
    """Connections of one event loop: at most so many, the last used first."""

    def __init__(self, address: Address) -> None:
        self.breaker = Breaker()
        self._address = address
        self._idle: list[AbstractConnection] = []
        self._free = asyncio.Semaphore(address.connections)

    async def make(self, trip: Trip, deadline: float) -> Sequence[object]:
        """Make one round trip before `deadline`, of the loop's clock; a connection that failed is closed."""
        admitted = False
        try:
            async with asyncio.timeout_at(deadline), self._free:
                admitted = True
                if trip.fresh:
                    await self.drop()
                connection = self._idle.pop() if self._idle else _connect(self._address)
                try:
                    replies = await _exchange(connection, trip.calls)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._idle.append(connection)
                return replies
        except TimeoutError:
            if admitted:
                raise
        raise Crowded(f"its {self._address.connections} connections are all in use")

    async def drop(self) -> None:
        """Close the connections that are not in use."""
        with suppress(IndexError):
            while True:
                await self._idle.pop().disconnect(nowait=True)


async def _exchange(connection: AbstractConnection, calls: Sequence[Call]) -> list[object]:
    """Send all calls, connecting first if need be, and read all replies; error replies are values."""
    await connection.send_packed_command(connection.pack_commands(calls), check_health=False)
    replies: list[object] = []
    for _ in calls:
        try:
            replies.append(await connection.read_response())
        except ResponseError as refusal:
            replies.append(refusal.with_traceback(None))
    return replies
