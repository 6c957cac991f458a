"""The otlp sink against a collector on a real socket."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

import pytest

from meter_mw.sinks import Delivered, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.otlp import KIND, OtlpSink
from support.fakes.vendor import Asked, Said, Vendor
from support.ledgers import SOURCE, usage

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = ("requests", "request_bytes", "response_bytes", "tokens")
SECRET = "Bearer canary-token"


class Collector(Vendor):
    """Takes any request of metrics, strictly read, and answers as the protocol has it."""

    def answer(self, asked: Asked, fault: str | None) -> Said:
        if asked.path != "/v1/metrics" or asked.headers.get("content-type") != "application/json":
            return Said(404)
        if asked.headers.get("authorization") != SECRET:
            return Said(401)
        for metric in metrics(asked):
            for point in metric["sum"]["dataPoints"]:
                assert isinstance(point["asInt"], str)
                assert int(point["startTimeUnixNano"]) < int(point["timeUnixNano"])
        return Said(200, {"partialSuccess": {}})


def metrics(asked: Asked) -> list[dict[str, dict[str, list[dict[str, str]]]]]:
    """Give the metrics of a request."""
    (resource,) = json.loads(asked.body)["resourceMetrics"]
    (scope,) = resource["scopeMetrics"]
    found: list[dict[str, dict[str, list[dict[str, str]]]]] = scope["metrics"]
    return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def sink_to(collector: Collector, *labels: str, now: list[float] | None = None) -> OtlpSink:
    moments = now or [1000.0]
    return OtlpSink(
        f"{collector.url}/v1/metrics",
        SOURCE,
        FIELDS,
        labels=labels,
        secret=SECRET,
        timeout=5,
        clock=lambda: moments[0],
    )


def test_a_batch_is_delta_sums(collector: Collector) -> None:
    """Units are added up by field and labels; zeros, corrections and thresholds are not sent."""
    now = [1000.0]
    sink = sink_to(collector, "route", "plan", now=now)
    now[0] = 1005.5
    batch = [
        usage(1, route="read", plan="pro", response_bytes=5),
        usage(2, route="read", plan="pro", response_bytes=2**45),
        usage(3, route="write", tokens=7, requests=0),
        usage(4, kind="meter_mw.adjustment.v1", requests=-5, tokens=1),
        usage(5, kind="meter_mw.threshold.v1", tokens=9),
        b"{",
    ]
    outcomes = sink.send(batch)
    assert list(outcomes[:5]) == [Delivered()] * 5
    assert isinstance(outcomes[5], Permanent)
    sink.close()
    (post,) = collector.posts
    span = {"startTimeUnixNano": "1000000000000", "timeUnixNano": "1005500000000"}
    read = [
        {"key": "route", "value": {"stringValue": "read"}},
        {"key": "plan", "value": {"stringValue": "pro"}},
    ]
    sums = {"aggregationTemporality": 1, "isMonotonic": True}

    def metric(name: str, unit: str, labels: list[dict[str, object]], units: int) -> dict[str, object]:
        point = {"attributes": labels, **span, "asInt": str(units)}
        return {"name": name, "unit": unit, "sum": {**sums, "dataPoints": [point]}}

    assert metrics(post) == [
        metric("meter_mw.requests", "{request}", read, 2),
        metric("meter_mw.response_bytes", "By", read, 2**45 + 5),
        metric("meter_mw.tokens", "1", [{"key": "route", "value": {"stringValue": "write"}}], 7),
    ]
    resource = json.loads(post.body)["resourceMetrics"][0]["resource"]["attributes"]
    assert resource[0] == {"key": "service.name", "value": {"stringValue": "shop"}}


def test_spans_follow_one_another(collector: Collector) -> None:
    """A request begins where the one before it ended, also after a failure and when a clock goes back."""
    now = [1000.0]
    sink = sink_to(collector, now=now)
    for moment, faults in ((1001.0, []), (1002.0, [Said(503)]), (1003.0, []), (900.0, [])):
        now[0] = moment
        collector.faults = list(faults)
        sink.send([usage(1)])
    sink.close()
    points = [metrics(post)[0]["sum"]["dataPoints"][0] for post in collector.posts]
    seconds = 10**9
    spans = [(int(each["startTimeUnixNano"]), int(each["timeUnixNano"])) for each in points]
    assert spans == [
        (1000 * seconds, 1001 * seconds),
        (1001 * seconds, 1002 * seconds),
        (1001 * seconds, 1003 * seconds),
        (1003 * seconds, 1003 * seconds + 1),
    ]


def test_nothing_to_add_is_not_sent(collector: Collector) -> None:
    """A batch of thresholds alone, or of nothing, is no request."""
    sink = sink_to(collector)
    assert list(sink.send([])) == []
    assert list(sink.send([usage(1, kind="meter_mw.threshold.v1")])) == [Delivered()]
    sink.close()
    assert collector.posts == []


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        *((Said(status), Retry) for status in (429, 502, 503, 504, 401, 403, 404)),
        *((Said(status), Permanent) for status in (400, 413, 500)),
        ("cut", Unknown),
    ],
)
def test_what_may_be_sent_again(collector: Collector, fault: Said | str, outcome: type[Outcome]) -> None:
    """The protocol names four answers to retry; a wrong address or token waits for the operator."""
    sink = sink_to(collector)
    collector.faults = [fault]
    outcomes = sink.send([usage(1), usage(2)])
    sink.close()
    assert [type(each) for each in outcomes] == [outcome] * 2


def test_retry_after_is_passed_on(collector: Collector) -> None:
    """A collector that throttles says for how long."""
    sink = sink_to(collector)
    collector.faults = [Said(429, None, {"Retry-After": "7"})]
    assert list(sink.send([usage(1)])) == [Retry(7.0, "HTTP 429")]
    sink.close()


@pytest.mark.parametrize("said", [{"rejectedDataPoints": "3", "errorMessage": "too old"}, "no object"])
def test_partial_success_is_said_and_not_sent_again(
    collector: Collector, caplog: pytest.LogCaptureFixture, said: object
) -> None:
    """What a collector leaves out of a request is in the log."""
    sink = sink_to(collector)
    collector.faults = [Said(200, {"partialSuccess": said})]
    assert list(sink.send([usage(1)])) == [Delivered()]
    sink.close()
    assert ("3 data points were not taken: 'too old'" in caplog.text) == isinstance(said, dict)


def test_a_child_is_a_stream_of_its_own(collector: Collector) -> None:
    """After a fork parent and child are told apart, as a stream has one writer."""
    sink = sink_to(collector)
    sink.send([usage(1)])
    child = os.fork()
    if child == 0:
        os._exit(0 if list(sink.send([usage(2)])) == [Delivered()] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sink.send([usage(3)])
    sink.close()
    instances = [
        json.loads(post.body)["resourceMetrics"][0]["resource"]["attributes"][1] for post in collector.posts
    ]
    assert instances[0] == instances[2] != instances[1]


def test_the_secret_stays_out(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """Neither names, nor reasons, nor logs hold it."""
    sink = OtlpSink(f"{collector.url}/v1/metrics?token=canary", SOURCE, FIELDS, secret="canary")
    with caplog.at_level(logging.DEBUG):
        shown = f"{sink.name} {sink!r} {sink.send([usage(1)])}"
    sink.close()
    assert "HTTP 401" in shown
    assert "canary" not in shown + caplog.text
    assert not KIND.for_billing
