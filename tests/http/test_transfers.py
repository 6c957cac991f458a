"""The table of transfers: every shape, by framework, by what a cap does, against what a raw socket counts.

Where the client has the whole response, or was cut off by us, the event says to the byte what came. Where
the client leaves, it says at least that, and at most what the buffers of both kernels and the server took
besides. A cap that cuts is passed by no byte; one that lets a response finish is passed by what was in
flight: the length of the response less what was left of the cap when it began.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import wire

from apps import subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server

FRAMEWORKS = {"starlette": "uvicorn-httptools", "flask": "gunicorn-gthread", "django": "django-gunicorn"}
CAP = 1_000_000
BUFFERS = 8_000_000
"""What the kernels, the server and the last chunk may hold of a body that its client leaves."""
MODES = {"far": "far", "finish": "ends", "cut": "cuts"}
"""What a cap does, and the plan that has it."""

FAR = 1_000_000_000
ZIPPED = 3_000_000
BODY = bytes(range(256)) * 240


@dataclass(frozen=True)
class Shape:
    """One request. `left` bytes are left of the cap where it is near; `status` and `size` are of all of it.

    `fails` says that the app breaks off; with `leaves` the client does, after so many bytes.
    """

    name: str
    target: str
    size: int
    left: int = 1
    method: str = "GET"
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes | tuple[bytes, ...] = b""
    status: int = 200
    variant: str = "redis"
    leaves: int | None = None
    fails: bool = False
    duplex: bool = False
    otherwise: dict[str, int] = field(default_factory=dict, hash=False)
    """The size of the answer in a framework that does it otherwise."""


PARTS = tuple(BODY[at : at + 7_000] for at in range(0, len(BODY), 7_000))
SHAPES = (
    Shape("an empty body", "/v1/sized?size=0", 0),
    Shape("one chunk, its length declared", "/v1/sized?size=90000", 90_000, 40_001),
    Shape("many chunks, their length declared", "/v1/stream?count=90&size=1000&declared=1", 90_000, 40_001),
    Shape("many chunks, no length", "/v1/stream?count=90&size=1000", 90_000, 40_001),
    Shape("one chunk of a megabyte, no length", "/v1/stream?count=1&size=900000", 900_000, 333_333),
    Shape("slow small chunks", "/v1/stream?count=20&size=9&pause=0.01", 180, 100),
    Shape("a file", "/v1/file", subject.FILE_SIZE, 65_537),
    Shape("HEAD of a file", "/v1/file", 0, method="HEAD"),
    Shape("204", "/v1/empty", 0, status=204),
    Shape("304", "/v1/same", 0, status=304),
    Shape(
        "a range",
        "/v1/file",
        5_000,
        1_234,
        fields=(("Range", "bytes=100-5099"),),
        status=206,
        otherwise={"django": subject.FILE_SIZE},
    ),
    Shape(
        "compressed by the app",
        f"/v1/sized?size={ZIPPED}",
        ZIPPED,
        700,
        fields=(("Accept-Encoding", "gzip"),),
        variant="gzip-inside",
    ),
    Shape("the client leaves", "/v1/big", subject.BIG, 600_000, leaves=200_000),
    Shape("the app fails", "/v1/stream?count=90&size=1000&raises=60", 60_000, 40_001, fails=True),
    Shape("an upload, sent back", "/v1/echo", len(BODY), 30_001, "POST", body=BODY),
    Shape(
        "a chunked upload, sent back",
        "/v1/duplex",
        len(BODY),
        30_001,
        "POST",
        body=PARTS,
        otherwise={"django": 0},
    ),
    Shape("up and down at once", "/v1/duplex", len(BODY), 30_001, "POST", body=BODY, duplex=True),
)


CASES = [
    pytest.param(
        shape,
        framework,
        mode,
        id=f"{framework}-{mode}-{shape.name}",
        marks=pytest.mark.xdist_group(server),
    )
    for framework, server in FRAMEWORKS.items()
    for mode in MODES
    for shape in SHAPES
]


@dataclass(frozen=True)
class Row:
    """What became of one transfer."""

    shape: str
    framework: str
    mode: str
    left: int
    received: int
    counted: int


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    """Collect what was counted, and print it in the end."""
    rows: list[Row] = []
    yield rows
    print(f"\n{'transfer':36}{'framework':11}{'cap':8}{'left':>12}{'socket':>9}{'event':>9}{'beyond':>9}")
    for row in rows:
        beyond = max(0, row.counted - row.left)
        print(
            f"{row.shape:36}{row.framework:11}{row.mode:8}"
            f"{row.left:>12}{row.received:>9}{row.counted:>9}{beyond:>9}"
        )


class Client:
    """One subject of one plan at one server."""

    def __init__(self, server: Server, plan: str, variant: str) -> None:
        self.server = server
        self.variant = variant
        self.subject = f"s-{uuid.uuid4().hex}"
        self.fields = (("X-API-Key", f"{plan}.{self.subject}"), ("X-Variant", variant))

    def spend(self, size: int) -> None:
        """Use up so many bytes; as their length is declared, all are held before the first one leaves."""
        assert self.ask(Shape("", f"/v1/sized?size={size}", size)).status == 200

    def ask(self, shape: Shape) -> wire.Answer:
        raw = wire.request(shape.method, shape.target, (*self.fields, *shape.fields), shape.body)
        with wire.connect(self.server.port) as peer:
            step = 4096 if shape.duplex else len(raw)
            with contextlib.suppress(ConnectionError):  # cut off while there was more to send
                for at in range(0, len(raw), step):
                    peer.sendall(raw[at : at + step])
                    time.sleep(0.002 if shape.duplex else 0)
            return wire.listen(peer, shape.method, shape.leaves)

    def last_event(self, count: int) -> dict[str, Any]:
        data: dict[str, Any] = self.server.events_of(self.subject, count, self.variant)[-1]["data"]  # type: ignore[assignment]
        return data


@dataclass(frozen=True)
class Transfer:
    """What came over the socket, what its event says, and the status of the request after it."""

    answer: wire.Answer
    event: dict[str, Any]
    after: int


@pytest.fixture(scope="module")
def transfers(
    serve: Callable[[str], Server], table: list[Row]
) -> Callable[[str, str], dict[Shape, Transfer]]:
    """Give every transfer of a framework under a cap, made together when the first is asked for."""

    @functools.cache
    def make(framework: str, mode: str) -> dict[Shape, Transfer]:
        answers: dict[Shape, tuple[Client, wire.Answer]] = {}
        for shape in SHAPES:
            client = Client(serve(FRAMEWORKS[framework]), MODES[mode], shape.variant)
            if mode != "far":
                client.spend(CAP - shape.left)
            answers[shape] = client, client.ask(shape)
        found = {}
        for shape, (client, answer) in answers.items():
            event = client.last_event(1 if mode == "far" else 2)
            found[shape] = Transfer(answer, event, client.ask(SHAPES[0]).status)
            left = FAR if mode == "far" else shape.left
            table.append(Row(shape.name, framework, mode, left, answer.received, event["response_bytes"]))
        return found

    return make


@pytest.mark.parametrize(("shape", "framework", "mode"), CASES)
def test_a_transfer(
    shape: Shape, framework: str, mode: str, transfers: Callable[[str, str], dict[Shape, Transfer]]
) -> None:
    """The event has the bytes that came over the socket, and the cap did what it is to do."""
    transfer = transfers(framework, mode)[shape]
    answer, event, left = transfer.answer, transfer.event, FAR if mode == "far" else shape.left
    received, counted = answer.received, event["response_bytes"]
    size = shape.otherwise.get(framework, shape.size)
    if shape.variant == "gzip-inside" and answer.whole:
        assert gzip.decompress(answer.body) == b"x" * ZIPPED
        size = received
    cut = mode == "cut" and size > left
    if shape.leaves:
        assert received <= counted <= (left if cut else received + BUFFERS)
        return
    assert counted == received
    assert received == (left if cut else size)
    assert answer.whole == (not cut and not shape.fails)
    assert answer.status == (200 if framework in shape.otherwise else shape.status)
    assert event.get("limited_by") == (["egress"] if cut else None)
    sent = sum(map(len, shape.body)) if isinstance(shape.body, tuple) else len(shape.body)
    assert event["request_bytes"] <= sent
    if not cut:
        assert event["request_bytes"] == (sent if size else 0)
    assert transfer.after == (429 if size >= left else 200)
