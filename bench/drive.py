"""Drives an app in process, with raw scopes or environs and no server."""

from __future__ import annotations

import asyncio
import io
import sys
import time
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

from bench.workload import HOST, KEYS, PATH

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Scope

    from bench.contenders import Contender, Edge

WIDTH = 64
"""How many requests are in flight when CPU time is measured."""


class Driver(Protocol):
    """One app, driven."""

    answered: list[tuple[int, bool]]
    """The answers so far: their status, and whether they had limit fields."""

    async def one(self, key: str) -> int:
        """Make one request and give the nanoseconds that it took."""
        ...

    async def crowd(self, count: int) -> None:
        """Make `count` requests, as many at a time as the app's kind allows in one thread."""
        ...


class AsgiDriver:
    """Calls an ASGI app in the running loop."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.answered: list[tuple[int, bool]] = []

    async def one(self, key: str) -> int:
        """Make one request and give the nanoseconds that it took."""
        scope = _scope(key)
        parts: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            parts.append(message)

        begin = time.perf_counter_ns()
        await self._app(scope, receive, send)
        taken = time.perf_counter_ns() - begin
        names = (name.lower() for name, _ in parts[0]["headers"])
        self.answered.append((parts[0]["status"], any(b"ratelimit" in name for name in names)))
        return taken

    async def crowd(self, count: int) -> None:
        """Make `count` requests, 64 at a time."""
        await _crowd(self, count)


def _scope(key: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", HOST.encode()),
            (b"user-agent", b"bench"),
            (b"accept", b"*/*"),
            (b"x-api-key", key.encode()),
        ],
        "client": (HOST, 50_000),
        "server": (HOST, 80),
        "state": {},
    }


class WsgiDriver:
    """Calls a WSGI app; one request at a time."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.answered: list[tuple[int, bool]] = []

    async def one(self, key: str) -> int:
        """Make one request and give the nanoseconds that it took."""
        return self._one(key)

    def _one(self, key: str) -> int:
        environ = _environ(key)
        heads: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> object:
            heads.append((status, headers))
            return lambda _: None

        begin = time.perf_counter_ns()
        body = self._app(environ, start_response)
        b"".join(body)
        close = getattr(body, "close", None)
        if close is not None:
            close()
        taken = time.perf_counter_ns() - begin
        status, headers = heads[-1]
        self.answered.append((int(status[:3]), any("ratelimit" in name.lower() for name, _ in headers)))
        return taken

    async def crowd(self, count: int) -> None:
        """Make `count` requests, one at a time."""
        for _, key in zip(range(count), cycle(KEYS), strict=False):
            self._one(key)


def _environ(key: str) -> dict[str, object]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": PATH,
        "QUERY_STRING": "",
        "SERVER_NAME": HOST,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": HOST,
        "HTTP_HOST": HOST,
        "HTTP_USER_AGENT": "bench",
        "HTTP_ACCEPT": "*/*",
        "HTTP_X_API_KEY": key,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


class CallDriver:
    """Calls what is no app: it takes a key and says whether that may pass."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.answered: list[tuple[int, bool]] = []

    async def one(self, key: str) -> int:
        """Make one call and give the nanoseconds that it took."""
        begin = time.perf_counter_ns()
        passes = self._call(key)
        taken = time.perf_counter_ns() - begin
        self.answered.append((200 if passes else 429, False))
        return taken

    async def crowd(self, count: int) -> None:
        """Make `count` calls, one at a time."""
        for _, key in zip(range(count), cycle(KEYS), strict=False):
            await self.one(key)


class AsyncCallDriver:
    """Awaits what is no app: it takes a key and says whether that may pass."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.answered: list[tuple[int, bool]] = []

    async def one(self, key: str) -> int:
        """Make one call and give the nanoseconds that it took."""
        begin = time.perf_counter_ns()
        passes = await self._call(key)
        taken = time.perf_counter_ns() - begin
        self.answered.append((200 if passes else 429, False))
        return taken

    async def crowd(self, count: int) -> None:
        """Make `count` calls, 64 at a time."""
        await _crowd(self, count)


async def _crowd(driver: Driver, count: int) -> None:
    async def many(key: str) -> None:
        for _ in range(count // WIDTH):
            await driver.one(key)
            await asyncio.sleep(0)  # as a server has its other connections between two requests

    await asyncio.gather(*(many(key) for key in KEYS[:WIDTH]))


_DRIVERS: dict[Edge, Callable[[Any], Driver]] = {
    "asgi": AsgiDriver,
    "wsgi": WsgiDriver,
    "async call": AsyncCallDriver,
    "call": CallDriver,
}


def driver(contender: Contender, app: Any) -> Driver:
    """Give the driver for a contender's app."""
    return _DRIVERS[contender.edge](app)
