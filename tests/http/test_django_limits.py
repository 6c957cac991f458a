"""Limits hold under Django to the byte, by WSGI and ASGI: cuts, refused uploads, slots given back in time."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Awaitable
from typing import TYPE_CHECKING

import pytest
import wire
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse, StreamingHttpResponse
from harness import environ, http_scope
from limited import CUT, EGRESS, INGRESS, SLOT, key, rules, serve

import servers
from meter_mw.django import MeterMiddleware
from meter_mw.environ import StreamCut, UploadRefused
from meter_mw.exchange import enter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from servers import Server

    View = Callable[[HttpRequest], HttpResponseBase]

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"])

KINDS = pytest.mark.parametrize("kind", ["wsgi", "asgi", "asgi of sync"])
"""A WSGI request, an ASGI request, and one that middleware has handed to a thread."""


class Metered:
    """A view behind a meter with the limits of one plan, and what came of its requests."""

    def __init__(self, home: Path, view: View, kind: str) -> None:
        self._is_scoped = kind.startswith("asgi")

        async def aview(request: HttpRequest) -> HttpResponseBase:
            return view(request)

        self.meter = MeterMiddleware(aview if kind == "asgi" else view)
        self._sink = home / "events-main.jsonl"

    def ask(
        self, method: str = "GET", body: bytes = b"", *, declares: bool = True, subject: bytes = b"someone"
    ) -> HttpResponseBase:
        """Ask, and give the response, none of which has passed."""
        if self._is_scoped:
            length = (
                (b"content-length", b"%d" % len(body)) if declares else (b"transfer-encoding", b"chunked")
            )
            scope = http_scope(method, headers=[(b"x-api-key", b"free." + subject), length])
            request: HttpRequest = ASGIRequest(scope, io.BytesIO(body))
        else:
            request = WSGIRequest(environ(method, body=body))
        answer = self.meter(request)
        return asyncio.run(_awaited(answer)) if isinstance(answer, Awaitable) else answer

    def events(self) -> list[dict[str, object]]:
        assert self.meter.meter.flush()
        return [json.loads(line)["data"] for line in self._sink.read_text().splitlines()]


async def _awaited(answer: Awaitable[HttpResponseBase]) -> HttpResponseBase:
    return await answer


@pytest.fixture
def metered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Metered]]:
    monkeypatch.setenv("METER_KEY_SECRET", servers.SECRET)
    opened: list[Metered] = []

    def open_(view: View, kind: str, *limits: Mapping[str, object], **changes: object) -> Metered:
        monkeypatch.setattr(
            settings, "METER_POLICY", rules(tmp_path, {"free": limits}, **changes), raising=False
        )
        opened.append(Metered(tmp_path, view, kind))
        return opened[-1]

    yield open_
    enter(None)  # some were left as no server leaves one
    for each in opened:
        each.meter.meter.close()


def taken(response: HttpResponseBase) -> tuple[list[bytes], BaseException | None]:
    """Take what passes of a response, as a server does, and how it broke off."""
    chunks: list[bytes] = []
    try:
        if getattr(response, "is_async", False):
            asyncio.run(_ataken(response, chunks))
        else:
            chunks.extend(response)
    except (StreamCut, asyncio.CancelledError) as cut:
        return chunks, cut
    return chunks, None


async def _ataken(response: HttpResponseBase, chunks: list[bytes]) -> None:
    async for chunk in response:  # type: ignore[attr-defined]
        chunks.append(chunk)  # noqa: PERF401 - what came before the cut is wanted too


def whole(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(b"w" * 1200, status=203, headers={"Content-Length": "1200", "X-Own": "1"})
    response.set_cookie("a", "b")
    return response


def streamed(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse([b"a" * 400, b"b" * 400, b"c" * 400], status=203, headers={"X-Own": "1"})


async def _achunks() -> AsyncIterator[bytes]:
    for byte in (b"a", b"b", b"c"):
        yield byte * 400


def astreamed(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_achunks(), status=203, headers={"X-Own": "1"})


WAYS = pytest.mark.parametrize(
    ("view", "kind"),
    [(view, kind) for view in (whole, streamed) for kind in ("wsgi", "asgi", "asgi of sync")]
    + [(astreamed, "asgi"), (astreamed, "asgi of sync")],
)


@WAYS
def test_a_response_is_cut_at_its_cap(metered: Callable[..., Metered], view: View, kind: str) -> None:
    """What it says of itself stays, its Content-Length included; what it is made of ends at the cap."""
    subject = metered(view, kind, CUT)
    response = subject.ask()
    chunks, cut = taken(response)
    assert cut is not None
    assert sum(map(len, chunks)) == 1000
    assert (response.status_code, response["X-Own"]) == (203, "1")
    if view is whole:
        assert response["Content-Length"] == "1200"
        assert response.cookies["a"].value == "b"
    response.close()
    (event,) = subject.events()
    assert (event["status"], event["response_bytes"], event["limited_by"]) == (203, 1000, ["egress"])


@KINDS
@pytest.mark.parametrize("view", [whole, streamed])
def test_a_cap_that_finishes_lets_all_of_it_pass(
    metered: Callable[..., Metered], view: View, kind: str
) -> None:
    subject = metered(view, kind, EGRESS)
    chunks, cut = taken(subject.ask())
    assert (sum(map(len, chunks)), cut) == (1200, None)
    assert "limited_by" not in subject.events()[0]
    assert subject.ask().status_code == 429


@KINDS
def test_what_fits_after_all_stays_as_it_is(metered: Callable[..., Metered], kind: str) -> None:
    """A body beyond its reserve and within its cap is asked for, and is the view's own response."""
    response = HttpResponse(b"w" * 900)
    assert metered(lambda _: response, kind, CUT).ask() is response


@KINDS
def test_what_has_no_content_is_not_cut(metered: Callable[..., Metered], kind: str) -> None:
    subject = metered(whole, kind, CUT)
    assert subject.ask("HEAD")["Content-Length"] == "1200"
    assert subject.events()[0]["response_bytes"] == 0


@KINDS
def test_a_declared_upload_is_refused_unread(metered: Callable[..., Metered], kind: str) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        raise AssertionError("the view is not to be called")

    assert metered(view, kind, INGRESS).ask("POST", b"x" * 300_000).status_code == 413


@pytest.mark.parametrize("kind", ["asgi", "asgi of sync"])
def test_an_upload_without_a_length_is_refused(metered: Callable[..., Metered], kind: str) -> None:
    """Django has read all of it by then: no view sees it, and so nothing of it is counted."""
    seen: list[int] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(len(request.body))
        return HttpResponse(b"of the view")

    subject = metered(view, kind, INGRESS)
    uploads = ((150_000, b"someone"), (60_000, b"someone"), (300_000, b"another"))
    statuses = [
        subject.ask("POST", b"x" * size, declares=False, subject=who).status_code for size, who in uploads
    ]
    assert statuses == [200, 429, 413]
    assert seen == [150_000]
    events = subject.events()
    assert [event["status"] for event in events] == statuses
    assert [event["request_bytes"] for event in events] == [150_000, 0, 0]
    assert [event["requests"] for event in events] == [1, 0, 0]
    assert [event.get("limited_by") for event in events] == [None, ["ingress"], ["ingress"]]


@pytest.mark.parametrize("handles", [True, False])
def test_an_upload_refused_while_it_is_read(metered: Callable[..., Metered], handles: bool) -> None:
    """Whatever the view makes of it, we answer, and what the view's response held is closed."""
    closed: list[bool] = []

    def view(request: HttpRequest) -> HttpResponse:
        try:
            request._stream.read()
        except UploadRefused:
            if not handles:
                return HttpResponse(status=500)
        response = HttpResponse(b"of the view")
        response._resource_closers.append(lambda: closed.append(True))  # type: ignore[attr-defined]
        return response

    subject = metered(view, "wsgi", INGRESS)
    request = WSGIRequest(environ("POST", HTTP_TRANSFER_ENCODING="chunked", CONTENT_LENGTH=""))
    request._stream = io.BytesIO(b"x" * 400_000)  # as a Django that reads chunked uploads would
    response = subject.meter(request)
    assert response.status_code == 413  # type: ignore[union-attr]
    response.close()  # type: ignore[union-attr]
    assert closed == [True] * handles
    (event,) = subject.events()
    assert (event["status"], event["requests"], event["limited_by"]) == (413, 0, ["ingress"])
    assert event["request_bytes"] == 3 * 65_536


@WAYS
def test_a_slot_is_free_before_the_client_has_all(
    metered: Callable[..., Metered], view: View, kind: str
) -> None:
    subject = metered(view, kind, SLOT)
    for _ in range(3):
        response = subject.ask()
        if view is not whole:
            assert subject.ask().status_code == 429
        assert taken(response)[1] is None
        left = subject.ask()
        assert left.status_code == 203
        left.close()


@KINDS
def test_a_view_that_fails_gives_all_back(metered: Callable[..., Metered], kind: str) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        raise RuntimeError("the view fails")

    subject = metered(view, kind, SLOT)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            subject.ask()


@KINDS
def test_units_are_heard_in_a_field_and_the_field_is_stripped(
    metered: Callable[..., Metered], kind: str
) -> None:
    meters = {
        "requests": {"count": "requests"},
        "tokens": {"count": "reported", "from_header": "X-Tokens", "strip": True},
    }

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(b"x", headers={"X-Tokens": "7", "X-Kept": "1"})

    subject = metered(view, kind, meters=meters)
    response = subject.ask()
    assert "X-Tokens" not in response
    assert response["X-Kept"] == "1"
    assert subject.events()[0]["tokens"] == 7


SERVERS = {
    "django-gunicorn": "apps.limits_django:app",
    "django-uvicorn": "apps.limits_django:asgi",
}
every_server = pytest.mark.parametrize("name", list(SERVERS))


@pytest.fixture
def server(name: str, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if name == "django-uvicorn":
        monkeypatch.setenv("SUBJECT_ASYNC", "1")
    running = serve(name, SERVERS[name], tmp_path, redis_url)
    yield running
    running.kill()


@every_server
@pytest.mark.parametrize("path", ["sized", "chunked", "declared"])
def test_a_client_notices_the_cut(server: Server, path: str) -> None:
    """It has every byte of the cap, none more, and no end; no server quotes a failure."""
    raw = wire.request("GET", f"/v1/{path}?size=500000", key("cut"))
    answer = wire.talk(server.port, raw)
    assert (answer.status, answer.received, answer.whole, answer.excess) == (200, 300_000, False, 0)
    (event,) = server.events_of("someone", 1)
    assert event["data"]["response_bytes"] == 300_000  # type: ignore[index]
    assert b"Traceback" not in server.output
    assert wire.talk(server.port, raw).status == 429


@every_server
def test_uploads_are_refused_by_their_limit(server: Server) -> None:
    declared = wire.request("POST", "/v1/drain", key("ingress"), b"u" * 150_000)
    assert wire.talk(server.port, declared, method="POST").body == b"150000"
    assert wire.talk(server.port, declared, method="POST").status == 429
    never = wire.request("POST", "/v1/drain", key("ingress", "other"), b"u" * 400_000)
    assert wire.talk(server.port, never, method="POST").status == 413
    if server.name == "django-uvicorn":
        chunks = wire.request("POST", "/v1/drain", key("ingress", "third"), (b"u" * 50_000,) * 8)
        assert wire.talk(server.port, chunks, method="POST").status == 413
        (event,) = server.events_of("third", 1)
        assert event["data"]["limited_by"] == ["ingress"]  # type: ignore[index]


@every_server
def test_one_slot_serves_one_client_for_ever(server: Server) -> None:
    """300 requests one after the other: whoever has an answer finds the slot free."""
    paths = ("sized?size=10", "chunked?size=10", "declared?size=10", "fail")
    seen = [
        wire.talk(server.port, wire.request("GET", f"/v1/{paths[number % 4]}", key("one"))).status
        for number in range(300)
    ]
    assert set(seen) == {200, 500}
    assert seen.count(500) == 75


@every_server
def test_no_more_than_its_slots_are_inside(server: Server) -> None:
    answers: list[wire.Answer] = []

    def ask() -> None:
        raw = wire.request("GET", "/v1/inside", key("four"))
        answers.extend(wire.talk(server.port, raw) for _ in range(3))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {200, 429}
    assert max(int(answer.body) for answer in answers if answer.status == 200) <= 4


@every_server
def test_a_download_left_early_gives_all_back(server: Server) -> None:
    """Slot and reserve are free as soon as the server has noticed."""
    for _ in range(5):
        raw = wire.request("GET", "/v1/chunked?size=90000000", key("one", "leaver"))
        servers.wait_for(
            lambda raw=raw: wire.talk(server.port, raw, leave_after=100_000).status == 200,  # type: ignore[misc]
            "the slot to be free",
        )
    events = server.events_of("leaver", 5)
    assert all("limited_by" not in event["data"] for event in events)  # type: ignore[operator]
