"""Bytes are what crossed the wire, in every shape that a transfer can have."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import harness
import pytest
import wire
from starlette.responses import FileResponse

from apps import subject
from meter_mw.asgi import MeterMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from servers import Server

ASGI = ("uvicorn-h11", "uvicorn-httptools", "hypercorn", "uvicorn-fastapi")
FLASK = ("gunicorn-sync", "gunicorn-gthread", "waitress")
DJANGO = ("django-gunicorn", "django-uvicorn")
ALL = (*ASGI, *FLASK, *DJANGO)
MEGABYTE = 1_000_000
BUFFERS = 8 * MEGABYTE
"""What the kernel, the server and the last chunk may hold of a body that its client leaves."""

every_server = pytest.mark.parametrize("name", ALL)


class Client:
    """One subject at one server."""

    def __init__(self, server: Server, variant: str = "main") -> None:
        self.server = server
        self.variant = variant
        self.subject = f"s-{uuid.uuid4().hex}"
        self.fields = [("X-API-Key", f"free.{self.subject}"), ("X-Variant", variant)]

    def ask(
        self,
        target: str,
        *fields: tuple[str, str],
        method: str = "GET",
        body: bytes | tuple[bytes, ...] = b"",
        leave_after: int | None = None,
    ) -> wire.Answer:
        raw = wire.request(method, target, [*self.fields, *fields], body)
        return wire.talk(self.server.port, raw, method=method, leave_after=leave_after)

    def counted(self) -> tuple[int, int, int]:
        """Give status, request bytes and response bytes of the one event of this subject."""
        (event,) = self.server.events_of(self.subject, 1, self.variant)
        data = event["data"]
        return data["status"], data["request_bytes"], data["response_bytes"]  # type: ignore[index]


@pytest.fixture
def client(name: str, serve: Callable[[str], Server]) -> Client:
    return Client(serve(name))


@every_server
@pytest.mark.parametrize("size", [0, 1, 1_000, 1_000_000])
def test_a_plain_body(client: Client, size: int) -> None:
    """A body that is sent whole counts its length, none included."""
    answer = client.ask(f"/v1/sized?size={size}")
    assert (answer.whole, answer.received) == (True, size)
    assert client.counted() == (200, 0, size)


@every_server
def test_head(client: Client) -> None:
    """A HEAD keeps the Content-Length of its GET and counts nothing."""
    answer = client.ask("/v1/sized?size=1000", method="HEAD")
    assert (answer.get("Content-Length"), answer.received) == ("1000", 0)
    assert client.counted() == (200, 0, 0)


@every_server
@pytest.mark.parametrize(("target", "status"), [("/v1/empty", 204), ("/v1/same", 304)])
def test_without_content(client: Client, target: str, status: int) -> None:
    """204 and 304 have no body to count."""
    answer = client.ask(target)
    assert (answer.status, answer.whole, answer.received) == (status, True, 0)
    assert client.counted() == (status, 0, 0)


@every_server
def test_a_range(client: Client) -> None:
    """A part of a file counts as that part; Django sends the whole."""
    answer = client.ask("/v1/file", ("Range", "bytes=100-299"))
    status, size = (200, subject.FILE_SIZE) if client.server.name in DJANGO else (206, 200)
    assert (answer.status, answer.received) == (status, size)
    assert client.counted() == (status, 0, size)


@every_server
@pytest.mark.parametrize("target", ["/v1/chunked", "/v1/file"])
def test_a_streamed_body(client: Client, target: str) -> None:
    """A body in chunks and a file are counted and delivered whole."""
    answer = client.ask(target)
    assert answer.whole
    assert answer.received == (subject.FILE_SIZE if target == "/v1/file" else sum(map(len, subject.CHUNKS)))
    assert client.counted() == (200, 0, answer.received)


@every_server
def test_an_upload(client: Client) -> None:
    """A body with a declared length counts as the app read it."""
    body = b"u" * 300_000
    assert client.ask("/v1/echo", method="POST", body=body).body == body
    assert client.counted() == (200, len(body), len(body))


@every_server
def test_a_chunked_upload(client: Client) -> None:
    """A chunked request counts its content, not its framing; Django under WSGI never reads one."""
    chunks = (b"a" * 1000, b"b" * 2000, b"c")
    answer = client.ask("/v1/echo", method="POST", body=chunks)
    expected = b"" if client.server.name == "django-gunicorn" else b"".join(chunks)
    assert answer.body == expected
    assert client.counted() == (200, len(expected), len(expected))


@every_server
def test_an_unread_upload(client: Client) -> None:
    """What the app never reads does not count; Django under ASGI reads all of it beforehand."""
    body = b"u" * 10_000
    assert client.ask("/v1/unread", method="POST", body=body).body == b"unread"
    assert client.counted() == (200, len(body) if client.server.name == "django-uvicorn" else 0, 6)


@pytest.mark.parametrize("name", [*ASGI, "gunicorn-sync", "gunicorn-gthread", "django-gunicorn"])
def test_expect_continue_never_read(client: Client) -> None:
    """An announced body that nobody asks for is neither sent nor counted."""
    raw = wire.request("POST", "/v1/unread", [*client.fields, ("Expect", "100-continue")])
    raw = raw.replace(b"Content-Length: 0", b"Content-Length: 500")
    answer = wire.talk(client.server.port, raw, method="POST")
    assert (answer.status, answer.body) == (200, b"unread")
    assert client.counted() == (200, 0, 6)


@every_server
def test_more_than_declared(client: Client) -> None:
    """A body beyond its Content-Length counts to that length; servers that refuse it send less."""
    answer = client.ask("/v1/lying?declared=5&sent=10")
    _, _, counted = client.counted()
    assert counted == 5
    assert answer.received in ((0, 5) if client.server.name in (*ASGI, "django-uvicorn") else (5,))


@every_server
def test_less_than_declared(client: Client) -> None:
    """A body short of its Content-Length counts what was sent."""
    answer = client.ask("/v1/lying?declared=10&sent=5")
    assert (answer.whole, answer.received) == (False, 5)
    assert client.counted() == (200, 0, 5)


@pytest.mark.parametrize("name", [*ASGI, "gunicorn-sync", "gunicorn-gthread", "django-gunicorn"])
def test_an_upload_cut_short(client: Client) -> None:
    """An upload that its client breaks off counts to the byte."""
    raw = wire.request("POST", "/v1/echo", client.fields, b"u" * MEGABYTE)
    head = raw.index(b"\r\n\r\n") + 4
    with wire.connect(client.server.port) as peer:
        peer.sendall(raw[: head + 300_000])
    # Starlette answers 500 for nobody to hear; gunicorn gives an app what has come as if it were all.
    status = 500 if client.server.name in ASGI else 200
    assert client.counted()[:2] == (status, 300_000)


BIG_DOWNLOADS = [
    *((name, target) for name in (*ASGI, *FLASK, *DJANGO) for target in ("/v1/big", "/v1/big-file")),
    *((name, "/v1/raw/") for name in ASGI),
]


@pytest.mark.parametrize(("name", "target"), BIG_DOWNLOADS)
def test_a_download_cut_short(
    client: Client, target: str, record_property: Callable[[str, object], None]
) -> None:
    """A client that leaves after 1 MB of 100 MB is counted what it received and what the buffers held."""
    answer = client.ask(target, leave_after=MEGABYTE)
    _, _, counted = client.counted()
    print(f"CUT {client.server.name:18} {target:12} received {answer.received:>9} counted {counted:>9}")
    record_property("received", answer.received)
    record_property("counted", counted)
    # waitress takes 16 MiB ahead of its client before it makes the app wait.
    assert (
        answer.received
        <= counted
        <= answer.received + BUFFERS + (17 << 20 if "waitress" in client.server.name else 0)
    )


@every_server
@pytest.mark.timed
def test_server_sent_events(client: Client) -> None:
    """Each event of a stream arrives alone and when it is sent, not when the stream ends."""
    answer = client.ask("/v1/sse")
    assert [piece for _, piece in answer.pieces] == list(subject.EVENTS)
    times = [elapsed for elapsed, _ in answer.pieces]
    assert times[0] < subject.EVENT_GAP
    assert all(later - earlier > subject.EVENT_GAP / 2 for earlier, later in itertools.pairwise(times))
    assert client.counted() == (200, 0, answer.received)


@every_server
def test_gzip_inside(name: str, serve: Callable[[str], Server]) -> None:
    """Compression inside of the meter: compressed bytes are what crosses it."""
    client = Client(serve(name), "gzip-inside")
    answer = client.ask("/v1/sized?size=1000", ("Accept-Encoding", "gzip"))
    assert gzip.decompress(answer.body) == b"x" * 1000
    assert client.counted() == (200, 0, answer.received)


@every_server
def test_gzip_outside(name: str, serve: Callable[[str], Server]) -> None:
    """Compression outside of the meter: it counts what the app sent."""
    client = Client(serve(name), "gzip-outside")
    answer = client.ask("/v1/sized?size=1000", ("Accept-Encoding", "gzip"))
    assert answer.received < 1000
    assert client.counted() == (200, 0, 1000)


def test_pathsend(edge_policy: harness.EdgePolicy, tmp_path: Path) -> None:
    """A file that the server is to send itself is passed on as it is, and counted by its size."""
    path = tmp_path / "sent"
    path.write_bytes(b"x" * 12_345)
    app = MeterMiddleware(FileResponse(path), policy=edge_policy.path)
    sent = asyncio.run(harness.call(app, extensions={"http.response.pathsend": {}}))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.pathsend"]
    assert sent[1] == {"type": "http.response.pathsend", "path": str(path)}
    (event,) = edge_policy.events(app.meter)
    assert event["data"]["response_bytes"] == 12_345


@pytest.mark.parametrize(
    ("part", "size"),
    [({}, 12_300), ({"offset": 345}, 12_000), ({"count": 100}, 100), ({"count": 99_999}, 12_300)],
)
def test_zerocopysend(
    edge_policy: harness.EdgePolicy, tmp_path: Path, part: dict[str, int], size: int
) -> None:
    """A file descriptor that the server is to copy from counts the bytes that are left of it."""
    path = tmp_path / "sent"
    path.write_bytes(b"x" * 12_345)

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        with path.open("rb", buffering=0) as file:
            file.seek(45, io.SEEK_SET)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.zerocopysend", "file": file, **part})

    app = MeterMiddleware(raw, policy=edge_policy.path)
    asyncio.run(harness.call(app))
    (event,) = edge_policy.events(app.meter)
    assert event["data"]["response_bytes"] == size
