"""The subject, without a framework: what each endpoint does, as replies that the frameworks turn into theirs.

Everything that a server process reads or writes lies under SUBJECT_HOME: `policies/` by variant, the event
files that they name, and `ledger.jsonl`, in which each handler says that it ran.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from meter_mw import KeyEntry, UsageError, current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from meter_mw.model import Request

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

Built = TypeVar("Built")
Fields: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plain:
    """A body that is there at once."""

    body: bytes
    status: int = 200
    fields: Fields = (("Content-Type", "text/plain"),)


@dataclass(frozen=True)
class Stream:
    """A body that comes in chunks, each after a pause in seconds; `length` is declared where there is one."""

    chunks: Iterable[bytes]
    pause: float = 0.0
    media_type: str = "text/plain"
    on_chunk: Callable[[], None] = lambda: None
    length: int | None = None


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


def built_once(build: Callable[[str], Built]) -> Callable[[str], Built]:
    """Keep what is built by its name; where requests come together one builds, as they share settings."""
    building, kept = threading.RLock(), functools.cache(build)

    def built(name: str) -> Built:
        with building:
            return kept(name)

    return built


def check_outside() -> None:
    """Note in the ledger when code outside of any request finds one: it was left behind."""
    with contextlib.suppress(UsageError):
        ran("left behind", str(current().subject))


def resolve(key: str) -> KeyEntry | dict[str, object] | None:
    """Read `plan.subject` as a known key, and `plan.subject.account` and whatever comes after that.

    `boom…` fails with the key in its message. The plans `raised` and `bygone` have an amount of their own
    for each key, and keys of plan `inside` are counted and under no limit.
    """
    if key.startswith("boom"):
        raise RuntimeError(f"no answer about {key}")
    plan, *names = key.split(".")
    if not names or not plan.isalpha():
        return None
    subject, account = names[0], names[1] if len(names) > 1 and names[1] else None
    if plan not in ("raised", "bygone", "inside"):
        return KeyEntry(subject, plan, account)
    if plan == "inside":
        return {"subject": subject, "plan": plan, "exempt": "counted"}
    until = datetime.now(UTC).date() + timedelta(days=2 if plan == "raised" else -2)
    return {"subject": subject, "plan": plan, "limits": {"monthly": {"cap": 3, "until": until.isoformat()}}}


def cost(request: Request) -> object:
    """Price a request by its query: `units=4`, `tokens=5`, or nonsense."""
    name, _, value = request.query.partition("=")
    if name == "tokens":
        return {"requests": 1, "tokens": int(value)}
    return int(value) if value.isdecimal() else value


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


def stream(call: Call) -> Reply:
    """Send `count` chunks of `size` bytes with a `pause`, and fail after `raises` of them."""
    count, size = int(call.query.get("count", "1")), int(call.query.get("size", "1"))
    raises = int(call.query.get("raises", "-1"))

    def chunks() -> Iterator[bytes]:
        for number in range(count):
            if number == raises:
                raise RuntimeError("the stream failed")
            yield b"x" * size

    length = count * size if call.query.get("declared") else None
    return Stream(chunks(), pause=float(call.query.get("pause", "0")), length=length)


def status(call: Call) -> Reply:
    return Plain(b"said", status=int(call.parameters["code"]))


def pages(call: Call) -> Reply:
    """Tell units in a field."""
    told = call.query.get("told", "3")
    return Plain(b"pages", fields=(("Content-Type", "text/plain"), ("X-Pages", told)))


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
    ("stream", ("GET",), "/v1/stream", stream),
    ("status", ("GET",), "/v1/status/{code}", status),
    ("paid", ("GET",), "/v1/paid/{code}", status),
    ("pages", ("GET",), "/v1/pages", pages),
    ("priced", ("GET",), "/v1/priced", chat),
    ("inner", ("GET",), "/v1/inner", chat),
    ("strictly", ("GET",), "/v1/strictly", chat),
    ("widely", ("GET",), "/v1/widely", chat),
    ("elsewhere", ("GET",), "/elsewhere", chat),
)
"""Name, methods, template and function of every endpoint that needs no framework."""
