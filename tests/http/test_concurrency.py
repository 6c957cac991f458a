"""Caps under 50 concurrent streams over 4 workers: what cuts is not passed by a byte, by all together.

What finishes is passed by what was in flight: of each response that had begun when the cap was used up, the
bytes that were still to come and were not held for it. So the sum of what is served lies between the cap and
the cap plus, for each of those streams, its length.
"""

from __future__ import annotations

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import wire

import servers
from servers import wait_for
from support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

STREAMS = 50
WORKERS = 4
CAP = 20_000_000
LENGTH = 2_000_000
PART = 40_000
NAMES = ("uvicorn-httptools", "gunicorn-gthread")


@pytest.fixture(scope="module", params=NAMES)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give four workers with one Redis."""
    home = tmp_path_factory.mktemp(request.param) / "home"
    with RedisServer() as redis:
        environment = {"SUBJECT_REDIS": redis.url}
        with servers.running(request.param, home, workers=WORKERS, environment=environment) as server:
            wait_for(lambda: len(server.workers()) >= WORKERS, "its workers")
            yield server


class Crowd:
    """Clients of one subject that all ask at once."""

    def __init__(self, server: Server, plan: str) -> None:
        self.server = server
        self.subject = f"s-{uuid.uuid4().hex}"
        self._fields = (("X-API-Key", f"{plan}.{self.subject}"), ("X-Variant", "redis"))

    def ask(self, method: str, target: str, body: bytes | tuple[bytes, ...] = b"") -> wire.Answer:
        return wire.talk(self.server.port, wire.request(method, target, self._fields, body), method=method)

    def together(self, *words: Any) -> list[wire.Answer]:
        with ThreadPoolExecutor(STREAMS) as pool:
            return list(pool.map(lambda _: self.ask(*words), range(STREAMS)))

    def events(self, count: int) -> list[dict[str, Any]]:
        events = self.server.events_of(self.subject, count, "redis")
        assert len(events) == count
        return [event["data"] for event in events]  # type: ignore[misc]


def served(answers: list[wire.Answer]) -> list[wire.Answer]:
    assert {answer.status for answer in answers} <= {200, 429}
    return [answer for answer in answers if answer.status == 200]


STREAM = f"/v1/stream?count={LENGTH // PART}&size={PART}&pause=0.005"


@pytest.mark.parametrize("target", [STREAM, STREAM + "&declared=1"], ids=["undeclared", "declared"])
def test_streams_that_are_cut(fleet: Server, target: str) -> None:
    """All together get the cap, and not one byte more; the next request is refused."""
    crowd = Crowd(fleet, "flood")
    answers = served(crowd.together("GET", target))
    received = sum(answer.received for answer in answers)
    events = crowd.events(len(answers))
    whole = sum(answer.whole for answer in answers)
    print(f"CUT {fleet.name}: {len(answers)} streams, {whole} whole, {received} received, {CAP} is the cap")
    assert received == sum(event["response_bytes"] for event in events)
    assert received <= CAP
    assert all(answer.whole == (answer.received == LENGTH) for answer in answers)
    # Threads may be so few, or so late, that those which begin use all of it up and none is left to be cut.
    assert whole < len(answers) or received == CAP
    rest = CAP - received
    assert rest <= STREAMS * 64 * 1024
    answer = crowd.ask("GET", "/v1/sized?size=4000000")
    assert (answer.status, answer.received) == ((200, rest) if rest else (429, answer.received))


def test_streams_that_finish(fleet: Server) -> None:
    """Every stream that began is whole; the cap is passed by what was in flight, and by no other stream."""
    crowd = Crowd(fleet, "tide")
    answers = served(crowd.together("GET", STREAM))
    received = sum(answer.received for answer in answers)
    events = crowd.events(len(answers))
    beyond = received - CAP
    print(f"FINISH {fleet.name}: {len(answers)} streams, {received} received, {beyond} beyond the cap")
    assert all(answer.whole and answer.received == LENGTH for answer in answers)
    assert received == sum(event["response_bytes"] for event in events)
    assert CAP <= received <= CAP + len(answers) * LENGTH
    assert crowd.ask("GET", "/v1/items/1").status == 429


def test_uploads_of_declared_length(fleet: Server) -> None:
    """As many as fit are read, and the others are refused before that."""
    crowd = Crowd(fleet, "flood")
    answers = crowd.together("POST", "/v1/drain", b"u" * 1_000_000)
    assert Counter(answer.status for answer in answers) == {200: 20, 429: 30}
    assert sum(event["request_bytes"] for event in crowd.events(20)) == CAP


def test_uploads_of_unknown_length(fleet: Server) -> None:
    """Those that no longer fit are stopped; all that was read fits the cap."""
    crowd = Crowd(fleet, "flood")
    answers = crowd.together("POST", "/v1/drain", (b"u" * 50_000,) * 20)
    statuses = Counter(answer.status for answer in answers)
    whole = [answer for answer in answers if answer.status == 200]
    assert all(answer.body == b"1000000" for answer in whole)

    def served() -> int:
        found = crowd.server.events_of(crowd.subject, 1, "redis")
        return sum(event["data"]["status"] == 200 for event in found)

    wait_for(lambda: served() >= len(whole), "its events")
    events = [event["data"] for event in crowd.server.events_of(crowd.subject, len(whole), "redis")]
    read = sum(event["request_bytes"] for event in events)
    print(f"UPLOAD {fleet.name}: {dict(statuses)}, {read} read, {CAP} is the cap")
    assert set(statuses) <= {0, 200, 429}
    assert len(whole) * 1_000_000 <= read <= CAP
