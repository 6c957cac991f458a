"""The store in Redis, for callers that may block: `redis_link` has its manners, `meter.lua` its sums."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.exceptions import ResponseError

from meter_mw.stores.cluster_map import is_cluster, read_cluster_url
from meter_mw.stores.port import PATIENCE_US, StoreUnavailable
from meter_mw.stores.redis_link import (
    BATCH,
    FAILURES,
    Address,
    Breaker,
    Crowded,
    StoreClock,
    Transport,
    Trip,
    converse,
    read_url,
    refused,
    unavailable,
    unreached,
)
from meter_mw.stores.redis_protocol import (
    SERVER_CLOCK,
    admit_call,
    closed,
    closing_call,
    pack,
    peek_call,
    tally,
)

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Sequence

    from meter_mw.stores.cluster_store import ClusterStore
    from meter_mw.stores.port import Admit, Charge, Closed, Closing, Tally, TopUp
    from meter_mw.stores.redis_link import Errors, Talk
    from meter_mw.stores.redis_protocol import Call


def open_store(
    url: str, *, connections: int | None = None, clock: Callable[[], int] | None = None
) -> RedisStore | ClusterStore:
    """Open a store by URL: redis, rediss, valkey, valkeys, unix or redis+unix; nothing is connected yet.

    Those of a cluster are redis+cluster, rediss+cluster, valkey+cluster and valkeys+cluster. `clock` replaces
    the server's time, for tests.
    """
    if is_cluster(url):
        from meter_mw.stores.cluster_store import ClusterStore  # noqa: PLC0415 - it is made of these stores

        return ClusterStore(read_cluster_url(url, connections), clock=clock)
    return RedisStore(read_url(url, connections), clock=clock)


class RedisStore:
    """Quota state in Redis; one per process is enough for all threads, and for children that it forks."""

    def __init__(self, address: Address, *, clock: Callable[[], int] | None = None) -> None:
        self._address = address
        self._clock = clock
        self._store_clock = StoreClock()
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
        try:
            return {self._address.place: list(self._pool().make(Trip(tuple(calls)), deadline))}
        except FAILURES as failure:
            return {self._address.place: unavailable(failure, self._address.place)}

    def ask(
        self, calls: Sequence[Call], *, patience_us: int, urgent: bool = True, values: Errors = ()
    ) -> list[object]:
        """Have other commands answered in one round trip, or raise StoreUnavailable; see `converse`."""
        return self._ask(calls, patience_us, urgent=urgent, values=values)

    def _read(self, call: Call, patience_us: int, *, urgent: bool) -> Tally:
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
        talk = converse(calls, self._address.place, pool.breaker, urgent=urgent, values=values)
        return _hold(talk, pool, deadline)

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


def _hold(talk: Talk, pool: _Pool, deadline: float) -> list[object]:
    """Hold a conversation over blocking connections."""
    try:
        trip = next(talk)
        while True:
            answer: Sequence[object] | Exception
            try:
                answer = pool.make(trip, deadline)
            except FAILURES as failure:
                answer = failure.with_traceback(None)
            trip = talk.send(answer)
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
        self._idle: list[_Bounded] = []
        self._free = threading.Semaphore(address.connections)

    def make(self, trip: Trip, deadline: float) -> Sequence[object]:
        """Make one round trip before `deadline`, by the monotonic clock; what failed is closed."""
        if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Crowded(f"its {self._address.connections} connections are all in use")
        try:
            if trip.fresh:
                self.drop()
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            connection.deadline = deadline
            try:
                replies = connection.exchange(trip.calls)
            except BaseException:
                connection.drop()
                raise
            self._idle.append(connection)
            return replies
        finally:
            self._free.release()

    def drop(self) -> None:
        """Close the connections that are not in use."""
        with suppress(IndexError):
            while True:
                self._idle.pop().drop()

    def _connect(self) -> _Bounded:
        options = self._address.options
        if self._address.tls is not None:
            options = {name: value for name, value in options.items() if not name.startswith("ssl_")}
            options["tls"] = self._address.tls.get()
        return _KINDS[self._address.transport](**options)


class _Bounded(AbstractConnection):
    """A connection whose every wait ends at `deadline`: connecting, its handshake, sending, each receive.

    redis-py's timeouts are fixed when the connection is made and hold for one receive each, so a server
    that dribbles outlasts them. Here both timeouts are what is left until the deadline, and the socket asks
    for it anew at each step. This rests on three things that redis-py 6.4 to 8 share: it reads
    `socket_timeout` and `socket_connect_timeout` of itself, `_connect` gives the socket, and the parsers
    ask no more of that than a socket's methods.
    """

    deadline: float | None = None

    def _left(self) -> float | None:
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this call is over")
        return left

    def _keep(self, value: float | None) -> None:
        """Leave the timeouts as they are, whatever redis-py would set."""

    socket_timeout = property(_left, _keep)
    socket_connect_timeout = property(_left, _keep)

    def _connect(self) -> _BoundedSocket:
        sock = super()._connect()  # type: ignore[no-untyped-call,safe-super]  # its siblings have a body
        return _BoundedSocket(self._secured(sock), self._left)

    def _secured(self, sock: socket.socket) -> socket.socket:
        return sock

    def drop(self) -> None:
        """Close it; the next exchange connects anew."""
        self.disconnect()  # type: ignore[no-untyped-call]  # redis-py does not type it

    def exchange(self, calls: Sequence[Call]) -> list[object]:
        """Send all calls, connecting first if need be, and read all replies; error replies are values."""
        if self._sock is None:
            try:
                self.connect()  # type: ignore[no-untyped-call]  # redis-py does not type it
            except FAILURES as failure:
                raise unreached(failure) from None
        self.send_packed_command([pack(calls)], check_health=False)  # type: ignore[no-untyped-call]  # of redis-py
        return [self._reply() for _ in calls]

    def _reply(self) -> object:
        try:
            return self.read_response()
        except ResponseError as refusal:
            return refusal.with_traceback(None)


class _BoundedTcp(_Bounded, Connection):
    """The same over TCP."""


class _BoundedTls(_BoundedTcp):
    """The same over TLS; redis-py's own would load all certificates anew for each connection."""

    def __init__(self, tls: ssl.SSLContext, **options: object) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]  # redis-py does not type it
        self._tls = tls

    def _secured(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(self._left())
        return self._tls.wrap_socket(sock, server_hostname=self.host)


class _BoundedUnix(_Bounded, UnixDomainSocketConnection):
    """The same over a Unix socket."""


_KINDS: dict[Transport, Callable[..., _Bounded]] = {
    Transport.TCP: _BoundedTcp,
    Transport.TLS: _BoundedTls,
    Transport.UNIX: _BoundedUnix,
}


class _BoundedSocket:
    """A socket that asks how long it may wait before each step."""

    def __init__(self, sock: socket.socket, left: Callable[[], float | None]) -> None:
        self._sock = sock
        self._left = left

    def recv_into(self, buffer: bytearray) -> int:
        self._sock.settimeout(self._left())
        return self._sock.recv_into(buffer)

    def recv(self, size: int) -> bytes:
        self._sock.settimeout(self._left())
        return self._sock.recv(size)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(self._left())
            rest = rest[self._sock.send(rest) :]

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)
