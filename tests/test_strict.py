"""Strict durability: by the last byte the event is on the disk, at every edge; or there is no last byte."""

from __future__ import annotations

import asyncio
import errno
import io
import threading
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse, StreamingHttpResponse
from werkzeug.test import EnvironBuilder

import meter_mw.asgi
import meter_mw.django
import meter_mw.wsgi
from meter_mw.journal import NotDurable, read_journal
from meter_mw.policy.delivery import Durability, EventRules, OnFull
from support.policies import policy, rate
from support.powercut import Platter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from django.http.response import HttpResponseBase
    from starlette.types import Message, Receive, Scope, Send

    from meter_mw.meter import Meter
    from meter_mw.policy.policy import Policy

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"])

CHUNKS = [b"first", b"last"]
LENGTH = str(sum(map(len, CHUNKS)))


class Edge:
    """One edge with a small app; `ask` gives the chunks of its response, or raises as its server sees it."""

    def __init__(self, rules: Policy, *, declares: bool) -> None:
        self.declares = declares
        self.fields = [("Content-Length", LENGTH)] if declares else []
        self.meter = self.open(rules)

    def open(self, rules: Policy) -> Meter:
        raise NotImplementedError

    def ask(self, last: Callable[[], None]) -> list[bytes]:
        """Ask once; `last` is called when the client is handed the last byte."""
        raise NotImplementedError


class Asgi(Edge):
    def open(self, rules: Policy) -> Meter:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            fields = [(name.lower().encode(), value.encode()) for name, value in self.fields]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            for chunk in CHUNKS:
                await send(
                    {"type": "http.response.body", "body": chunk, "more_body": chunk is not CHUNKS[-1]}
                )

        self.middleware = meter_mw.asgi.MeterMiddleware(app, rules)
        return self.middleware.meter

    def ask(self, last: Callable[[], None]) -> list[bytes]:
        return asyncio.run(self.aask(last))

    async def aask(self, last: Callable[[], None]) -> list[bytes]:
        got: list[bytes] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                got.append(message["body"])
                if not message["more_body"]:
                    last()

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b""}
        scope |= {"headers": [], "client": ("192.0.2.7", 1), "http_version": "1.1", "scheme": "http"}
        await self.middleware(scope, receive, send)
        return got


class Wsgi(Edge):
    def open(self, rules: Policy) -> Meter:
        def app(environ: object, start_response: Callable[..., object]) -> Iterator[bytes]:
            start_response("200 OK", self.fields)
            return iter(CHUNKS)

        self.middleware = meter_mw.wsgi.MeterMiddleware(app, rules)
        return self.middleware.meter

    def ask(self, last: Callable[[], None]) -> list[bytes]:
        environ = EnvironBuilder("/").get_environ()
        return _handed(self.middleware(environ, lambda *_: None), last, declares=self.declares)


class Django(Edge):
    def open(self, rules: Policy) -> Meter:
        settings.METER_POLICY = rules
        self.middleware = meter_mw.django.MeterMiddleware(self.view)
        return self.middleware.meter

    def view(self, request: object) -> HttpResponseBase:
        whole = HttpResponse(b"".join(CHUNKS))
        return whole if self.declares else StreamingHttpResponse(iter(CHUNKS))

    def ask(self, last: Callable[[], None]) -> list[bytes]:
        response = self.middleware(WSGIRequest(EnvironBuilder("/").get_environ()))
        return _handed(response, last, declares=self.declares)


class AsyncDjango(Django):
    def open(self, rules: Policy) -> Meter:
        async def view(request: object) -> HttpResponseBase:
            async def chunks() -> AsyncIterator[bytes]:
                for chunk in CHUNKS:
                    yield chunk

            return self.view(request) if self.declares else StreamingHttpResponse(chunks())

        settings.METER_POLICY = rules
        self.middleware = meter_mw.django.MeterMiddleware(view)
        return self.middleware.meter

    def ask(self, last: Callable[[], None]) -> list[bytes]:
        async def asked() -> list[bytes]:
            scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
            answer = self.middleware(ASGIRequest(scope, io.BytesIO()))
            assert isinstance(answer, Awaitable)
            response = await answer
            got = [chunk async for chunk in response] if response.streaming else [response.content]
            last()
            return got

        return asyncio.run(asked())


def _handed(chunks: object, last: Callable[[], None], *, declares: bool) -> list[bytes]:
    """Take chunks as a server does: by the one that makes a declared length whole, or at the end."""
    got: list[bytes] = []
    for chunk in chunks:  # type: ignore[attr-defined]
        got.append(chunk)
        if declares and sum(map(len, got)) == int(LENGTH):
            last()
    if not declares:
        last()
    return got


EDGES = pytest.mark.parametrize(
    ("edge", "declares"),
    [(edge, declares) for edge in (Asgi, Wsgi, Django, AsyncDjango) for declares in (True, False)],
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "disk"
    root.mkdir()
    return root


@pytest.fixture
def platter(root: Path, monkeypatch: pytest.MonkeyPatch) -> Platter:
    return Platter(monkeypatch, root)


def rules(root: Path, durability: Durability = Durability.STRICT, on_full: OnFull = OnFull.DENY) -> Policy:
    journal = root / "meter"
    return replace(policy(rate(1000)), events=EventRules(journal, (), durability=durability, on_full=on_full))


@EDGES
def test_the_event_is_on_the_disk_by_the_last_byte(
    edge: type[Edge], declares: bool, root: Path, tmp_path: Path, platter: Platter
) -> None:
    """A power cut at the moment in which the client has all leaves the event in the journal."""
    it, turns = edge(rules(root), declares=declares), iter(range(3))

    def last() -> None:
        turn = next(turns)
        platter.cut(tmp_path / f"left-{turn}")
        assert len(list(read_journal(tmp_path / f"left-{turn}" / "meter"))) == turn + 1

    for _ in range(3):
        assert b"".join(it.ask(last)) == b"".join(CHUNKS)
    assert next(turns, None) is None
    it.meter.close()


@EDGES
@pytest.mark.parametrize("durability", list(Durability))
def test_who_waits_for_the_disk(
    edge: type[Edge], declares: bool, durability: Durability, root: Path, platter: Platter
) -> None:
    """While the disk hangs, a strict response does not end; a standard one does."""
    syncing, go_on, done = threading.Event(), threading.Event(), threading.Event()
    platter.before_sync = lambda: (syncing.set(), go_on.wait(30))
    it = edge(rules(root, durability), declares=declares)
    asking = threading.Thread(target=it.ask, args=(done.set,))
    asking.start()
    assert syncing.wait(30)
    if durability is Durability.STANDARD:
        assert done.wait(30)
    assert done.wait(0.05) is (durability is Durability.STANDARD)
    go_on.set()
    assert done.wait(30)
    asking.join()
    it.meter.close()


def test_those_who_wait_share_a_sync(root: Path, platter: Platter) -> None:
    """A hundred requests at once need a few syncs."""
    it = Asgi(rules(root), declares=True)

    async def all_() -> None:
        await asyncio.gather(*(it.aask(lambda: None) for _ in range(100)))

    asyncio.run(all_())
    assert 1 <= platter.syncs <= 30
    it.meter.close()


@EDGES
def test_without_the_disk_no_response_is_whole(
    edge: type[Edge], declares: bool, root: Path, platter: Platter
) -> None:
    """It breaks off, or is an error; where the policy counts what it cannot record, it is served."""
    ended: list[str] = []

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    platter.before_sync = fail
    it = edge(rules(root), declares=declares)
    try:
        assert b"".join(it.ask(lambda: ended.append("whole"))) != b"".join(CHUNKS)
    except NotDurable:
        ended.append("error")
    assert "whole" not in ended
    it.meter.close()
    it = edge(rules(root, on_full=OnFull.COUNT), declares=declares)
    assert b"".join(it.ask(lambda: ended.append("whole"))) == b"".join(CHUNKS)
    assert ended[-1] == "whole"
    it.meter.close()
