"""Limits hold under WSGI to the byte: cuts, uploads refused on their way, slots given back in time."""

from __future__ import annotations

import errno
import io
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest
import wire
from harness import Gateway, environ
from limited import CUT, EGRESS, INGRESS, SLOT, key, rules, serve

import servers
from meter_mw.environ import StreamCut, UploadRefused
from meter_mw.exchange import enter
from meter_mw.wsgi import MeterMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from servers import Server

CHUNKED: dict[str, object] = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}


class Metered:
    """An app behind a meter with the limits of one plan, and what came of its requests."""

    def __init__(
        self, home: Path, app: WSGIApplication, *limits: Mapping[str, object], **changes: object
    ) -> None:
        self.app = MeterMiddleware(app, policy=rules(home, {"free": limits}, **changes))
        self._sink = home / "events-main.jsonl"

    def ask(self, method: str = "GET", **changes: object) -> tuple[Iterator[bytes], Gateway]:
        gateway = Gateway()
        body = self.app(environ(method, **changes), gateway.start_response)  # type: ignore[arg-type]
        return iter(body), gateway

    def events(self) -> list[dict[str, object]]:
        assert self.app.meter.flush()
        return [json.loads(line)["data"] for line in self._sink.read_text().splitlines()]


@pytest.fixture
def metered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Metered]]:
    monkeypatch.setenv("METER_KEY_SECRET", servers.SECRET)
    opened: list[Metered] = []

    def open_(app: WSGIApplication, *limits: Mapping[str, object], **changes: object) -> Metered:
        opened.append(Metered(tmp_path, app, *limits, **changes))
        return opened[-1]

    yield open_
    enter(None)  # some were left as no server leaves one
    for each in opened:
        each.app.meter.close()


def speaking(*chunks: bytes, length: int | None = None, sized: bool = False) -> WSGIApplication:
    """Make an app that says so much."""

    def app(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fields = [] if length is None else [("Content-Length", str(length))]
        start_response("200 OK", [("Content-Type", "text/plain"), *fields])
        return list(chunks) if sized else iter(chunks)

    return app


def taken(body: Iterator[bytes]) -> list[bytes]:
    """Take chunks until the body breaks off, as it has to."""
    chunks: list[bytes] = []
    with pytest.raises(StreamCut) as cut:
        chunks.extend(body)
    assert cut.value.errno == errno.EPIPE
    return chunks


@pytest.mark.parametrize("length", [None, 1200])
def test_a_response_is_cut_at_its_cap(metered: Callable[..., Metered], length: int | None) -> None:
    """Chunks that fit are the app's own; one that does not is shortened, and then the stream breaks off."""
    chunks = [b"a" * 400, b"b" * 400, b"c" * 400]
    subject = metered(speaking(*chunks, length=length), CUT)
    body, gateway = subject.ask()
    got = taken(body)
    assert got[0] is chunks[0]
    assert got[1] is chunks[1]
    assert got[2:] == [b"c" * 200]
    assert dict(gateway.started[0][1]).get("Content-Length") == (None if length is None else "1200")
    body.close()  # type: ignore[attr-defined]
    (event,) = subject.events()
    assert (event["status"], event["response_bytes"], event["limited_by"]) == (200, 1000, ["egress"])
    assert "charged" not in event


def test_a_cap_that_finishes_lets_all_of_it_pass(metered: Callable[..., Metered]) -> None:
    subject = metered(speaking(b"a" * 800, b"b" * 800), EGRESS)
    body, _ = subject.ask()
    assert sum(map(len, body)) == 1600
    (event,) = subject.events()
    assert event["response_bytes"] == 1600
    assert "limited_by" not in event
    refused, gateway = subject.ask()
    assert gateway.started[0][0] == "429 Too Many Requests"
    assert b"egress" in b"".join(refused)


def test_two_streams_share_what_is_left(metered: Callable[..., Metered]) -> None:
    """However they take turns, no byte passes the cap; one that gets nothing still begins, and breaks off."""
    subject = metered(speaking(*[b"x" * 90] * 20), CUT)
    first, _ = subject.ask()
    second, gateway = subject.ask()
    sizes = [0, 0]
    for number, body in ((0, first), (1, second)):
        sizes[number] = sum(map(len, taken(body)))
    assert sum(sizes) == 1000
    assert gateway.started[0][0] == "200 OK"


def test_a_single_chunk_that_is_cut_is_not_taken_for_the_whole(metered: Callable[..., Metered]) -> None:
    """Servers derive a length from a list of one, once they have its chunk."""
    subject = metered(speaking(b"x" * 1500, sized=True), CUT)
    body, _ = subject.ask()
    assert len(body) == 1  # type: ignore[arg-type]
    assert len(next(body)) == 1000
    assert len(body) != 1  # type: ignore[arg-type]
    assert taken(body) == []


def test_what_is_written_is_cut_too(metered: Callable[..., Metered]) -> None:
    def app(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Length", "1400")])
        write(b"a" * 700)
        write(b"b" * 700)
        raise AssertionError("it goes on after its response is cut")

    subject = metered(app, CUT)
    gateway = Gateway()
    with pytest.raises(StreamCut):
        subject.app(environ(), gateway.start_response)
    assert b"".join(gateway.written) == b"a" * 700 + b"b" * 300
    assert subject.events()[0]["response_bytes"] == 1000


def test_what_has_no_content_is_not_cut(metered: Callable[..., Metered]) -> None:
    subject = metered(speaking(b"x" * 1500, length=1500), CUT)
    assert sum(map(len, subject.ask("HEAD")[0])) == 1500  # the server sends none of it
    assert subject.events()[0]["response_bytes"] == 0


class Upload(io.BytesIO):
    """A body without an end, which notes how much of it was read."""

    def __init__(self, line: bytes = b"u" * 1023 + b"\n") -> None:
        super().__init__(line * (1024 * 1024 // len(line)))


READS: dict[str, Callable[[Upload], object]] = {
    "read": lambda stream: stream.read(),
    "read all": lambda stream: stream.read(-1),
    "read much": lambda stream: stream.read(900_000),
    "read parts": lambda stream: [stream.read(9000) for _ in range(1000)],
    "readline": lambda stream: [stream.readline() for _ in range(1000)],
    "readlines": lambda stream: stream.readlines(),
    "lines": list,
    "readinto": lambda stream: [stream.readinto(bytearray(9000)) for _ in range(1000)],
}


def reading(read: Callable[[Upload], object], how: str = "raises") -> WSGIApplication:
    """Make an app that reads its upload, and takes it `how` when that is refused."""

    def app(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            read(env["wsgi.input"])
        except UploadRefused:
            if how == "raises":
                raise
            with pytest.raises(UploadRefused):
                env["wsgi.input"].read(1)
        start_response("200 OK" if how == "ignores" else "500 Internal Server Error", [("X-App", "1")])
        return [b"of the app"]

    def late(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("X-App", "1")])
        read(env["wsgi.input"])
        yield b"of the app"

    return late if how == "late" else app


@pytest.mark.parametrize("how", ["raises", "handles", "ignores", "late"])
@pytest.mark.parametrize("read", list(READS))
def test_an_upload_is_refused_on_its_way(metered: Callable[..., Metered], read: str, how: str) -> None:
    """However it is read, little is read beyond what fits, and we answer, whatever the app makes of it."""
    subject = metered(reading(READS[read], how), INGRESS)
    stream = Upload()
    body, gateway = subject.ask("POST", **CHUNKED, **{"wsgi.input": stream})
    problem = json.loads(b"".join(body))
    ((status, fields),) = gateway.started
    assert status == "413 Content Too Large"
    assert problem["violated-policies"] == ["ingress"]
    assert "X-App" not in dict(fields)
    assert dict(fields)["Content-Type"] == "application/problem+json"
    assert 200_000 < stream.tell() <= 200_000 + 2 * 65536
    (event,) = subject.events()
    assert stream.tell() - 65536 <= int(str(event["request_bytes"])) <= 200_000
    assert (event["status"], event["requests"], event["charged"]) == (413, 0, False)
    assert event["limited_by"] == ["ingress"]


def test_an_upload_that_would_fit_later_is_told_when(metered: Callable[..., Metered]) -> None:
    subject = metered(reading(lambda stream: stream.read(150_000)), INGRESS)
    for status in ("500 Internal Server Error", "429 Too Many Requests"):
        body, gateway = subject.ask("POST", **CHUNKED, **{"wsgi.input": Upload()})
        list(body)
        assert gateway.started[0][0] == status
    assert int(dict(gateway.started[0][1])["Retry-After"]) > 0


def test_a_very_long_line_is_read_by_steps(metered: Callable[..., Metered]) -> None:
    subject = metered(reading(lambda stream: stream.readline()), INGRESS)
    stream = Upload(b"u" * 1024)
    body, gateway = subject.ask("POST", **CHUNKED, **{"wsgi.input": stream})
    list(body)
    assert gateway.started[0][0].startswith("413")
    assert stream.tell() <= 200_000 + 65536


def test_steps_read_what_a_single_read_would(metered: Callable[..., Metered]) -> None:
    content = b"".join(b"%d\n" % number for number in range(30_000))
    seen: list[object] = []

    def app(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        stream = env["wsgi.input"]
        seen.extend([stream.read(70_000), stream.readline(), stream.readline(2), stream.readlines(10)])
        seen.extend([next(iter(stream)), stream.read(), stream.read(), stream.readline(), list(stream)])
        start_response("200 OK", [])
        return [b""]

    subject = metered(app, INGRESS)
    subject.ask("POST", **CHUNKED, **{"wsgi.input": io.BytesIO(content)})
    plain = io.BytesIO(content)
    expected = [plain.read(70_000), plain.readline(), plain.readline(2), plain.readlines(10)]
    expected += [plain.readline(), plain.read(), b"", b"", []]
    assert seen == expected


def test_a_declared_upload_is_refused_unread(metered: Callable[..., Metered]) -> None:
    subject = metered(reading(lambda stream: stream.read()), INGRESS)
    stream = io.BytesIO(b"x" * 300_000)
    body, gateway = subject.ask("POST", CONTENT_LENGTH="300000", **{"wsgi.input": stream})
    assert gateway.started[0][0] == "413 Content Too Large"
    list(body)
    assert stream.tell() == 0


def test_an_upload_refused_under_a_response_cuts_it(metered: Callable[..., Metered]) -> None:
    def app(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"begun"
        env["wsgi.input"].read()

    subject = metered(app, INGRESS)
    body, gateway = subject.ask("POST", **CHUNKED, **{"wsgi.input": Upload()})
    assert taken(body) == [b"begun"]
    assert len(gateway.started) == 1
    (event,) = subject.events()
    assert (event["status"], event["requests"], event["limited_by"]) == (200, 1, ["ingress"])
    assert "charged" not in event


@pytest.mark.parametrize("declared", ["", None, "0"])
def test_no_body_is_no_upload(metered: Callable[..., Metered], declared: str | None) -> None:
    """A server may leave CONTENT_LENGTH empty (RFC 3875); nothing is asked for then."""
    subject = metered(speaking(b"x"), {**INGRESS, "cap": "1 B/month", "reserve": "1 B"})
    env = environ()
    del env["CONTENT_LENGTH"]
    if declared is not None:
        env["CONTENT_LENGTH"] = declared
    for _ in range(3):
        gateway = Gateway()
        assert gateway.serve(subject.app, dict(env)) == [b"x"]


@pytest.mark.parametrize(
    ("app", "steps"),
    [
        (speaking(b"one", b"two", length=6), 2),
        (speaking(b"one", sized=True), 1),
        (speaking(b"one", b"two"), 3),
        (speaking(length=0), 1),
    ],
)
def test_a_slot_is_free_before_the_client_has_all(
    metered: Callable[..., Metered], app: WSGIApplication, steps: int
) -> None:
    """With the declared length, with the only chunk, or when the iterable ends: not earlier, not later."""
    subject = metered(app, SLOT)
    body, _ = subject.ask()
    for step in range(steps):
        assert subject.ask()[1].started[0][0] == "429 Too Many Requests", step
        next(body, None)
    again, gateway = subject.ask()
    assert gateway.started[0][0] == "200 OK"
    again.close()  # type: ignore[attr-defined]


def test_slots_and_reserves_of_lost_clients_come_back(metered: Callable[..., Metered]) -> None:
    """Closed at once, closed on the way, failed at once, failed on the way."""
    turn = iter(range(100))

    def app(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        way = next(turn) % 3
        if way == 0:
            raise RuntimeError("the app fails")
        start_response("200 OK", [("Content-Length", "8")])

        def chunks() -> Iterator[bytes]:
            yield b"1234"
            if way == 1:
                raise RuntimeError("the app fails on the way")
            yield b"5678"

        return chunks()

    subject = metered(app, SLOT, {**CUT, "reserve": "900 B"})
    for number in range(24):
        try:
            body, gateway = subject.ask()
            assert gateway.started[0][0] == "200 OK", number
            for _ in range(number % 4):
                next(body, None)
        except RuntimeError:
            continue
        body.close()  # type: ignore[attr-defined]
    assert len(subject.events()) == 24


def test_units_are_heard_in_a_field_and_the_field_is_stripped(metered: Callable[..., Metered]) -> None:
    def app(env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("X-Tokens", "7"), ("X-Tokens", "5"), ("X-Kept", "1")])
        return [b"x"]

    meters = {
        "requests": {"count": "requests"},
        "tokens": {"count": "reported", "from_header": "X-Tokens", "strip": True},
    }
    routes = [{"path": "/health", "exempt": True}]
    subject = metered(app, meters=meters, routes=routes)
    for path in ("/v1/items/1", "/health"):
        body, gateway = subject.ask(path=path)
        assert list(body) == [b"x"]
        assert [field for field in gateway.started[0][1] if "RateLimit" not in field[0]] == [("X-Kept", "1")]
    assert [event["tokens"] for event in subject.events()] == [12]


APP = "apps.limits_wsgi:app"
GUNICORN = pytest.mark.parametrize("name", ["gunicorn-sync", "gunicorn-gthread"])


@pytest.fixture
def server(name: str, tmp_path: Path, redis_url: str) -> Iterator[Server]:
    running = serve(name, APP, tmp_path, redis_url, workers=2)
    yield running
    running.kill()


@GUNICORN
@pytest.mark.parametrize("target", ["/v1/sized?size=500000", "/v1/chunked?size=500000"])
def test_a_client_notices_the_cut(server: Server, target: str) -> None:
    """It has every byte of the cap, none more, and no end; the server says nothing of an error."""
    answer = wire.talk(server.port, wire.request("GET", target, key("cut")))
    assert (answer.status, answer.received, answer.whole, answer.excess) == (200, 300_000, False, 0)
    (event,) = server.events_of("someone", 1)
    assert event["data"]["response_bytes"] == 300_000  # type: ignore[index]
    assert b"Traceback" not in server.output
    assert wire.talk(server.port, wire.request("GET", target, key("cut"))).status == 429


@GUNICORN
def test_uploads_are_refused_by_their_limit(server: Server) -> None:
    chunks = (b"u" * 50_000,) * 3
    send = wire.request("POST", "/v1/drain", key("ingress"), chunks)
    assert wire.talk(server.port, send, method="POST").body == b"150000"
    late = wire.talk(server.port, send, method="POST")
    assert (late.status, late.whole) == (429, True)
    never = wire.request("POST", "/v1/drain", key("ingress", "other"), (b"u" * 50_000,) * 8)
    assert wire.talk(server.port, never, method="POST").status == 413
    with wire.connect(server.port) as peer:  # declared, and never sent
        head = "POST /v1/drain HTTP/1.1\r\nHost: subject\r\nContent-Length: 900000\r\n"
        peer.sendall(f"{head}X-API-Key: ingress.third\r\n\r\n".encode())
        assert wire.listen(peer, "POST").status == 413
    assert [event["data"]["charged"] for event in server.events_of("other", 1)] == [False]  # type: ignore[index]
    assert b"Traceback" not in server.output


@GUNICORN
def test_one_slot_serves_one_client_for_ever(server: Server) -> None:
    """300 requests one after the other, at two workers: whoever has an answer finds the slot free."""
    targets = ("/v1/sized?size=10", "/v1/chunked?size=10", "/v1/list", "/v1/fail")
    seen = [
        wire.talk(server.port, wire.request("GET", targets[number % 4], key("one"))).status
        for number in range(300)
    ]
    assert set(seen) == {200, 500}
    assert seen.count(500) == 75


def test_no_more_than_its_slots_are_inside(tmp_path: Path, redis_url: str) -> None:
    running = serve("gunicorn-gthread", APP, tmp_path, redis_url, workers=2)
    try:
        answers: list[wire.Answer] = []

        def ask() -> None:
            raw = wire.request("GET", "/v1/inside", key("four"))
            answers.extend(wire.talk(running.port, raw) for _ in range(3))

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 429}
        assert max(int(answer.body) for answer in answers if answer.status == 200) <= 4
    finally:
        running.kill()


@GUNICORN
def test_a_download_left_early_gives_all_back(server: Server) -> None:
    """Slot and reserve are free as soon as the server has noticed."""
    for _ in range(5):
        raw = wire.request("GET", "/v1/chunked?size=90000000", key("one", "leaver"))
        servers.wait_for(
            lambda raw=raw: wire.talk(server.port, raw, leave_after=100_000).status == 200,  # type: ignore[misc]
            "the slot to be free",
        )
    assert all(not event["data"].get("limited_by") for event in server.events_of("leaver", 5))  # type: ignore[attr-defined]


def test_a_client_reset_gives_all_back(tmp_path: Path, redis_url: str) -> None:
    running = serve("gunicorn-sync", APP, tmp_path, redis_url)
    try:
        for _ in range(3):
            with wire.connect(running.port) as peer:
                peer.sendall(wire.request("GET", "/v1/chunked?size=90000000", key("one")))
                assert peer.recv(100)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw = wire.request("GET", "/v1/list", key("one"))
        servers.wait_for(lambda: wire.talk(running.port, raw).status == 200, "the slot to be free")
    finally:
        running.kill()
