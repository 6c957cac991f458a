"""Connections that are kept alive, when a limit ends what was on them: no piece is taken for the whole."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING

import pytest
import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

SERVERS = (
    "uvicorn-h11",
    "uvicorn-httptools",
    "hypercorn",
    "gunicorn-sync",
    "gunicorn-gthread",
    "waitress",
    "django-gunicorn",
    "django-uvicorn",
)
WAITING = ("uvicorn-h11", "uvicorn-httptools")
"""The servers that ask a client to go on when the app reads; others do before, and Django reads before us."""

LEFT = 100
"""The bytes of a thousand that are left."""

every_server = pytest.mark.parametrize("name", SERVERS)


class Client:
    """One subject, whose connections are kept alive as far as it is asked."""

    def __init__(self, server: Server, plan: str) -> None:
        self.server = server
        self._fields = (("X-API-Key", f"{plan}.s-{uuid.uuid4().hex}"), ("X-Variant", "redis"))

    def raw(
        self,
        method: str,
        target: str,
        *more: tuple[str, str],
        body: bytes | tuple[bytes, ...] = b"",
        kept: bool = True,
    ) -> bytes:
        return wire.request(method, target, (*self._fields, *more), body, kept=kept)

    def spend(self) -> None:
        raw = self.raw("GET", f"/v1/sized?size={1000 - LEFT}", kept=False)
        assert wire.talk(self.server.port, raw).status == 200


def heard(peer: wire.socket.socket) -> bytes:
    """Read until the server closes the connection; a server that does not is the failure."""
    data = b""
    peer.settimeout(4)
    with contextlib.suppress(ConnectionError):
        while piece := peer.recv(65536):
            data += piece
    return data


@every_server
@pytest.mark.parametrize(
    "target",
    ["/v1/sized?size=500", "/v1/stream?count=50&size=10", "/v1/stream?count=50&size=10&declared=1"],
    ids=["whole", "chunked", "declared"],
)
def test_a_cut_ends_its_connection(name: str, target: str, serve: Callable[[str], Server]) -> None:
    """A kept connection is closed after the last byte that was left, so that nobody waits for more."""
    client = Client(serve(name), "cut")
    client.spend()
    with wire.connect(client.server.port) as peer:
        peer.sendall(client.raw("GET", target) + client.raw("GET", "/v1/items/1"))
        data = heard(peer)
    assert data.count(b"HTTP/1.1 ") == 1
    assert data.partition(b"\r\n\r\n")[2].count(b"x") == LEFT
    assert not data.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("name", [each for each in SERVERS if each != "django-gunicorn"])
def test_a_stopped_upload_is_not_taken_for_a_request(name: str, serve: Callable[[str], Server]) -> None:
    """After a refusal on its way the rest of an upload is read away or the connection closed."""
    client = Client(serve(name), "ingress")
    smuggled = client.raw("GET", "/v1/items/smuggled")
    chunks = (b"u" * 1500, smuggled, b"u" * 70_000)
    with wire.connect(client.server.port) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(client.raw("POST", "/v1/drain", body=chunks))
            peer.sendall(client.raw("GET", "/v1/items/next", kept=False))
        data = heard(peer)
    assert data.startswith(b"HTTP/1.1 413 ")
    assert b"item smuggled" not in data
    assert data.count(b"HTTP/1.1 ") == 1 + data.count(b"item next")


@every_server
def test_a_refused_upload_is_not_taken_for_a_request(name: str, serve: Callable[[str], Server]) -> None:
    """The same where it is refused before it is read."""
    client = Client(serve(name), "ingress")
    body = client.raw("GET", "/v1/items/smuggled") + b"u" * 1500
    with wire.connect(client.server.port) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(client.raw("POST", "/v1/drain", body=body))
            peer.sendall(client.raw("GET", "/v1/items/next", kept=False))
        data = heard(peer)
    assert data.startswith(b"HTTP/1.1 413 ")
    assert b"item smuggled" not in data
    assert data.count(b"HTTP/1.1 ") == 1 + data.count(b"item next")


@pytest.mark.parametrize("name", WAITING)
def test_an_upload_that_does_not_fit_is_not_asked_for(name: str, serve: Callable[[str], Server]) -> None:
    """A client that waits to be told to go on is told that it need not."""
    client = Client(serve(name), "ingress")
    raw = client.raw("POST", "/v1/drain", ("Expect", "100-continue"), kept=False)
    raw = raw.replace(b"Content-Length: 0", b"Content-Length: 5000")
    answer = wire.talk(client.server.port, raw, method="POST")
    assert (answer.status, answer.continued) == (413, False)
