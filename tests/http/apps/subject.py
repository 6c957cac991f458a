"""The subject, without a framework: what each endpoint does, as replies that the frameworks turn into theirs.

Everything that a server process reads or writes lies under SUBJECT_HOME: `policies/` by variant, the event
files that they name, and `ledger.jsonl`, in which each handler says that it ran.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from meter_mw import KeyEntry, UsageError, current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

if os.environ.get("SUBJECT_DEBUG"):
    logging.basicConfig(level=logging.DEBUG)

HOME = Path(os.environ.get("SUBJECT_HOME", "."))
POLICIES = HOME / "policies"
LEDGER = HOME / "ledger.jsonl"
FILE = HOME / "file.bin"
BIG_FILE = HOME / "big.bin"

BIG = 100_000_000
BIG_CHUNK = 64 * 1024
FILE_SIZE = 200_000
CHUNKS = (b"one", b"twenty-two", b"x" * 1000)
EVENTS = (b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n")
EVENT_GAP = 0.25

Fields: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plain:
    """A body that is there at once."""

    body: bytes
    status: int = 200
    fields: Fields = (("Content-Type", "text/plain"),)


@dataclass(frozen=True)
class Stream:
    """A body that comes in chunks, each after a pause in seconds."""

    chunks: Iterable[bytes]
    pause: float = 0.0
    media_type: str = "text/plain"
    on_chunk: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class File:
    """A file, sent the framework's own way."""

    path: Path


Reply: TypeAlias = Plain | Stream | File


@dataclass(frozen=True)
class Call:
    """What an endpoint is told."""

    parameters: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes = b""


def ran(name: str, target: str) -> None:
    """Note in the ledger that a handler ran, and for whom."""
    line = json.dumps({"endpoint": name, "target": target, "subject": current().subject}).encode() + b"\n"
    fd = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def check_outside() -> None:
    """Note in the ledger when code outside of any request finds one: it was left behind."""
    with contextlib.suppress(UsageError):
        ran("left behind", str(current().subject))


def resolve(key: str) -> KeyEntry | None:
    """Read `plan.subject` as a known key; `boom…` fails with the key in its message."""
    if key.startswith("boom"):
        raise RuntimeError(f"no answer about {key}")
    plan, dot, subject = key.partition(".")
    return KeyEntry(subject, plan) if dot and plan.isalpha() else None


def refusal_body(refusal: object) -> tuple[str, bytes]:
    """Say a refusal in the app's own words."""
    return "text/x-own", f"no: {getattr(refusal, 'status', 0)}".encode()


def item(call: Call) -> Reply:
    return Plain(f"item {call.parameters['id']}".encode())


def chat(call: Call) -> Reply:
    return Plain(b"chat")


def search(call: Call) -> Reply:
    return Plain(b"found")


def upload(call: Call) -> Reply:
    return Plain(str(len(call.body)).encode())


def echo(call: Call) -> Reply:
    return Plain(call.body)


def unread(call: Call) -> Reply:
    return Plain(b"unread")


def who(call: Call) -> Reply:
    exchange = current()
    seen = {"subject": exchange.subject, "plan": exchange.plan, "remaining": exchange.remaining("requests")}
    return Plain(json.dumps(seen).encode())


def tokens(call: Call) -> Reply:
    current().add("tokens", 7)
    return Plain(b"tokens")


def tokens_streamed(call: Call) -> Reply:
    return Stream((b"a", b"b", b"c"), on_chunk=lambda: current().add("tokens", 5))


def tokens_late(call: Call) -> Reply:
    """Report after the response has ended, from a thread that was handed the exchange."""
    exchange = current()

    def report() -> None:
        deadline = time.monotonic() + 5
        while not exchange.ended and time.monotonic() < deadline:
            time.sleep(0.005)
        exchange.add("tokens", 11)

    threading.Thread(target=report).start()
    return Plain(b"late")


def crash(call: Call) -> Reply:
    raise RuntimeError("the handler crashed")


def fields(call: Call) -> Reply:
    own = (
        ("Content-Type", "text/plain"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("X-App", "own"),
        ("RateLimit", '"own";r=1'),
        ("Access-Control-Expose-Headers", "X-App"),
    )
    return Plain(b"fields", fields=own)


def sized(call: Call) -> Reply:
    return Plain(b"x" * int(call.query.get("size", "0")))


def no_content(call: Call) -> Reply:
    return Plain(b"", status=204, fields=())


def not_modified(call: Call) -> Reply:
    return Plain(b"", status=304, fields=(("ETag", '"1"'),))


def chunked(call: Call) -> Reply:
    return Stream(CHUNKS)


def big(call: Call) -> Reply:
    whole, rest = divmod(BIG, BIG_CHUNK)
    return Stream([b"x" * BIG_CHUNK] * whole + [b"x" * rest])


def file(call: Call) -> Reply:
    return File(FILE)


def big_file(call: Call) -> Reply:
    return File(BIG_FILE)


def sse(call: Call) -> Reply:
    return Stream(EVENTS, pause=EVENT_GAP, media_type="text/event-stream")


def lying(call: Call) -> Reply:
    """Declare one length and send another."""
    return Plain(
        b"x" * int(call.query["sent"]),
        fields=(("Content-Type", "text/plain"), ("Content-Length", call.query["declared"])),
    )


def health(call: Call) -> Reply:
    return Plain(b"well")


ENDPOINTS: tuple[tuple[str, tuple[str, ...], str, Callable[[Call], Reply]], ...] = (
    ("health", ("GET",), "/health", health),
    ("items", ("GET",), "/v1/items/{id}", item),
    ("chat", ("GET",), "/v1/chat", chat),
    ("umlaut", ("GET",), "/v1/ch\u00e4t", chat),
    ("search", ("POST",), "/v1/search", search),
    ("upload", ("PUT", "POST"), "/v1/files/{name}", upload),
    ("echo", ("POST",), "/v1/echo", echo),
    ("unread", ("POST",), "/v1/unread", unread),
    ("who", ("GET",), "/v1/who", who),
    ("tokens", ("GET",), "/v1/tokens", tokens),
    ("tokens.stream", ("GET",), "/v1/tokens/stream", tokens_streamed),
    ("tokens.late", ("GET",), "/v1/tokens/late", tokens_late),
    ("crash", ("GET",), "/v1/crash", crash),
    ("fields", ("GET",), "/v1/fields", fields),
    ("sized", ("GET",), "/v1/sized", sized),
    ("empty", ("GET",), "/v1/empty", no_content),
    ("same", ("GET",), "/v1/same", not_modified),
    ("chunked", ("GET",), "/v1/chunked", chunked),
    ("big", ("GET",), "/v1/big", big),
    ("file", ("GET",), "/v1/file", file),
    ("big-file", ("GET",), "/v1/big-file", big_file),
    ("sse", ("GET",), "/v1/sse", sse),
    ("lying", ("GET",), "/v1/lying", lying),
    ("elsewhere", ("GET",), "/elsewhere", chat),
)
"""Name, methods, template and function of every endpoint that needs no framework."""
