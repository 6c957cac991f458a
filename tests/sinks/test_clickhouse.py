"""The clickhouse sink against a server that errs, forgets tokens and wraps numbers as the real one does."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from meter_mw.sinks import Delivered, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.base import Totals
from meter_mw.sinks.clickhouse import COLUMNS, KIND, ClickhouseSink
from meter_mw.testing.sinks import SinkConformance, event
from support.fakes.clickhouse import PASSWORD, TABLE, USER, FakeClickhouse, failure
from support.fakes.vendor import Said
from support.journeys import through_an_outage
from support.ledgers import HOUR_US, NOON_US, SOURCE, facts, mixture, usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[FakeClickhouse]:
    server = FakeClickhouse(window=100)
    yield server
    server.close()


def sink_to(server: FakeClickhouse, **options: bool) -> ClickhouseSink:
    return ClickhouseSink(f"{server.url}/", SOURCE, user=USER, secret=PASSWORD, timeout=5, **options)


@pytest.fixture
def sink(server: FakeClickhouse) -> Iterator[ClickhouseSink]:
    sink = sink_to(server)
    yield sink
    sink.close()


class ClickhouseRig:
    secrets = (PASSWORD,)

    def __init__(self, server: FakeClickhouse) -> None:
        self._server = server
        self.sink = sink_to(server)

    def received(self) -> list[dict[str, object]]:
        return [json.loads(row["raw"]) for row in self._server.inserted]

    def fail(self) -> None:
        self._server.is_down = True

    def recover(self) -> None:
        self._server.is_down = False


class TestClickhouseSink(SinkConformance):
    @pytest.fixture
    def rig(self, server: FakeClickhouse) -> Iterator[ClickhouseRig]:
        rig = ClickhouseRig(server)
        yield rig
        rig.sink.close()


def test_a_row_has_what_the_event_says(server: FakeClickhouse, sink: ClickhouseSink) -> None:
    """Columns are those of the ledger; the time keeps its µs, integers are integers."""
    told = {"method": "GET", "status": 200, "plan": "pro", "key": "k1_a", "account": "group", "policy": "ee"}
    payload = usage(
        1, time_us=NOON_US + 127_149, **told, tokens=2**52, overage={"month": 1}, response_bytes=-8
    )
    assert list(sink.send([payload])) == [Delivered()]
    row = {
        "id": "event-1",
        "source": SOURCE,
        "type": "meter_mw.request.v1",
        "subject": "acme",
        "time": "2026-01-01 12:00:00.127149",
        "route": "r",
        "amends": "",
        "requests": 1,
        "request_bytes": 0,
        "response_bytes": -8,
        "quantities": {"tokens": 2**52},
        "overage": {"month": 1},
        "raw": payload.decode(),
    }
    assert server.inserted == [row | told]
    assert set(COLUMNS) == set(TABLE)


def test_a_batch_has_its_token_again(server: FakeClickhouse, sink: ClickhouseSink) -> None:
    """A batch whose answer was lost is sent as it was, with the token that it had: it counts once."""
    batch = [usage(number) for number in range(5)]
    sink.send([])
    sink.send([usage("first")])
    server.faults = ["lost"]
    assert all(isinstance(each, Unknown) for each in sink.send(batch))
    assert list(sink.send(batch)) == [Delivered()] * 5
    first, second = (post for post in server.posts[-2:])
    assert first.one("insert_deduplication_token") == second.one("insert_deduplication_token")
    assert first.body == second.body
    assert [row["id"] for row in server.inserted] == ["event-first", *(f"event-{n}" for n in range(5))]
    sink.send(batch[:4])
    assert server.posts[-1].one("insert_deduplication_token") != first.one("insert_deduplication_token")


@pytest.mark.parametrize("collect", [False, True])
def test_without_a_window_the_table_leaves_one_of_each(collect: bool) -> None:
    """Where no token is known again, rows come twice, and queries with FINAL see each once."""
    server = FakeClickhouse(window=0)
    sink = sink_to(server, collect=collect)
    batch = mixture(seed=1, count=50)
    server.faults = [None, "lost"]
    sink.send(batch)
    sink.send(batch)
    found = sink.totals(["acme", "globex", "initech"], NOON_US - 9 * HOUR_US, NOON_US + 9 * HOUR_US)
    sink.close()
    server.close()
    assert len(server.inserted) == 100
    assert found == facts(batch)
    waits = {(post.one("async_insert"), post.one("wait_for_async_insert")) for post in server.posts[1:3]}
    assert waits == {("1", "1") if collect else ("0", None)}


@pytest.mark.parametrize("block", [1_000_000, 10])
def test_a_row_that_does_not_fit_stands_alone(
    server: FakeClickhouse, sink: ClickhouseSink, block: int
) -> None:
    """The row is found by halving; what blocks before it had left in the table counts once all the same."""
    server.block = block
    batch = [usage(number) for number in range(100)]
    batch[37] = usage(37, overage={"month": 0.5})
    outcomes = sink.send(batch)
    assert [number for number, each in enumerate(outcomes) if each != Delivered()] == [37]
    assert isinstance(outcomes[37], Permanent)
    assert "Code: 563. DB::Exception: Cannot read Map from text" in outcomes[37].reason
    assert sink.totals(["acme"], 0, 2 * NOON_US) == {("acme", "requests"): 99}


def test_a_refusal_does_not_quote_the_row(server: FakeClickhouse, sink: ClickhouseSink) -> None:
    """The server quotes what it could not read; a log is no place for that."""
    server.table = {**TABLE, "amends": "UInt16"}
    (outcome,) = sink.send([usage(1)])
    assert outcome == Permanent("HTTP 400 Code: 27. DB::Exception: Cannot parse input: expected '\"'")


def test_what_is_no_event_of_usage_is_not_sent(server: FakeClickhouse, sink: ClickhouseSink) -> None:
    """The server would wrap a number that is too large; it never sees one."""
    outcomes = sink.send([usage(1), b"{", usage(2, tokens=2**70), usage(3)])
    assert [type(each) for each in outcomes] == [Delivered, Permanent, Permanent, Delivered]
    assert [row["id"] for row in server.inserted] == ["event-1", "event-3"]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (failure(500, 241, "MEMORY_LIMIT_EXCEEDED", "Memory limit"), Retry),
        (failure(500, 252, "TOO_MANY_PARTS", "Too many parts"), Retry),
        (failure(500, 242, "TABLE_IS_READ_ONLY", "Table is in readonly mode"), Retry),
        (failure(403, 497, "ACCESS_DENIED", "Not enough privileges"), Retry),
        (failure(400, 117, "INCORRECT_DATA", "Unknown field found while parsing"), Retry),
        (failure(500, 159, "TIMEOUT_EXCEEDED", "Timeout exceeded"), Unknown),
        (failure(500, 319, "UNKNOWN_STATUS_OF_INSERT", "Unknown status"), Unknown),
        (failure(500, 27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", "Cannot parse"), Permanent),
        (Said(413), Permanent),
        (Said(400, b"<html>"), Retry),
        (Said(502), Retry),
    ],
)
def test_errors_by_their_code(
    server: FakeClickhouse, sink: ClickhouseSink, said: Said, outcome: type[Outcome]
) -> None:
    """Only what says that a row does not fit parks it; all else waits, for the server or the operator."""
    sink.send([usage(0)])
    server.faults = [said]
    assert isinstance(sink.send([usage(1)])[0], outcome)
    assert list(sink.send([usage(1)])) == [Delivered()]


def test_retry_after_is_passed_on(server: FakeClickhouse, sink: ClickhouseSink) -> None:
    """A proxy before the server may order a wait."""
    sink.send([usage(0)])
    server.faults = [Said(429, b"", {"Retry-After": "17"})]
    assert sink.send([usage(1)])[0] == Retry(17.0, "HTTP 429")


def test_a_table_that_is_not_there_is_said(
    server: FakeClickhouse, sink: ClickhouseSink, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the table, or a column of it, events wait, and the words say what is missing."""
    server.table = None
    (outcome,) = sink.send([usage(1)])
    assert isinstance(outcome, Retry)
    assert "Table default.meter_events does not exist" in outcome.reason
    server.table = {name: kind for name, kind in TABLE.items() if name not in ("overage", "raw")}
    (outcome,) = sink.send([usage(1)])
    assert isinstance(outcome, Retry)
    assert "has no column overage, raw; docs/events.md has the table" in outcome.reason
    assert "has no column overage, raw" in caplog.text
    server.table = {**TABLE, "note": "String"}
    assert list(sink.send([usage(1)])) == [Delivered()]
    assert len(server.posts) == 4


def test_an_answer_of_somebody_else_is_waited_out(server: FakeClickhouse, sink: ClickhouseSink) -> None:
    """A page in the place of rows, or a code that is none, is no exception."""
    server.faults = [Said(200, b"<html>welcome"), None, Said(500, b"", {"X-ClickHouse-Exception-Code": "x"})]
    outcomes = [sink.send([usage(1)])[0] for _ in range(3)]
    assert [type(each) for each in outcomes] == [Retry, Retry, Delivered]


def test_a_server_may_quote_its_sums(server: FakeClickhouse, sink: ClickhouseSink) -> None:
    """64 bits are texts in the JSON of some versions."""
    row = (
        b'{"subject":"acme","requests":"7","request_bytes":"0","response_bytes":"0","quantities":{"t":"2"}}\n'
    )
    server.faults = [Said(200, row)]
    assert sink.totals(["acme"], 0, NOON_US) == {("acme", "requests"): 7, ("acme", "t"): 2}


def test_a_wrong_password_pauses(server: FakeClickhouse, caplog: pytest.LogCaptureFixture) -> None:
    """It is the operator's mistake: nothing is parked, and the log says so without the password."""
    sink = ClickhouseSink(server.url, SOURCE, user=USER, secret="canary-wrong")
    with caplog.at_level(logging.DEBUG):
        (outcome,) = sink.send([event(1)])
    sink.close()
    assert isinstance(outcome, Retry)
    assert "AUTHENTICATION_FAILED" in outcome.reason
    assert "check the address and the secret" in caplog.text
    assert "canary" not in outcome.reason + caplog.text


def test_totals_ask_for_what_is_meant(server: FakeClickhouse, sink: ClickhouseSink) -> None:
    """Sums are of this service, of the subjects asked for whatever their names, and half-open in time."""
    assert isinstance(sink, Totals)
    odd = "o'hara\\'); DROP TABLE x; --"
    other = usage("other", source="urn:meter-mw:other")
    events = [usage(1, subject=odd), usage(2, time_us=NOON_US + 60_000_000), usage(3), other]
    sink.send(events)
    subjects = [odd, *(f"s-{number}" for number in range(600)), "acme"]
    assert sink.totals(subjects, NOON_US, NOON_US + 60_000_000) == {
        (odd, "requests"): 1,
        ("acme", "requests"): 1,
    }
    server.is_down = True
    with pytest.raises(ConnectionError, match="HTTP 503"):
        sink.totals(["acme"], 0, NOON_US)


def test_two_tables_are_two_destinations() -> None:
    """A name is of the table too, and the query of a URL goes along."""
    names = {
        ClickhouseSink(f"http://h/{query}", SOURCE, table=table).name
        for query in ("", "?database=x")
        for table in ("a", "b")
    }
    assert len(names) == 4
    assert KIND.for_billing


def test_all_arrives_through_an_outage(server: FakeClickhouse, tmp_path: Path) -> None:
    """Events of an app that goes on while its server is away are there in the end, each once."""

    def fail() -> None:
        server.is_down = True

    def recover() -> None:
        server.faults = ["lost", "cut"]
        server.is_down = False

    sink = {"clickhouse": server.url, "user": USER, "secret": "${CLICKHOUSE_PASSWORD}"}
    recorded = through_an_outage(tmp_path, sink, {"CLICKHOUSE_PASSWORD": PASSWORD}, fail, recover)
    assert sorted(row["id"] for row in server.inserted) == sorted(str(each["id"]) for each in recorded)
