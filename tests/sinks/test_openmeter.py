"""The openmeter sink, against an OpenMeter that fails as it is known to."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.sinks import Delivered, Permanent, Retry, Unknown
from meter_mw.sinks.apis import Api
from meter_mw.sinks.base import Totals
from meter_mw.sinks.kinds import Service
from meter_mw.sinks.openmeter import KIND, OpenMeterSink
from meter_mw.testing.sinks import SinkConformance, event
from support.fakes.openmeter import TOKEN, FakeOpenMeter
from support.fakes.vendor import Said
from support.journeys import SUBJECTS, through_an_outage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIELDS = ("requests", "response_bytes")
WINDOW_START = int(datetime(2026, 11, 21, 9, 20, tzinfo=UTC).timestamp()) * 1_000_000
WINDOW = (WINDOW_START, WINDOW_START + 60_000_000)


@pytest.fixture
def openmeter() -> Iterator[FakeOpenMeter]:
    fake = FakeOpenMeter(*FIELDS)
    yield fake
    fake.close()


@pytest.fixture(params=["v1", "v3"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def base(openmeter: FakeOpenMeter, version: str) -> str:
    return openmeter.url + ("/api/v3" if version == "v3" else "")


@pytest.fixture
def open_sink(openmeter: FakeOpenMeter, version: str) -> Iterator[Callable[..., OpenMeterSink]]:
    opened: list[OpenMeterSink] = []

    def open_(
        token: str | None = TOKEN, fields: tuple[str, ...] = FIELDS, **options: object
    ) -> OpenMeterSink:
        api = Api(base(openmeter, version), token)
        opened.append(OpenMeterSink(api, version, fields, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_
    for sink in opened:
        sink.close()


def usage(
    number: int, *, time: str = "2026-11-21T09:20:30.999Z", subject: str = "acme", **members: object
) -> bytes:
    found = json.loads(event(number))
    found |= {"time": time, "subject": subject, "data": {"requests": 1, "response_bytes": 10}, **members}
    return json.dumps(found).encode()


class OpenMeterRig:
    secrets = (TOKEN,)

    def __init__(self, openmeter: FakeOpenMeter, sink: OpenMeterSink) -> None:
        self._openmeter = openmeter
        self.sink = sink

    def received(self) -> list[dict[str, object]]:
        return [each.event for each in self._openmeter.stored()]

    def fail(self) -> None:
        self._openmeter.is_down = True

    def recover(self) -> None:
        self._openmeter.is_down = False


class TestOpenMeterSink(SinkConformance):
    @pytest.fixture
    def rig(self, openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]) -> OpenMeterRig:
        return OpenMeterRig(openmeter, open_sink(fields=("requests",)))


def test_a_batch_is_one_request_as_the_version_wants_it(
    openmeter: FakeOpenMeter, version: str, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """The path, the bare content type and the token; extensions are left out, as v3 refuses them."""
    batch = [usage(1, partitionkey="k", sequence="0001", traceparent="00-1"), usage(2)]
    assert list(open_sink().send(batch)) == [Delivered()] * 2
    (post,) = openmeter.posts
    assert post.path == {"v1": "/api/v1/events", "v3": "/api/v3/openmeter/events"}[version]
    assert post.headers["content-type"] == "application/cloudevents-batch+json"
    assert post.headers["authorization"] == f"Bearer {TOKEN}"
    assert [each.event for each in openmeter.stored()] == [json.loads(usage(1)), json.loads(usage(2))]


def test_a_retry_is_the_same_bytes(openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]) -> None:
    """Nothing in it depends on the attempt."""
    openmeter.faults = ["lost"]
    sink = open_sink()
    assert [type(each) for each in sink.send([usage(1), usage(2)])] == [Unknown] * 2
    assert list(sink.send([usage(1), usage(2)])) == [Delivered()] * 2
    first, second = openmeter.posts
    assert first.body == second.body
    assert openmeter.ids() == ["event-1", "event-2"]
    assert openmeter.total("response_bytes", "acme") == 20


def test_a_batch_taken_in_part_is_sent_again_whole(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """After a 500 nobody knows which were taken: all come again, and none counts twice."""
    openmeter.faults = ["partial 2"]
    sink = open_sink()
    batch = [usage(number) for number in range(5)]
    assert [type(each) for each in sink.send(batch)] == [Unknown] * 5
    assert len(openmeter.ids()) == 2
    assert list(sink.send(batch)) == [Delivered()] * 5
    assert openmeter.ids() == [f"event-{number}" for number in range(5)]


def test_what_openmeter_does_not_know_again_counts_twice(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """So the sink says how long it does, and the forwarder sends nothing blindly after that."""
    assert open_sink().horizon == 86_400
    assert open_sink(horizon=0.0).horizon == 0
    sink = open_sink()
    sink.send([usage(1)])
    openmeter.stored()
    openmeter.now += 86_401
    sink.send([usage(1)])
    assert openmeter.ids() == ["event-1", "event-1"]


def test_a_refused_event_is_found_and_parked(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """A 400 to a batch is narrowed down; the others arrive once."""
    batch = [usage(number, specversion="1.0") for number in range(10)]
    bad = json.loads(batch[7])
    bad["time"] = "2026-11-21T09:20:30+0000"  # ISO 8601, but not RFC 3339
    outcomes = open_sink().send([*batch[:7], json.dumps(bad).encode(), *batch[8:]])
    assert [type(each) for each in outcomes] == [Delivered] * 7 + [Permanent] + [Delivered] * 2
    assert "time" in outcomes[7].reason  # type: ignore[union-attr]
    assert sorted(openmeter.ids()) == [f"event-{number}" for number in range(10) if number != 7]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "no usage event"),
        (usage(1, subject=""), "no subject"),
        (usage(1, time="yesterday"), "RFC 3339"),
        (usage(1, data={"requests": 1.5}), "data.requests is 1.5; expected a whole number"),
        (usage(1, data={"requests": None}), "expected a whole number"),
        (usage(1, data={"requests": "many"}), "expected a whole number"),
        (usage(1, data={"requests": True}), "expected a whole number"),
    ],
)
def test_what_no_meter_could_read_is_parked_and_not_sent(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink], payload: bytes, reason: str
) -> None:
    """OpenMeter would accept null or a text, and count nothing."""
    outcomes = open_sink().send([payload, usage(2)])
    assert isinstance(outcomes[0], Permanent)
    assert reason in outcomes[0].reason
    assert outcomes[1] == Delivered()
    assert openmeter.ids() == ["event-2"]


def test_every_quantity_is_there_so_that_no_meter_marks_an_event_invalid(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """An amendment has only what became known later; what it lacks is 0."""
    open_sink().send([usage(1), usage(2, data={"response_bytes": 5, "amends": "event-1"})])
    assert [each.validation_error for each in openmeter.stored()] == [None, None]
    assert openmeter.stored()[1].event["data"] == {"requests": 0, "response_bytes": 5, "amends": "event-1"}


def test_a_correction_counts_against_what_it_corrects(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """It goes as an event of the type that the meters sum, with negative quantities."""
    correction = usage(
        2,
        type="meter_mw.adjustment.v1",
        data={"requests": -1, "response_bytes": -10, "amends": "event-1", "reason": "a test call"},
    )
    sink = open_sink()
    assert list(sink.send([usage(1), usage(3), correction])) == [Delivered()] * 3
    assert openmeter.total("requests", "acme") == 1
    assert sink.totals(["acme"], *WINDOW)["acme", "response_bytes"] == 10


def test_thresholds_are_not_sent(openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]) -> None:
    """They have no quantities, and are nothing to a billing backend."""
    assert list(open_sink().send([usage(1, type="meter_mw.threshold.v1")])) == [Delivered()]
    assert openmeter.posts == []


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_an_operators_mistake_parks_nothing(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink], status: int
) -> None:
    """The events wait until somebody has mended the token or the address."""
    openmeter.faults = [Said(status)]
    assert [type(each) for each in open_sink().send([usage(1), usage(2)])] == [Retry] * 2


def test_a_wrong_token_pauses(openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]) -> None:
    """A real 401 of the fake's own."""
    assert isinstance(open_sink(token="other").send([usage(1)])[0], Retry)
    openmeter.token = None
    assert list(open_sink(token=None).send([usage(1)])) == [Delivered()]


def test_overload_is_waited_for(openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]) -> None:
    """429 has done nothing; after a 503 the batch may be there in part."""
    openmeter.faults = [Said(429, headers={"Retry-After": "7"}), Said(503, headers={"Retry-After": "9"})]
    sink = open_sink()
    (throttled,) = sink.send([usage(1)])
    assert (type(throttled), throttled.after) == (Retry, 7.0)  # type: ignore[union-attr]
    (overloaded,) = sink.send([usage(1)])
    assert (type(overloaded), overloaded.after) == (Unknown, 9.0)  # type: ignore[union-attr]


def test_totals_are_of_the_window_and_the_subject(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """[start, end), in the seconds that OpenMeter stores; subjects go by the names they have there."""
    sink = open_sink(customers={"acme": "customer-17"})
    sink.send(
        [
            usage(1, time="2026-11-21T09:19:59.999999Z"),
            usage(2, time="2026-11-21T09:20:00Z"),
            usage(3, time="2026-11-21T09:20:59.999999Z", data={"requests": 2**53 - 2}),
            usage(4, time="2026-11-21T09:21:00Z"),
            usage(5, subject="globex"),
        ]
    )
    assert {each.event["subject"] for each in openmeter.stored()} == {"customer-17", "globex"}
    assert sink.totals(["acme", "globex", "nobody"], *WINDOW) == {
        ("acme", "requests"): 2**53 - 1,
        ("acme", "response_bytes"): 10,
        ("globex", "requests"): 1,
        ("globex", "response_bytes"): 10,
    }


def test_totals_of_many_subjects(openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]) -> None:
    """They are asked about in portions that a URL and v3's filter can hold."""
    subjects = [f"subject-{number} & sons" for number in range(120)]
    sink = open_sink()
    sink.send([usage(number, subject=subject) for number, subject in enumerate(subjects[:100])])
    sink.send([usage(number, subject=subjects[number]) for number in range(100, 120)])
    totals = sink.totals(subjects, *WINDOW)
    assert {subject for subject, _ in totals} == set(subjects)
    assert sorted(totals.values()) == [1] * 120 + [10] * 120


def test_totals_show_what_was_accepted_and_never_counted(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """An event of which OpenMeter says only later that it is invalid is missing in the total."""
    sink = open_sink(fields=("requests",))  # a policy without the quantity that the meter asks for
    assert list(sink.send([usage(1, data={"requests": 1})])) == [Delivered()]
    assert openmeter.stored()[0].validation_error
    known = open_sink(fields=("requests",), meters={"requests": "response_bytes"})
    assert known.totals(["acme"], *WINDOW) == {}


def test_a_meter_goes_by_its_slug_or_its_id(
    openmeter: FakeOpenMeter, version: str, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """`meters` says which, and one that is not there is said aloud and left out."""
    sink = open_sink(meters={"requests": openmeter.meters[0].id, "response_bytes": "response_bytes"})
    sink.send([usage(1)])
    assert sink.totals(["acme"], *WINDOW) == {("acme", "requests"): 1, ("acme", "response_bytes"): 10}


def test_a_meter_that_is_not_there(
    open_sink: Callable[..., OpenMeterSink], caplog: pytest.LogCaptureFixture
) -> None:
    """OpenMeter has nothing of it."""
    sink = open_sink(meters={"requests": "api_requests"})
    with caplog.at_level(logging.WARNING):
        assert sink.totals(["acme"], *WINDOW) == {}
    assert "no meter api_requests for requests" in caplog.text


def test_totals_that_are_not_answered(
    openmeter: FakeOpenMeter, open_sink: Callable[..., OpenMeterSink]
) -> None:
    """An outage, a wrong token and an answer of another kind are said as what they are."""
    with pytest.raises(ConnectionError, match="401"):
        open_sink(token="other").totals(["acme"], *WINDOW)
    openmeter.is_down = True
    with pytest.raises(ConnectionError, match="503"):
        open_sink().totals(["acme"], *WINDOW)
    openmeter.is_down = False
    openmeter.answer = lambda asked, fault: Said(200, {"data": "none"})  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match="cannot be read"):
        open_sink().totals(["acme"], *WINDOW)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"meters": {"requests": "Requests"}}, "'Requests' is neither the slug nor the id of a meter"),
        ({"meters": {"tokens": "tokens"}}, "events have no tokens; expected one of requests, response_bytes"),
        ({"customers": {"a": "x", "b": "x"}}, "a and b are both x"),
    ],
)
def test_settings_that_cannot_be_meant(
    open_sink: Callable[..., OpenMeterSink], options: dict[str, object], said: str
) -> None:
    """They are refused at the start."""
    with pytest.raises(ValueError, match=said):
        open_sink(**options)


def test_the_kind_opens_it(openmeter: FakeOpenMeter, version: str) -> None:
    """With the settings of a policy, and the defaults of the rest."""
    settings = KIND.set({"openmeter": base(openmeter, version) + "/", "api": version, "secret": TOKEN})
    sink = KIND.open(settings, Service("urn:meter-mw:shop", FIELDS, Path("journal")))
    assert list(sink.send([usage(1)])) == [Delivered()]
    assert (sink.horizon, sink.max_batch) == (86_400, 100)
    assert isinstance(sink, Totals)
    sink.close()


def test_all_arrives_through_an_outage(openmeter: FakeOpenMeter, version: str, tmp_path: Path) -> None:
    """Through cuts, losses and half-taken batches, OpenMeter stores what was recorded, and the sums agree."""
    openmeter.faults = ["lost"]
    rule = {"openmeter": base(openmeter, version), "api": version, "secret": "${TOKEN}"}

    def fail() -> None:
        openmeter.is_down = True

    def recover() -> None:
        openmeter.faults = ["partial 7"]
        openmeter.is_down = False

    recorded = through_an_outage(tmp_path, rule, {"TOKEN": TOKEN}, fail, recover)
    assert sorted(openmeter.ids()) == sorted(str(each["id"]) for each in recorded)
    assert all(each.validation_error is None for each in openmeter.stored())
    for subject in SUBJECTS:
        sent = sum(each["data"]["response_bytes"] for each in recorded if each["subject"] == subject)  # type: ignore[index]
        assert openmeter.total("response_bytes", subject) == sent
