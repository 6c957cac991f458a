"""One process's meter, put together: what it records, what it refuses with, and what it warns of."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.admission import Answer
from meter_mw.meter import Meter
from meter_mw.policy.problems import PolicyError
from support.policies import policy, preflight, rate, request, route, sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meter_mw.respond import Body

NEIGHBOUR = """
import sys
from pathlib import Path
from meter_mw.journal import Journal
Journal(Path(sys.argv[1]), "urn:meter-mw:orders-api").append(b"{}")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def open_meter(tmp_path: Path) -> Iterator[Callable[..., Meter]]:
    """Open meters with one limit and a file sink; all are closed when the test ends."""
    opened: list[Meter] = []

    def open_(refusal: Body | None = None) -> Meter:
        rules = policy(rate(1), journal=tmp_path / "journal", sinks=[sink("file", tmp_path / "usage.jsonl")])
        opened.append(Meter(rules, refusal=refusal))
        return opened[-1]

    yield open_
    for meter in opened:
        meter.close()


def open_files() -> int:
    """Count this process's file descriptors."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def serve(meter: Meter) -> None:
    """Take one request through."""
    exchange = meter.exchange(meter.admit(request(key="k")), "GET")
    exchange.begin(200, None)
    meter.finish(exchange)


def test_one_event_for_one_exchange_however_often_it_is_finished(
    open_meter: Callable[..., Meter], tmp_path: Path
) -> None:
    """An exchange is recorded once."""
    meter = open_meter()
    exchange = meter.exchange(meter.admit(request(key="k")), "GET")
    for _ in range(3):
        meter.finish(exchange)
    assert meter.flush()
    assert len((tmp_path / "usage.jsonl").read_text().splitlines()) == 1


def test_forms_are_kept_for_events_that_come_again(tmp_path: Path) -> None:
    """Preflights of one address have one; what has a price of its own has none, and the event says it."""
    prices = iter((3, 4))
    rules = policy(
        rate(1_000),
        routes=[route("/v1/orders"), route("/priced", pricing=lambda _: next(prices))],
        journal=tmp_path / "journal",
        sinks=[sink("file", tmp_path / "usage.jsonl")],
    )
    meter = Meter(rules)
    for _ in range(2):
        for wanted in (preflight(), request("/priced", key="k")):
            exchange = meter.exchange(meter.admit(wanted), wanted.method)
            exchange.begin(200, None)
            meter.finish(exchange)
    assert len(meter._books._forms) == 1
    assert meter.flush()
    meter.close()
    told = [json.loads(line)["data"] for line in (tmp_path / "usage.jsonl").read_text().splitlines()]
    assert [(each["method"], each["requests"]) for each in told] == [
        ("OPTIONS", 0),
        ("GET", 3),
        ("OPTIONS", 0),
        ("GET", 4),
    ]


def test_memory_in_several_processes_is_warned_of(
    open_meter: Callable[..., Meter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second process that counts in its own memory says once that each allows the whole limit."""
    command = [sys.executable, "-c", NEIGHBOUR, str(tmp_path / "journal")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as neighbour:
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline() == b"ready\n"
        meter = open_meter()
        with caplog.at_level(logging.WARNING):
            serve(meter)
            serve(meter)
    warned = [each.message for each in caplog.records if "several processes" in each.message]
    assert len(warned) == 1
    assert warned[0].startswith("orders-api is metered by several processes, each with memory://")


def test_two_meters_of_one_process_are_no_neighbours(
    open_meter: Callable[..., Meter], caplog: pytest.LogCaptureFixture
) -> None:
    """Two metered apps in one process write to one journal, and nobody is warned."""
    with caplog.at_level(logging.WARNING):
        serve(open_meter())
        serve(open_meter())
    assert not caplog.records


def test_a_meter_that_is_let_go_takes_its_threads_and_files_along(tmp_path: Path) -> None:
    """Apps that are made anew for each test leave nothing open, and their events are delivered."""
    gc.collect()  # what earlier tests have let go
    threads, files = threading.active_count(), open_files()
    usage = tmp_path / "usage.jsonl"
    for _ in range(5):
        rules = policy(rate(1), journal=tmp_path / "journal", sinks=[sink("file", usage)])
        serve(Meter(rules))
        gc.collect()
    for thread in threading.enumerate():
        if thread.name == "meter-mw-keeper":
            thread.join(5)
    assert threading.active_count() <= threads
    assert open_files() <= files
    assert len(usage.read_text().splitlines()) == 5


def test_a_store_that_is_away_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests that are served without a store are not served in silence."""
    rules = policy(rate(1), store="redis://127.0.0.1:1/0", journal=tmp_path / "j", sinks=[sink("stdout")])
    meter = Meter(rules)
    for _ in range(3):
        assert meter.admit(request(key="k")).answer is Answer.ALLOWED
    meter.close(0)
    said = [each.message for each in caplog.records if "decided as" in each.message]
    assert len(said) == 1
    assert said[0].startswith("the store is away")


def test_a_store_that_cannot_be_meant_is_a_mistake_of_the_policy(tmp_path: Path) -> None:
    """An option that no connection knows is said as the policy's mistakes are."""
    rules = policy(rate(1), store="redis://localhost/0?foo=bar", journal=tmp_path / "j")
    with pytest.raises(PolicyError, match=r"^store: "):
        Meter(rules)


def test_a_process_alone_is_not_warned(
    open_meter: Callable[..., Meter], caplog: pytest.LogCaptureFixture
) -> None:
    """One process may count in memory."""
    with caplog.at_level(logging.WARNING):
        serve(open_meter())
    assert not caplog.records


@pytest.mark.parametrize(
    "answer", [("text/plain", "a text"), ("text/plain\r\nSet-Cookie: x", b"x"), None, (b"text/plain", b"x")]
)
def test_a_refusal_body_of_the_wrong_kind_is_replaced(
    open_meter: Callable[..., Meter], answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """An app's own body that is no media type and bytes is logged, and the problem document is sent."""
    meter = open_meter(lambda refusal: answer)
    serve(meter)
    admission = meter.admit(request(key="k"))
    assert admission.answer is Answer.DENIED
    refusal, fields, body = meter.refuse(admission)
    assert dict(fields)["Content-Type"] == "application/problem+json"
    assert json.loads(body)["status"] == refusal.status == 429
    assert "refusal body failed" in caplog.text
