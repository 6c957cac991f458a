"""A load generator: raw asyncio protocols, keep-alive connections, one request in flight on each.

It writes prepared bytes and reads no more of an answer than its status, its length and whether it has
limit fields, so that one core of it outruns one core of any server here.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from functools import partial

from bench.workload import HOST, KEYS, PATH

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PATIENCE_S = 300.0


class LoadError(Exception):
    """A server that does not do what it is timed for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Good answers per second; how busy the generator itself was; the share of answers that were not good.

    A good answer has status 200, and limit fields where the contender sends them.
    """

    per_second: float
    busy: float
    amiss: float


class _Phase:
    """So many requests, handed out to whichever connection is free."""

    def __init__(self, count: int, *, fields: bool) -> None:
        self.left = self.unanswered = count
        self.good = 0
        self._fields = fields
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(reason))

    def answered(self, head: bytes) -> None:
        self.good += head[9:12] == b"200" and (b"ratelimit" in head.lower()) is self._fields
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
        self._phase: _Phase | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def connection_lost(self, failure: Exception | None) -> None:
        if self._phase is not None:
            self._phase.fail(f"a connection was closed: {failure!r}")

    def begin(self, phase: _Phase) -> None:
        self._phase = phase
        self._next(phase)

    def end(self) -> None:
        self._phase = None
        if self._transport is not None:
            self._transport.close()

    def _next(self, phase: _Phase) -> None:
        if phase.take() and self._transport is not None:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._inbox += data
        end = self._inbox.find(b"\r\n\r\n")
        phase = self._phase
        if end < 0 or phase is None:
            return
        head = self._inbox[:end]
        length = _LENGTH.search(head)
        if length is None:
            phase.fail(f"an answer has no length: {head!r}")
        elif len(self._inbox) >= end + 4 + int(length[1]):
            self._inbox = b""
            phase.answered(head)
            self._next(phase)


async def _generate(port: int, connections: int, warmup: int, requests: int, *, fields: bool) -> Outcome:
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(partial(_Client, key), HOST, port))[1]
        for key in (KEYS * (connections // len(KEYS) + 1))[:connections]
    ]
    try:
        await _through(clients, _Phase(warmup, fields=fields))
        begin, busy = time.perf_counter(), time.process_time()
        phase = await _through(clients, _Phase(requests, fields=fields))
        taken, busy = time.perf_counter() - begin, time.process_time() - busy
    finally:
        for client in clients:
            client.end()
    if phase.good < requests / 2:
        raise LoadError(f"only {phase.good} of {requests} answers were what they should be")
    return Outcome(phase.good / taken, busy / taken, 1 - phase.good / requests)


async def _through(clients: list[_Client], phase: _Phase) -> _Phase:
    for client in clients:
        client.begin(phase)
    await asyncio.wait_for(phase.done, _PATIENCE_S)
    return phase


def generate(port: int, *, connections: int, warmup: int, requests: int, fields: bool) -> Outcome:
    """Send the warm-up, then time `requests` more on the same connections."""
    return asyncio.run(_generate(port, connections, warmup, requests, fields=fields))
