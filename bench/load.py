"""A load generator: raw asyncio protocols, keep-alive connections, one request in flight on each.

It writes prepared bytes and reads no more of an answer than its status, its length and whether it has
limit fields, so that one core of it outruns one core of any server here.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

from bench.figures import p99
from bench.workload import HOST, KEYS, PATH

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PATIENCE_S = 300.0
_PAUSE_S = 0.05
_SPREAD_S = 0.002
_DISTURBED_EVERY_S = 1.0


class LoadError(Exception):
    """A server that does not do what it is timed for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Good answers per second; µs of a request; how busy the generator was; the share of other answers.

    A good answer has status 200, and limit fields where the contender sends them.
    """

    per_second: float
    p50_us: float
    p99_us: float
    busy: float
    amiss: float


class _Phase:
    """So many requests, handed out to whichever connection is free."""

    def __init__(self, count: int, *, fields: bool | None, lasts: bool = False) -> None:
        self.left = self.unanswered = count
        self.good = 0
        self.statuses: Counter[bytes] = Counter()
        self.taken: list[int] = []
        self._fields = fields
        self._lasts = lasts
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def lost(self, failure: Exception | None) -> None:
        """Hear that a connection has gone with a request."""
        if self._lasts:
            self._one_less()
        else:
            self.fail(f"a connection was closed: {failure!r}")

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(reason))

    def answered(self, head: bytes, taken: int) -> None:
        status = head[9:12]
        self.statuses[status] += 1
        self.good += status == b"200" and (self._fields in (None, b"ratelimit" in head.lower()))
        self.taken.append(taken)
        self._one_less()

    def _one_less(self) -> None:
        self.unanswered -= 1
        if not self.unanswered and not self.done.done():
            self.done.set_result(None)


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, key: str) -> None:
        self._request = (
            f"GET {PATH} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n"
            f"X-API-Key: {key}\r\n\r\n"
        ).encode()
        self._inbox = b""
        self._begun = 0
        self._waits = False
        self._phase: _Phase | None = None
        self._transport: asyncio.Transport | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def connection_lost(self, failure: Exception | None) -> None:
        if self._phase is not None and self._waits:
            self._phase.lost(failure)
        self.gone.set_result(None)

    def begin(self, phase: _Phase) -> None:
        self._phase = phase
        self._next(phase)

    def end(self) -> None:
        self._phase = None
        if self._transport is not None:
            self._transport.close()

    def _next(self, phase: _Phase) -> None:
        self._waits = phase.take()
        if self._waits and self._transport is not None:
            self._begun = time.perf_counter_ns()
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._inbox += data
        end = self._inbox.find(b"\r\n\r\n")
        phase = self._phase
        if end < 0 or phase is None:
            return
        head = self._inbox[:end]
        whole = _is_whole(head, self._inbox[end + 4 :])
        if whole is None:
            phase.fail(f"an answer has no length: {head!r}")
        elif whole:
            self._inbox = b""
            phase.answered(head, time.perf_counter_ns() - self._begun)
            self._next(phase)


def _is_whole(head: bytes, body: bytes) -> bool | None:
    """Say whether an answer is there to its end; `None` if it does not tell where that is."""
    length = _LENGTH.search(head)
    if length is not None:
        return len(body) >= int(length[1])
    return body.endswith(b"0\r\n\r\n") if b"\r\ntransfer-encoding: chunked" in head.lower() else None


async def _connect(port: int, key: str) -> _Client:
    """Connect, with a pause before, so that each of a server's processes gets some of the connections."""
    await asyncio.sleep(_SPREAD_S)
    return (await asyncio.get_running_loop().create_connection(partial(_Client, key), HOST, port))[1]


async def _leave(clients: list[_Client]) -> None:
    for client in clients:
        client.end()
    await asyncio.gather(*(client.gone for client in clients))


async def _generate(port: int, connections: int, warmup: int, requests: int, *, fields: bool) -> Outcome:
    clients = [await _connect(port, key) for key in (KEYS * (connections // len(KEYS) + 1))[:connections]]
    try:
        await _through(clients, _Phase(warmup, fields=fields))
        begin, busy = time.perf_counter(), time.process_time()
        phase = await _through(clients, _Phase(requests, fields=fields))
        taken, busy = time.perf_counter() - begin, time.process_time() - busy
    finally:
        await _leave(clients)
    if phase.good < requests / 2:
        raise LoadError(f"only {phase.good} of {requests} answers were what they should be")
    return Outcome(
        phase.good / taken,
        statistics.median(phase.taken) / 1_000,
        p99(phase.taken) / 1_000,
        busy / taken,
        1 - phase.good / requests,
    )


async def _through(clients: list[_Client], phase: _Phase) -> _Phase:
    for client in clients:
        client.begin(phase)
    await asyncio.wait_for(phase.done, _PATIENCE_S)
    return phase


def generate(port: int, *, connections: int, warmup: int, requests: int, fields: bool) -> Outcome:
    """Send the warm-up, then time `requests` more on the same connections."""
    return asyncio.run(_generate(port, connections, warmup, requests, fields=fields))


@dataclass(frozen=True, slots=True)
class Hammered:
    """How many answers there were: admitted, refused, and others.

    A request whose connection was lost has none. `before_refusal` is what was admitted before the first
    refusal, where that is known: where requests came one by one by then.
    """

    admitted: int
    refused: int
    others: int
    before_refusal: int | None = None


async def _hammer(
    port: int, key: str, connections: int, requests: int, disturb: Callable[[], None] | None
) -> Hammered:
    phase = _Phase(requests, fields=None, lasts=True)
    clients = [await _connect(port, key) for _ in range(connections)]

    async def last(place: int) -> None:
        """Keep one connection up, whatever happens to the server."""
        while phase.left > 0:
            clients[place].begin(phase)
            await asyncio.shield(clients[place].gone)
            clients[place] = await again()

    async def again() -> _Client:
        while True:
            try:
                return await _connect(port, key)
            except OSError:
                await asyncio.sleep(_PAUSE_S)

    async def disturbing() -> None:
        while disturb is not None:
            await asyncio.sleep(_DISTURBED_EVERY_S)
            disturb()

    tasks = [asyncio.create_task(last(place)) for place in range(connections)]
    tasks.append(asyncio.create_task(disturbing()))
    try:
        await asyncio.wait_for(phase.done, _PATIENCE_S)
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _leave(clients)
    return _told(phase.statuses)


def _told(statuses: Counter[bytes], before_refusal: int | None = None) -> Hammered:
    admitted, refused = statuses[b"200"], statuses[b"429"]
    return Hammered(admitted, refused, statuses.total() - admitted - refused, before_refusal)


def hammer(
    port: int, key: str, *, connections: int, requests: int, disturb: Callable[[], None] | None = None
) -> Hammered:
    """Send `requests` of one key over many connections, which come again where they are lost.

    `disturb` is called now and then, and may do harm to the server.
    """
    return asyncio.run(_hammer(port, key, connections, requests, disturb))


async def _creep(port: int, key: str, connections: int, limit: int) -> Hammered:
    clients = [await _connect(port, key) for _ in range(connections)]
    try:
        phase = await _through(clients, _Phase(limit * 9 // 10, fields=None))
        statuses, turns = phase.statuses, cycle(clients)
        while not statuses[b"429"] and statuses.total() < 2 * limit:
            statuses += (await _through([next(turns)], _Phase(1, fields=None))).statuses
        before = statuses[b"200"]
        statuses += (await _through(clients, _Phase(limit // 10, fields=None))).statuses
    finally:
        await _leave(clients)
    return _told(statuses, before)


def creep(port: int, key: str, *, connections: int, limit: int) -> Hammered:
    """Use nine tenths of a limit at once, then one request after the other until the first is refused.

    Then many try once more. One by one there is no doubt what came before a refusal; the connections take
    turns, so that it is another process each time.
    """
    return asyncio.run(_creep(port, key, connections, limit))
