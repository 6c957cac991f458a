"""What is held by those who vanish, comes back: workers that are killed, and clients that leave at random."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import signal
import time
import uuid
from typing import TYPE_CHECKING

import pytest
import wire

import servers
from servers import wait_for
from support.servers import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

pytestmark = pytest.mark.lengthy

LEASE = 2.0
"""Seconds: two checkpoints."""

SLACK = 2.0
"""Seconds that a busy machine takes to tell."""

CAP = 1_000_000_000
RESERVE = 1_000_000
SLOW = "/v1/stream?count=1000&size=1000&pause=0.05"
RESERVED = 65_536
AT_ONCE = 50
LIMITS = {"concurrent": 1000, "egress": 100_000_000_000, "ingress": 100_000_000_000}


def held(redis: RedisServer) -> dict[bytes, int]:
    """Give what Redis knows to be held, by its holder."""
    with redis.client() as client:
        return {bytes(name): client.hlen(name) for name in client.scan_iter("mw:*:h", count=1000)}  # type: ignore[misc]


class Subject:
    """One subject at one server."""

    def __init__(self, server: Server, plan: str, name: str = "") -> None:
        self.server = server
        self.subject = name or f"s-{uuid.uuid4().hex}"
        self.fields = (("X-API-Key", f"{plan}.{self.subject}"), ("X-Variant", "redis"))

    def ask(self) -> wire.Answer:
        """Ask for something without a body, which counts no bytes."""
        raw = wire.request("HEAD", "/v1/items/1", self.fields)
        return wire.talk(self.server.port, raw, method="HEAD")

    def left(self) -> dict[str, int]:
        """Give what is left of each limit."""
        items = (self.ask().get("RateLimit") or "").split(", ")
        return {
            name.strip('"'): int(rest.partition("r=")[2].partition(";")[0])
            for name, _, rest in (item.partition(";") for item in items)
        }

    def begun(self, target: str, method: str = "GET", *more: tuple[str, str]) -> wire.socket.socket:
        """Send the head of a request, and leave it at that."""
        peer = wire.connect(self.server.port)
        raw = wire.request(method, target, (*self.fields, *more))
        if method == "POST":
            raw = raw.replace(b"Content-Length: 0", b"Content-Length: 500000") + b"u" * 1000
        peer.sendall(raw)
        return peer

    def total(self, name: str) -> int:
        """Give the sum of what the events say."""
        events = {each["id"]: each for each in self.server.events("redis", self.subject)}
        return sum(each["data"][name] for each in events.values())  # type: ignore[index]


def socket_fields() -> tuple[tuple[str, str], ...]:
    key = base64.b64encode(os.urandom(16)).decode()
    return (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key))


def opened(subject: Subject) -> wire.socket.socket:
    """Open a WebSocket."""
    peer = wire.connect(subject.server.port)
    peer.sendall(_handshake(subject))
    assert peer.recv(4096).startswith(b"HTTP/1.1 101")
    return peer


def _handshake(subject: Subject) -> bytes:
    raw = wire.request("GET", "/v1/talk", (*subject.fields, *socket_fields()))
    return raw.replace(b"Connection: close", b"Connection: Upgrade")


def _frame(text: bytes) -> bytes:
    """Write a text message as a client does, under a mask of zeros (RFC 6455, section 5.2)."""
    assert len(text) < 126
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


@pytest.mark.timed
@pytest.mark.parametrize("name", ["uvicorn-httptools", "gunicorn-gthread"])
def test_a_killed_worker_holds_nothing_for_longer_than_its_lease(name: str, tmp_path: Path) -> None:
    """Streams, an upload and a socket take all slots; after kill -9 they are free when the lease is over."""
    server_home, observer_home = tmp_path / "killed", tmp_path / "observer"
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        environment = {"SUBJECT_REDIS": redis.url}
        for home in (server_home, observer_home):
            servers.furnish(home, {"checkpoint": "1s"})
        running = servers.running(name, server_home, workers=2, environment=environment)
        subject = Subject(stack.enter_context(running), "holds")
        running = servers.running(name, observer_home, environment=environment)
        observer = Subject(stack.enter_context(running), "holds", subject.subject)
        for peer in (
            subject.begun(SLOW),
            subject.begun(SLOW),
            subject.begun("/v1/drain", "POST"),
            subject.begun(SLOW) if "gunicorn" in name else opened(subject),
        ):
            stack.enter_context(peer)
        # To ask meanwhile would take one of the slots.
        wait_for(lambda: sum(held(redis).values()) >= 4, "all slots to be taken")
        wait_for(lambda: subject.total("response_bytes") > 0, "the first parts")
        time.sleep(0.5)
        assert observer.ask().status == 429
        assert held(redis)
        for pid in subject.server.workers():
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: observer.left().get("concurrent") == 3, "the slots to be free")
        elapsed = time.monotonic() - killed
        print(f"FREE {name}: after {elapsed:.2f} s")
        assert elapsed < LEASE + SLACK

        def free() -> dict[str, int]:
            return {
                "concurrent": 3,
                "egress": CAP - RESERVE - subject.total("response_bytes"),
                "ingress": CAP - subject.total("request_bytes"),
            }

        # A successor delivers what those who were killed had recorded.
        wait_for(lambda: observer.left() == free(), f"all to be free, has {observer.left()}, needs {free()}")
        wait_for(lambda: not held(redis), f"nothing to be held, has {held(redis)}")


class Deserter:
    """One connection that leaves at some moment: before, while or after it was answered."""

    def __init__(self, subject: Subject, kinds: tuple[str, ...], chance: random.Random) -> None:
        self._port = subject.server.port
        self._kinds = kinds
        self._subject = subject
        self._chance = chance

    async def run(self) -> str:
        kind = self._chance.choice(self._kinds)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return "refused"
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await {"download": self._download, "upload": self._upload, "socket": self._socket}[kind](
                reader, writer
            )
        if self._chance.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()
        return kind

    async def _download(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size, count = self._chance.choice(((1_000, 5), (50_000, 20), (100, 100)))
        more = "&declared=1" if self._chance.random() < 0.5 else ""
        target = f"/v1/stream?count={count}&size={size}{more}"
        writer.write(wire.request("GET", target, self._subject.fields))
        await self._hear(reader, self._chance.choice((0, 1, 3_000, 200_000)))

    async def _upload(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = (b"u" * 9_000,) * 4 if self._chance.random() < 0.5 else b"u" * 36_000
        raw = wire.request("POST", "/v1/drain", self._subject.fields, body)
        writer.write(raw[: self._chance.randrange(100, len(raw) + 1)])
        await self._hear(reader, self._chance.choice((0, 0, 1)) if self._chance.random() < 0.5 else 0)

    async def _socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_handshake(self._subject))
        if self._chance.random() < 0.8:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_frame(b"hello") * self._chance.randrange(4))
            await self._hear(reader, self._chance.choice((0, 1)))

    async def _hear(self, reader: asyncio.StreamReader, least: int) -> None:
        """Read for as long as that many bytes take, and not for ever."""
        heard = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while heard < least:
                    data = await reader.read(65536)
                    if not data:
                        return
                    heard += len(data)
                await asyncio.sleep(self._chance.random() * 0.01)


async def desert(subject: Subject, number: int, of_kinds: tuple[str, ...]) -> dict[str, int]:
    """Have so many clients leave, some at a time."""
    chance = random.Random(number)
    kinds: dict[str, int] = {}
    rest = iter(range(number))

    async def some() -> None:
        for _ in rest:
            kind = await Deserter(subject, of_kinds, chance).run()
            kinds[kind] = kinds.get(kind, 0) + 1

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return kinds


@pytest.mark.parametrize(
    ("name", "aborts", "of_kinds"),
    [
        ("uvicorn-httptools", 2_000, ("download", "upload", "socket")),
        ("gunicorn-gthread", 500, ("download", "upload")),
        ("django-gunicorn", 500, ("download", "upload")),
        ("django-uvicorn", 500, ("download", "upload")),
    ],
)
def test_clients_that_leave_at_random_leave_nothing(
    name: str, aborts: int, of_kinds: tuple[str, ...], tmp_path: Path
) -> None:
    """When they are gone every slot is free, nothing is held, and what is used is what the events say."""
    home = tmp_path / "home"
    servers.furnish(home, {"checkpoint": "1s"})
    with RedisServer() as redis:
        environment = {"SUBJECT_REDIS": redis.url}
        with servers.running(name, home, workers=2, environment=environment) as server:
            subject = Subject(server, "wideslots")
            began = time.monotonic()
            kinds = asyncio.run(desert(subject, aborts, of_kinds))
            took = time.monotonic() - began
            print(f"LEFT {name}: {kinds} in {took:.1f} s, {aborts / took:.0f} a second")
            assert sum(kinds.values()) == aborts
            assert "refused" not in kinds

            def free() -> dict[str, int]:
                return {
                    "concurrent": LIMITS["concurrent"] - 1,
                    "egress": LIMITS["egress"] - RESERVED - subject.total("response_bytes"),
                    "ingress": LIMITS["ingress"] - subject.total("request_bytes"),
                }

            def left() -> dict[str, int]:
                time.sleep(0.2)  # so that what the events say is settled too
                return subject.left()

            # Servers still take up the connections of some who are gone.
            wait_for(lambda: free() == left(), f"all to be free, has {left()}, needs {free()}")
            wait_for(lambda: not held(redis), f"nothing to be held, has {held(redis)}")
            assert free() == left()
