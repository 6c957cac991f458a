"""No spelling of a request reaches a handler without being charged to that handler's route."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
import wire

from servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

SERVERS = (
    "uvicorn-h11",
    "uvicorn-httptools",
    "uvicorn-fastapi",
    "hypercorn",
    "gunicorn-gthread",
    "waitress",
    "django-gunicorn",
    "django-uvicorn",
)

ROUTES = {
    "health": None,
    "items": "items",
    "chat": "chat",
    "search": "search",
    "upload": "files",
    "elsewhere": "<unmatched>",
    "umlaut": "umlaut",
}
"""The route that each endpoint is charged to; all others are `v1`, and `health` is exempt."""

TARGETS = (
    b"/v1/chat",
    b"//v1/chat",
    b"/v1//chat",
    b"///v1///chat//",
    b"/v1%2Fchat",
    b"/v1%2fchat",
    b"/%76%31/chat",
    b"/v1/%63hat",
    b"/v1/chat%0a",
    b"/v1/chat%0d%0a",
    b"/v1/chat%00",
    b"/v1/chat%20",
    b"/v1/chat%2f",
    b"/v1/chat/",
    b"/v1/chat//",
    b"/v1/./chat",
    b"/v1/chat/.",
    b"/v1/x/../chat",
    b"/v1/%2e/chat",
    b"/v1/x/%2e%2e/chat",
    b"/health/../v1/chat",
    b"/health/%2e%2e/v1/chat",
    b"/health%2f..%2fv1/chat",
    b"/health/..;/v1/chat",
    b"/v1/chat/../../health",
    b"/v1/chat/%2e%2e/%2e%2e/health",
    b"http://subject/v1/chat",
    b"http://evil/v1/chat",
    b"http://subject//v1/chat",
    b"http://subject/health#/v1/chat",
    b"/v1/chat#f",
    b"/health#/../v1/chat",
    b"/v1/chat;x",
    b"/v1/chat;x=1/",
    b"/v1/chat?",
    b"/v1/chat?x=/health",
    b"/v1\\chat",
    b"/v1/%5cchat",
    b"\\v1\\chat",
    b"/V1/chat",
    b"/v1/CHAT",
    b"/v1/ch%c3%a4t",
    b"/v1/ch%e4t",
    b"/v1/chat%ff",
    b"/v1/items/a%2fb",
    b"/v1/items/..%2fchat",
    b"/v1/items/%2e%2e",
    b"/v1/items/x%0a",
    b"/elsewhere",
    b"//elsewhere",
    b"*",
    b"v1/chat",
    b"//subject/v1/chat",
)

METHODS = (b"HEAD", b"FOO", b"get", b"Get", b"POST", b"OPTIONS", b"DELETE", b"PRI")

KEYS = {
    "two": b"X-API-Key: {key}\r\nX-API-Key: {key}\r\n",
    "two different": b"X-API-Key: {key}\r\nX-API-Key: other\r\n",
    "in two cases": b"X-API-Key: {key}\r\nx-api-key: other\r\n",
    "comma": b"X-API-Key: {key}, other\r\n",
    "underscores": b"X_API_Key: {key}\r\n",
    "both spellings": b"X-API-Key: {key}\r\nX_API_Key: other\r\n",
    "white space around": b"X-API-Key: \t {key} \t \r\n",
    "white space before the colon": b"X-API-Key : {key}\r\n",
    "bare line feed": b"X-API-Key: {key}\nX-Other: 1\r\n",
    "line feed and a key": b"X-Other: 1\nX-API-Key: {key}\r\n",
    "carriage return": b"X-API-Key: {key}\rother\r\n",
    "obs-fold": b"X-API-Key: {key}\r\n other\r\n",
    "null": b"X-API-Key: {key}\x00\r\n",
    "beyond ASCII": b"X-API-Key: {key}\xe9\r\n",
    "too long": b"X-API-Key: " + b"k" * 600 + b"\r\n",
    "header and bearer": b"X-API-Key: {key}\r\nAuthorization: Bearer other\r\n",
    "bearer twice": b"Authorization: Bearer {key}\r\nAuthorization: Bearer other\r\n",
    "bearer in lower case": b"authorization: bearer {key}\r\n",
}

FRAMING = {
    "length and chunked": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "two different lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "lengths in a list": b"Content-Length: 5,5\r\n\r\nabcde",
    "a signed length": b"Content-Length: +5\r\n\r\nabcde",
    "chunks that end badly": b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXX0\r\n\r\n",
    "chunked, oddly spelt": b"Transfer-Encoding: xchunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
}

AMBIGUOUS = ("two", "two different", "in two cases", "comma", "beyond ASCII", "too long", "bearer twice")
"""Keys that no server may let through to a handler."""


class Watch:
    """What handlers and sink of a server say of one request."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.subject = f"s-{uuid.uuid4().hex}"
        self.key = f"free.{self.subject}".encode()
        self._ran = len(self._ours(server.ledger()))
        self._events = len(self._ours(server.events("spellings")))

    def ask(self, method: bytes, target: bytes, rest: bytes) -> wire.Answer:
        head = b"%b %b HTTP/1.1\r\nHost: subject\r\nConnection: close\r\nX-Variant: spellings\r\n" % (
            method,
            target,
        )
        raw = head + rest.replace(b"{key}", self.key)
        return wire.talk(self.server.port, raw, method=method.decode().upper())

    def check(self, answer: wire.Answer) -> list[dict[str, object]]:
        """Hold the invariant, and give the events."""
        runs = self._ours(self.server.ledger())[self._ran :]
        assert "left behind" not in {each["endpoint"] for each in self.server.ledger()}
        charged = [each for each in runs if each["endpoint"] != "health"]
        wait_for(lambda: len(self._new()) >= len(charged), f"{len(charged)} events, ran {runs}")
        events = self._new()
        if runs:
            assert len(runs) == 1
            assert [event["data"]["route"] for event in events] == [  # type: ignore[index]
                ROUTES.get(str(each["endpoint"]), "v1") for each in charged
            ]
        else:
            # No handler of ours: the server or the framework answered, if with 200 then to OPTIONS.
            assert len(events) <= 1
            assert answer.status in (0, 307, 308, 501) or 400 <= answer.status < 500 or answer.get("Allow"), (
                answer
            )
        return events

    def _ours(self, entries: list[dict[str, object]]) -> list[dict[str, object]]:
        """Give the entries that are not another test's: those may still be on their way."""
        return [
            each
            for each in entries
            if each["subject"] == self.subject or not str(each["subject"]).startswith("s-")
        ]

    def _new(self) -> list[dict[str, object]]:
        return self._ours(self.server.events("spellings"))[self._events :]

    @property
    def ran(self) -> bool:
        return len(self._ours(self.server.ledger())) > self._ran


@pytest.fixture
def watch(name: str, serve: Callable[[str], Server]) -> Watch:
    return Watch(serve(name))


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.decode("latin-1"))
def test_a_target(watch: Watch, target: bytes) -> None:
    """However the path is spelt, the handler that ran is the route that was charged."""
    answer = watch.ask(b"GET", target, b"X-API-Key: {key}\r\n\r\n")
    events = watch.check(answer)
    assert all(event["subject"] == watch.subject for event in events)
    if target == b"/v1/chat":
        assert (answer.status, len(events)) == (200, 1)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("method", METHODS, ids=bytes.decode)
def test_a_method(watch: Watch, method: bytes) -> None:
    """However the method is spelt, likewise."""
    answer = watch.ask(method, b"/v1/chat", b"X-API-Key: {key}\r\nContent-Length: 0\r\n\r\n")
    watch.check(answer)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("spelling", KEYS)
def test_a_key(watch: Watch, spelling: str) -> None:
    """However the key is spelt, the request is charged to its one key, to its address, or refused."""
    answer = watch.ask(b"GET", b"/v1/chat", KEYS[spelling] + b"\r\n")
    events = watch.check(answer)
    if spelling in AMBIGUOUS:
        assert not watch.ran
        assert (answer.status, events) == (400, [])
    for event in events:
        assert event["subject"] == watch.subject or str(event["subject"]).startswith("anon_")


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("framing", FRAMING)
def test_a_framing(watch: Watch, framing: str) -> None:
    """However a body is framed, it is one request and counts what the app read."""
    answer = watch.ask(b"POST", b"/v1/echo", b"X-API-Key: {key}\r\n" + FRAMING[framing])
    for event in watch.check(answer):
        if answer.status == 200:
            assert event["data"]["request_bytes"] == len(answer.body)  # type: ignore[index]
