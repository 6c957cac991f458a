"""Servers in miniature, in this process: they speak ASGI and WSGI by the letter, and check what they hear."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.journal import Position
from meter_mw.journal.reading import read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from wsgiref.types import WSGIApplication, WSGIEnvironment

    from starlette.types import ASGIApp, Message, Scope

    from meter_mw.meter import Meter


def has_recorded(meter: Meter) -> bool:
    """Say whether an event of this process is in its journal."""
    tail = meter._journal.tail()
    return tail is not None and bool(read_run(tail[0].path, Position(0, 0), tail[1], count=1, size=1).entries)


KEY = (b"x-api-key", b"free.someone")


@dataclass(frozen=True)
class EdgePolicy:
    """A policy file of the subject, and the events that a meter made by it."""

    path: Path
    sink: Path

    def events(self, meter: Meter) -> list[dict[str, object]]:
        """Have the meter deliver, and give what arrived."""
        assert meter.flush()
        return [json.loads(line) for line in self.sink.read_text().splitlines()] if self.sink.exists() else []


def http_scope(method: str = "GET", path: str = "/v1/items/1", **changes: object) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"subject"), KEY],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
        "extensions": {},
        **changes,
    }


class Checked:
    """The server's end of one ASGI exchange; a message out of turn fails the test.

    `crossings` counts the calls of receive while another one waits: two tasks would steal each other's
    messages. `leaves_after` gives the number of body messages after which the client is gone.
    """

    def __init__(self, incoming: Iterable[Message] = (), leaves_after: int | None = None) -> None:
        self.sent: list[Message] = []
        self.received = self.crossings = 0
        self.gone = asyncio.Event()
        self._incoming = list(incoming) or [{"type": "http.request", "body": b"", "more_body": False}]
        self._leaves_after = leaves_after
        self._started = self._ended = self._receiving = False

    async def receive(self) -> Message:
        self.crossings += self._receiving
        self.received += 1
        if self._incoming:
            return self._incoming.pop(0)
        self._receiving = True
        try:
            await self.gone.wait()
        finally:
            self._receiving = False
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            assert not self._started, "a second http.response.start"
            assert isinstance(message["status"], int)
            for name, value in message.get("headers", ()):
                assert isinstance(name, bytes)
                assert isinstance(value, bytes)
                assert name == name.lower(), f"{name!r} is not in lower case"
            self._started = True
        else:
            assert self._started, f"{kind} before http.response.start"
            assert not self._ended, f"{kind} after the end"
            self._ended = not message.get("more_body", False)
        self.sent.append(message)
        bodies = sum(each["type"] == "http.response.body" for each in self.sent)
        if self._ended or (self._leaves_after is not None and bodies >= self._leaves_after):
            self.gone.set()
        await asyncio.sleep(0)


async def call(app: ASGIApp, *, incoming: Iterable[Message] = (), **scope: object) -> list[Message]:
    """Serve one request, and give what the app sent."""
    server = Checked(incoming)
    await app(http_scope(**scope), server.receive, server.send)  # type: ignore[arg-type]
    return server.sent


def environ(
    method: str = "GET", path: str = "/v1/items/1", body: bytes = b"", **changes: object
) -> WSGIEnvironment:
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": "subject",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "subject",
        "HTTP_X_API_KEY": "free.someone",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **changes,
    }


class Gateway:
    """The server's end of one WSGI exchange (PEP 3333)."""

    def __init__(self) -> None:
        self.started: list[tuple[str, list[tuple[str, str]]]] = []
        self.written: list[bytes] = []

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: object = None
    ) -> Callable[[bytes], object]:
        assert exc_info is not None or not self.started, "start_response twice without exc_info"
        self.started.append((status, headers))
        return self.written.append

    def serve(self, app: WSGIApplication, env: WSGIEnvironment) -> list[bytes]:
        """Call, iterate and close, as servers do."""
        body = app(env, self.start_response)
        try:
            chunks = list(body)
            assert self.started, "no start_response"
            return chunks
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
