"""The lago sink, against a Lago with each of its stores, failing as it is known to."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown
from meter_mw.sinks.apis import Api
from meter_mw.sinks.base import Totals
from meter_mw.sinks.kinds import Service
from meter_mw.sinks.lago import KIND, LagoSink
from meter_mw.testing.sinks import SinkConformance, event
from support.fakes.lago import KEY, FakeLago, Metric
from support.fakes.vendor import Said
from support.journeys import SUBJECTS, through_an_outage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIELDS = ("requests", "response_bytes")
CODES = {"requests": "api_requests", "response_bytes": "api_bytes"}
WINDOW_START = int(datetime(2026, 11, 21, 9, 20, tzinfo=UTC).timestamp()) * 1_000_000
WINDOW = (WINDOW_START, WINDOW_START + 60_000_000)


@pytest.fixture(params=["postgres", "clickhouse"])
def lago(request: pytest.FixtureRequest) -> Iterator[FakeLago]:
    fake = FakeLago(request.param, *(Metric(code) for code in CODES.values()))
    yield fake
    fake.close()


@pytest.fixture
def open_sink(lago: FakeLago) -> Iterator[Callable[..., LagoSink]]:
    opened: list[LagoSink] = []

    def open_(token: str = KEY, **options: object) -> LagoSink:
        settings: dict[str, object] = {"fields": FIELDS, "meters": CODES, **options}
        opened.append(LagoSink(Api(lago.url, token), **settings))  # type: ignore[arg-type]
        return opened[-1]

    yield open_
    for sink in opened:
        sink.close()


def usage(number: int, **members: object) -> bytes:
    found = json.loads(event(number))
    data = {"requests": 1, "response_bytes": 10, "route": "items.read", "status": 200}
    found |= {"time": "2026-11-21T09:20:30.007999Z", "data": data, **members}
    return json.dumps(found).encode()


class LagoRig:
    secrets = (KEY,)

    def __init__(self, lago: FakeLago, sink: LagoSink) -> None:
        self._lago = lago
        self.sink = sink

    def received(self) -> list[dict[str, object]]:
        return [
            {"id": row.transaction_id.removesuffix(":requests"), "requests": row.properties["quantity"]}
            for row in self._lago.current()
        ]

    def fail(self) -> None:
        self._lago.is_down = True

    def recover(self) -> None:
        self._lago.is_down = False


class TestLagoSink(SinkConformance):
    @pytest.fixture
    def rig(self, lago: FakeLago, open_sink: Callable[..., LagoSink]) -> LagoRig:
        return LagoRig(lago, open_sink(fields=("requests",), meters={}))

    def expected(self, payload: bytes) -> dict[str, object]:
        found = json.loads(payload)
        return {"id": found["id"], "requests": str(found["data"]["requests"])}


def test_an_event_is_a_record_for_each_quantity(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """Ids of their own, whole numbers as texts, the time cut off to the ms, the subject's subscription."""
    assert list(open_sink(customers={"acme": "sub_17"}).send([usage(1)])) == [Delivered()]
    (post,) = lago.posts
    assert post.path == "/api/v1/events/batch"
    assert (post.headers["content-type"], post.headers["authorization"]) == (
        "application/json",
        f"Bearer {KEY}",
    )
    common = {"external_subscription_id": "sub_17", "timestamp": "1795252830.007"}
    assert json.loads(post.body)["events"] == [
        {
            **common,
            "transaction_id": "event-1:requests",
            "code": "api_requests",
            "properties": {"quantity": "1", "route": "items.read"},
        },
        {
            **common,
            "transaction_id": "event-1:response_bytes",
            "code": "api_bytes",
            "properties": {"quantity": "10", "route": "items.read"},
        },
    ]


def test_the_quantity_may_have_any_name(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """It comes before what else a record shows."""
    open_sink(quantity="route").send([usage(1)])
    assert [row.properties for row in lago.rows] == [{"route": "1"}, {"route": "10"}]


def test_a_zero_is_not_sent(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """An event of nothing but zeros is delivered with no request at all, and so is a threshold."""
    batch = [
        usage(1, data={"requests": 0}),
        usage(2, type="meter_mw.threshold.v1"),
        usage(3, data={"requests": 2}),
    ]
    assert list(open_sink().send(batch)) == [Delivered()] * 3
    assert [row.transaction_id for row in lago.rows] == ["event-3:requests"]


def test_the_greatest_batch_is_one_request(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """Fifty events of two quantities are the hundred records that Lago takes."""
    sink = open_sink()
    assert sink.max_batch == 50
    assert list(sink.send([usage(number) for number in range(50)])) == [Delivered()] * 50
    assert len(lago.posts) == 1


def test_more_records_than_lago_takes_are_several_requests(
    lago: FakeLago, open_sink: Callable[..., LagoSink]
) -> None:
    """None is refused for that."""
    assert list(open_sink().send([usage(number) for number in range(120)])) == [Delivered()] * 120
    assert [len(json.loads(post.body)["events"]) for post in lago.posts] == [100, 100, 40]


def test_a_lost_answer_bills_nothing_twice(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """PostgreSQL refuses the copies by name, ClickHouse puts each in the place of its twin."""
    lago.faults = ["lost"]
    sink = open_sink()
    batch = [usage(number) for number in range(5)]
    assert [type(each) for each in sink.send(batch)] == [Unknown] * 5
    again = Duplicate() if lago.store == "postgres" else Delivered()
    assert list(sink.send(batch)) == [again] * 5
    assert lago.billed("api_bytes", "acme") == 50
    assert lago.posts[0].body == lago.posts[1].body


def test_a_batch_in_part_known_costs_one_more_request(
    lago: FakeLago, open_sink: Callable[..., LagoSink]
) -> None:
    """Those that PostgreSQL names are delivered, the rest is sent again at once."""
    sink = open_sink()
    sink.send([usage(2), usage(5), usage(6, data={"requests": 1})])
    outcomes = sink.send([usage(number) for number in range(10)])
    known = {2: Duplicate(), 5: Duplicate()} if lago.store == "postgres" else {}
    assert list(outcomes) == [known.get(number, Delivered()) for number in range(10)]
    assert lago.billed("api_bytes", "acme") == 100
    assert len(lago.posts) == (3 if lago.store == "postgres" else 2)


def test_a_queue_that_took_a_part(open_sink: Callable[..., LagoSink], lago: FakeLago) -> None:
    """After a 500 nobody knows how many; all come again."""
    lago.faults = ["partial 3"]
    sink = open_sink()
    batch = [usage(number) for number in range(5)]
    assert [type(each) for each in sink.send(batch)] == [Unknown] * 5
    assert all(isinstance(each, Delivered | Duplicate) for each in sink.send(batch))
    assert lago.billed("api_bytes", "acme") == 50


def test_a_refused_record_parks_its_event_and_no_other(
    lago: FakeLago, open_sink: Callable[..., LagoSink]
) -> None:
    """What Lago names is parked with its reason; whatever else the event has is billed, and known later."""
    sink = open_sink()
    sink.send([usage(1)])
    details = {"2": {"code": ["value_is_mandatory"]}, "0": {"transaction_id": ["value_already_exist"]}}
    lago.faults = [Said(422, {"status": 422, "code": "validation_errors", "error_details": details})]
    outcomes = sink.send([usage(2), usage(3), usage(4)])
    assert [type(each) for each in outcomes] == [Delivered, Permanent, Delivered]
    assert "value_is_mandatory" in outcomes[1].reason  # type: ignore[union-attr]
    assert {row.transaction_id for row in lago.rows} >= {"event-3:response_bytes", "event-4:requests"}
    assert "event-3:requests" not in {row.transaction_id for row in lago.rows}


def test_a_refusal_that_names_nobody_is_narrowed_down(
    lago: FakeLago, open_sink: Callable[..., LagoSink]
) -> None:
    """By halves, down to the record."""
    take = lago.answer

    def picky(asked: object, fault: str | None) -> Said:
        said = b'"event-3:requests"' in asked.body  # type: ignore[attr-defined]
        return Said(413) if said else take(asked, fault)  # type: ignore[arg-type]

    lago.answer = picky  # type: ignore[method-assign]
    outcomes = open_sink().send([usage(number) for number in range(8)])
    assert [type(each) for each in outcomes] == [Delivered] * 3 + [Permanent] + [Delivered] * 4
    assert len(lago.current()) == 15


def test_a_single_record_that_is_known(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """Also as the answer to a single event has it, without a place."""
    details = {"transaction_id": ["value_already_exist"]}
    lago.faults = [Said(422, {"code": "validation_errors", "error_details": details})]
    assert list(open_sink().send([usage(1, data={"requests": 1})])) == [Duplicate()]


@pytest.mark.parametrize("body", [None, [], {"error_details": []}, {"error_details": {"7": {}, "x": {}}}, {}])
def test_a_422_of_another_form_ends_in_a_parked_event(
    lago: FakeLago, open_sink: Callable[..., LagoSink], body: object
) -> None:
    """Nothing is taken for delivered because of it."""
    lago.faults = [Said(422, body)]
    assert isinstance(open_sink().send([usage(1, data={"requests": 1})])[0], Permanent)


@pytest.mark.parametrize(
    ("headers", "after"),
    [({"X-RateLimit-Limit": "500", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "3"}, 3.0), ({}, None)],
)
def test_the_limit_on_requests_is_waited_for(
    lago: FakeLago, open_sink: Callable[..., LagoSink], headers: dict[str, str], after: float | None
) -> None:
    """Lago says the seconds in a field of its own."""
    lago.faults = [Said(429, {"status": 429, "error": "Too Many Requests"}, headers)]
    (outcome,) = open_sink().send([usage(1)])
    assert (type(outcome), outcome.after) == (Retry, after)  # type: ignore[union-attr]


def test_what_failed_comes_before_what_is_refused(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """An event with a refused record is not parked while its other record is not there."""
    details = {"0": {"code": ["value_is_mandatory"]}}
    lago.faults = [Said(422, {"error_details": details}), Said(429), None]
    sink = open_sink()
    assert isinstance(sink.send([usage(1)])[0], Retry)
    lago.faults = [Said(422, {"error_details": details}), None]
    assert isinstance(sink.send([usage(1)])[0], Permanent)
    assert [row.transaction_id for row in lago.rows] == ["event-1:response_bytes"]


@pytest.mark.parametrize("status", [401, 403, 404, 302, 409])
def test_an_operators_mistake_parks_nothing(
    lago: FakeLago, open_sink: Callable[..., LagoSink], status: int
) -> None:
    """The events wait."""
    lago.faults = [Said(status)]
    assert [type(each) for each in open_sink().send([usage(1), usage(2)])] == [Retry] * 2


def test_a_wrong_key_pauses(open_sink: Callable[..., LagoSink]) -> None:
    """A 401 of Lago's own."""
    assert isinstance(open_sink(token="other").send([usage(1)])[0], Retry)


def test_a_correction_is_a_negative_record(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """A sum takes it off."""
    correction = usage(
        2, type="meter_mw.adjustment.v1", data={"response_bytes": -4, "amends": "event-1", "reason": "a test"}
    )
    sink = open_sink()
    assert list(sink.send([usage(1), correction])) == [Delivered()] * 2
    assert lago.billed("api_bytes", "acme") == 6
    assert sink.totals(["acme"], *WINDOW) == {("acme", "requests"): 1, ("acme", "response_bytes"): 6}


def test_totals_are_of_the_window_and_the_subscription(
    lago: FakeLago, open_sink: Callable[..., LagoSink]
) -> None:
    """[start, end) of ours, where Lago counts both ends in; what it lists twice counts once."""
    sink = open_sink(customers={"acme": "sub_17"})
    moments = ["09:19:59.999999", "09:20:00", "09:20:59.999999", "09:21:00"]
    batch = [usage(number, time=f"2026-11-21T{moment}Z") for number, moment in enumerate(moments)]
    sink.send(batch)
    sink.send([*batch, usage(9, subject="globex", data={"response_bytes": 2**60})])
    assert sink.totals(["acme", "globex", "nobody"], *WINDOW) == {
        ("acme", "requests"): 2,
        ("acme", "response_bytes"): 20,
        ("globex", "response_bytes"): 2**60,
    }


@pytest.mark.parametrize("count", [99, 100, 101, 250])
def test_totals_of_many_records(lago: FakeLago, open_sink: Callable[..., LagoSink], count: int) -> None:
    """All pages are read."""
    sink = open_sink(fields=("requests",), meters={"requests": "api_requests"})
    for first in range(0, count, 100):
        sink.send([usage(number) for number in range(first, min(count, first + 100))])
    assert sink.totals(["acme"], *WINDOW) == {("acme", "requests"): count}


def test_what_lago_takes_and_never_bills_is_no_total(
    lago: FakeLago, open_sink: Callable[..., LagoSink], caplog: pytest.LogCaptureFixture
) -> None:
    """200 for a code that no metric has, and for a property that no metric sums: both are said."""
    sink = open_sink(meters={"requests": "api_reqests", "response_bytes": "api_bytes"}, quantity="units")
    assert list(sink.send([usage(1)])) == [Delivered()]
    assert lago.errors() == {
        "invalid_code": ["event-1:requests"],
        "missing_aggregation_property": ["event-1:response_bytes"],
    }
    with caplog.at_level(logging.WARNING):
        assert sink.totals(["acme"], *WINDOW) == {}
    assert "no billable metric api_reqests for requests" in caplog.text
    assert "the metric api_bytes is no sum_agg of units" in caplog.text


def test_totals_that_are_not_answered(lago: FakeLago, open_sink: Callable[..., LagoSink]) -> None:
    """An outage and a wrong key are said as what they are."""
    with pytest.raises(ConnectionError, match="401"):
        open_sink(token="other").totals(["acme"], *WINDOW)
    lago.is_down = True
    with pytest.raises(ConnectionError, match="503"):
        open_sink().totals(["acme"], *WINDOW)


def test_the_kind_opens_it(lago: FakeLago) -> None:
    """With the settings of a policy, and the defaults of the rest."""
    settings = KIND.set({"lago": lago.url, "secret": KEY, "meters": CODES})
    sink = KIND.open(settings, Service("urn:meter-mw:shop", (*FIELDS, "tokens"), Path("journal")))
    assert list(sink.send([usage(1)])) == [Delivered()]
    assert (sink.horizon, sink.max_batch) == (None, 50)
    assert isinstance(sink, Totals)
    sink.close()


def test_all_arrives_through_an_outage(lago: FakeLago, tmp_path: Path) -> None:
    """Through losses and half-taken batches, Lago bills what was recorded, each record once."""
    lago.faults = ["lost"]
    rule = {"lago": lago.url, "secret": "${KEY}", "meters": CODES}

    def fail() -> None:
        lago.is_down = True

    def recover() -> None:
        lago.faults = ["partial 7"]
        lago.is_down = False

    recorded = through_an_outage(tmp_path, rule, {"KEY": KEY}, fail, recover)
    sent = {
        f"{each['id']}:{field}": (each["subject"], each["data"][field])  # type: ignore[index]
        for each in recorded
        for field in CODES
        if each["data"].get(field)  # type: ignore[attr-defined]
    }
    assert sorted(row.transaction_id for row in lago.current()) == sorted(sent)
    for subject in SUBJECTS:
        units = sum(units for record, (who, units) in sent.items() if who == subject and "bytes" in record)
        assert lago.billed("api_bytes", subject) == units
