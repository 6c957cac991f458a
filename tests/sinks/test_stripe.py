"""The stripe sink, against a Stripe that checks, forgets and fails as documented."""

from __future__ import annotations

import json
import time
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown
from meter_mw.sinks.kinds import Service, find
from meter_mw.sinks.stripe import StripeSink
from meter_mw.sinks.stripe.lines import OLDEST_S, identifier
from meter_mw.testing.sinks import SinkConformance
from support.fakes.stripe import DAY, KEY, SESSION_S, FakeStripe
from support.journeys import through_an_outage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime.fromisoformat("2026-11-21T10:44:00Z").timestamp()
METERS = {"requests": "api_requests", "request_bytes": "api_in", "response_bytes": "api_out"}
CUSTOMERS = {"acme": "cus_Acme", "globex": "cus_Globex"}
STREAM = "/v2/billing/meter_event_stream"
SESSION = "/v2/billing/meter_event_session"
EVENTS = "/v1/billing/meter_events"
ADJUSTMENTS = "/v1/billing/meter_event_adjustments"


@pytest.fixture
def stripe() -> Iterator[FakeStripe]:
    fake = FakeStripe(*METERS.values())
    fake.now = NOW
    yield fake
    fake.close()


def sink_of(fake: FakeStripe, *, streams: bool = True, **options: Any) -> StripeSink:
    given = {"meters": METERS, "customers": CUSTOMERS, "timeout": 5.0, **options}
    return StripeSink(
        KEY,
        streams=streams,
        api=fake.url,
        events=fake.url,
        clock=lambda: fake.now,
        monotonic=lambda: fake.now,
        **given,
    )


@pytest.fixture(params=[True, False], ids=["stream", "call"])
def sink(stripe: FakeStripe, request: pytest.FixtureRequest) -> Iterator[StripeSink]:
    """Give the sink on either API."""
    sink = sink_of(stripe, streams=request.param)
    yield sink
    sink.close()


@pytest.fixture
def stream(stripe: FakeStripe) -> Iterator[StripeSink]:
    sink = sink_of(stripe)
    yield sink
    sink.close()


@pytest.fixture
def caller(stripe: FakeStripe) -> Iterator[StripeSink]:
    sink = sink_of(stripe, streams=False)
    yield sink
    sink.close()


def used(
    number: int | str, *, age: float = 0, subject: str = "acme", kind: str = "request", **data: object
) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": number if isinstance(number, str) else f"event-{number}",
            "source": "urn:meter-mw:shop",
            "type": f"meter_mw.{kind}.v1",
            "subject": subject,
            "time": datetime.fromtimestamp(NOW - age).astimezone().isoformat(),
            "data": {"requests": 1, "request_bytes": 0, "response_bytes": 0, "route": "v1", **data},
        }
    ).encode()


class StripeRig:
    secrets = (KEY, "token_0")

    def __init__(self, fake: FakeStripe, *, streams: bool) -> None:
        self._fake = fake
        self.sink = sink_of(fake, streams=streams)

    def received(self) -> list[dict[str, object]]:
        return [
            {
                "id": each.identifier.removeprefix("api_requests:"),
                "event_name": each.event_name,
                "customer": each.customer,
                "value": each.value,
                "second": int(each.timestamp),
            }
            for each in self._fake.taken
        ]

    def fail(self) -> None:
        self._fake.is_down = True

    def recover(self) -> None:
        self._fake.is_down = False


class StripeConformance(SinkConformance):
    def expected(self, payload: bytes) -> dict[str, object]:
        sent = json.loads(payload)
        return {
            "id": sent["id"],
            "event_name": "api_requests",
            "customer": "cus_Acme",
            "value": 1,
            "second": int(datetime.fromisoformat(sent["time"]).timestamp()),
        }


class TestStripeStream(StripeConformance):
    @pytest.fixture
    def rig(self, stripe: FakeStripe) -> Iterator[StripeRig]:
        rig = StripeRig(stripe, streams=True)
        yield rig
        rig.sink.close()


class TestStripeCalls(StripeConformance):
    @pytest.fixture
    def rig(self, stripe: FakeStripe) -> Iterator[StripeRig]:
        rig = StripeRig(stripe, streams=False)
        yield rig
        rig.sink.close()


# -- what is said


def test_a_request_of_the_stream(stripe: FakeStripe, stream: StripeSink) -> None:
    """A session under the key, then under the session a meter event for each quantity, all in texts."""
    assert list(stream.send([used(1, request_bytes=1234, response_bytes=0)])) == [Delivered()]
    session, events = stripe.requests
    assert (session[0], json.loads(session[2])) == (SESSION, {})
    assert events[1]["authorization"] == "Bearer token_0"
    assert session[1]["stripe-version"] == events[1]["stripe-version"] == "2026-06-24.dahlia"
    assert json.loads(events[2]) == {
        "events": [
            {
                "event_name": name,
                "identifier": f"{name}:event-1",
                "timestamp": "2026-11-21T10:44:00.000Z",
                "payload": {"stripe_customer_id": "cus_Acme", "value": value},
            }
            for name, value in [("api_requests", "1"), ("api_in", "1234")]
        ]
    }


def test_a_call(stripe: FakeStripe, caller: StripeSink) -> None:
    """A form with Unix seconds, one meter event a call."""
    assert list(caller.send([used(1, response_bytes=7)])) == [Delivered()]
    assert [path for path, _, _ in stripe.requests] == [EVENTS, EVENTS]
    assert stripe.requests[1][2] == (
        b"event_name=api_out&identifier=api_out%3Aevent-1&timestamp=1795257840"
        b"&payload%5Bstripe_customer_id%5D=cus_Acme&payload%5Bvalue%5D=7"
    )


def test_the_stream_takes_a_hundred_at_once(stripe: FakeStripe, stream: StripeSink) -> None:
    """A batch of 100 events of three quantities is four requests, and no event is divided."""
    batch = [used(number, request_bytes=2, response_bytes=3) for number in range(100)]
    assert list(stream.send(batch)) == [Delivered()] * 100
    sizes = [len(json.loads(body)["events"]) for path, _, body in stripe.requests if path == STREAM]
    assert sizes == [99, 99, 99, 3]
    assert stripe.totals() == {
        ("cus_Acme", name): 100 * value for value, name in enumerate(METERS.values(), start=1)
    }


def test_what_has_no_quantity_is_not_sent(stripe: FakeStripe, sink: StripeSink) -> None:
    """Thresholds, and requests that cost nothing, are as good as delivered."""
    batch = [used(1, kind="threshold"), used(2, requests=0), used(3, subject="nobody", requests=0)]
    assert list(sink.send(batch)) == [Delivered()] * 3
    assert stripe.requests == []


def test_a_subject_that_is_a_customer(stripe: FakeStripe, sink: StripeSink) -> None:
    """It needs no entry; one that is neither is parked, and holds up nobody."""
    batch = [used(1, subject="cus_Initech"), used(2, subject="stranger"), used(3, subject="acme")]
    assert list(sink.send(batch)) == [
        Delivered(),
        Permanent("no customer for subject 'stranger'"),
        Delivered(),
    ]
    assert set(stripe.totals()) == {("cus_Initech", "api_requests"), ("cus_Acme", "api_requests")}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "no usage event"),
        (b'{"id": 1}', "no usage event"),
        (b"\xff", "no usage event"),
        (used(1, requests=1.5), "data.requests is 1.5; expected a whole number"),
        (used(1, requests=True), "data.requests is True; expected a whole number"),
        (used(1, requests="1"), "data.requests is '1'; expected a whole number"),
        (used(1).replace(b'"time"', b'"tine"'), "the event has no time"),
    ],
)
def test_what_no_meter_event_can_say(
    stripe: FakeStripe, sink: StripeSink, payload: bytes, reason: str
) -> None:
    """It is parked with the reason, and the rest goes on."""
    refused, delivered = sink.send([payload, used(2)])
    assert isinstance(refused, Permanent)
    assert reason in refused.reason
    assert delivered == Delivered()


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        (OLDEST_S + 1, "older than 35 days"),
        (-301, "more than 5 minutes ahead"),
        (OLDEST_S, None),
        (-300, None),
    ],
)
def test_a_timestamp_is_never_moved(
    stripe: FakeStripe, sink: StripeSink, age: float, reason: str | None
) -> None:
    """What Stripe takes no more is refused with the reason; what it takes has the event's own time."""
    (outcome,) = sink.send([used(1, age=age)])
    if reason is None:
        assert outcome == Delivered()
        assert [each.timestamp for each in stripe.taken] == [NOW - age]
    else:
        assert isinstance(outcome, Permanent)
        assert reason in outcome.reason
        assert stripe.requests == []


@pytest.mark.parametrize(("name", "event_id"), [("n" * 80, str(uuid.UUID(int=1))), ("n" * 100, "e" * 200)])
def test_identifiers_are_short_enough(name: str, event_id: str) -> None:
    """What is too long is a digest, the same each time, and another one for another event."""
    made = identifier(name, event_id)
    assert len(made) <= 100
    assert made == identifier(name, event_id) != identifier(name, event_id[:-1] + "f")
    assert made != identifier(name[:-1] + "m", event_id)
    assert identifier("api", "e" * 96) == "api:" + "e" * 96


# -- what Stripe says


@pytest.mark.parametrize("fault", ["lost", "500 kept"])
def test_what_arrived_without_an_answer_counts_once(stripe: FakeStripe, sink: StripeSink, fault: str) -> None:
    """The second attempt is known by its identifier; the answer to the first key would fail for ever."""
    sink.send([used(0)])
    stripe.faults = [fault]
    batch = [used(1), used(2)]
    first = sink.send(batch)
    assert isinstance(first[0], Unknown)
    assert isinstance(first[1], Retry | Unknown)
    assert all(isinstance(outcome, Delivered | Duplicate) for outcome in sink.send(batch))
    assert stripe.totals() == {("cus_Acme", "api_requests"): 3}
    assert stripe.values.keys() == {f"api_requests:event-{number}" for number in range(3)}


def test_calls_tell_a_duplicate(stripe: FakeStripe, caller: StripeSink) -> None:
    """A 400 that says so is as good as delivered, also where one meter of the event is new."""
    caller.send([used(1)])
    assert list(caller.send([used(1)])) == [Duplicate()]
    assert list(caller.send([used(1, response_bytes=5)])) == [Delivered()]
    assert stripe.totals() == {("cus_Acme", "api_requests"): 1, ("cus_Acme", "api_out"): 5}


def test_each_attempt_has_a_key_of_its_own(stripe: FakeStripe, caller: StripeSink) -> None:
    """Stripe repeats the answer to a key; the identifier stays."""
    stripe.faults = [429]
    caller.send([used(1)])
    caller.send([used(1)])
    first, second = stripe.requests
    assert first[1]["idempotency-key"] != second[1]["idempotency-key"]
    assert first[2] == second[2]


@pytest.mark.parametrize("fault", [429, 409, 401, 403, 404])
def test_what_passes_is_tried_again(stripe: FakeStripe, sink: StripeSink, fault: int) -> None:
    """Nothing of it is in doubt, `Retry-After` is passed on, and nothing more is sent meanwhile."""
    sink.send([used(0)])
    sent = len(stripe.requests)
    stripe.faults = [fault]
    outcomes = sink.send([used(1), used(2)])
    assert [type(outcome) for outcome in outcomes] == [Retry, Retry]
    assert [outcome.after for outcome in outcomes if isinstance(outcome, Retry)] == [7.0, 7.0]
    assert len(stripe.requests) == sent + 1
    assert list(sink.send([used(1), used(2)])) == [Delivered()] * 2


def test_another_call_for_the_customer(stripe: FakeStripe, caller: StripeSink) -> None:
    """Another process' call for the same customer and meter is waited out."""
    stripe.faults = ["busy"]
    assert [type(each) for each in caller.send([used(1)])] == [Retry]
    assert list(caller.send([used(1)])) == [Delivered()]


def test_some_meters_took_it(stripe: FakeStripe, caller: StripeSink) -> None:
    """Half an event is in doubt, so that it is not sent blindly when Stripe has forgotten it."""
    stripe.faults = [None, 429]
    (outcome,) = caller.send([used(1, response_bytes=5)])
    assert isinstance(outcome, Unknown)
    assert (outcome.reason[:26], outcome.after) == ("taken for api_requests; HT", 7.0)
    assert list(caller.send([used(1, response_bytes=5)])) == [Delivered()]
    assert stripe.totals() == {("cus_Acme", "api_requests"): 1, ("cus_Acme", "api_out"): 5}


def test_one_meter_does_not_exist(stripe: FakeStripe, caller: StripeSink) -> None:
    """The others are billed, and the reason says which."""
    del stripe.meters["api_in"]
    (outcome,) = caller.send([used(1, request_bytes=5, response_bytes=6)])
    assert outcome == Permanent(
        "api_in: HTTP 400 resource_missing: No active meter found for event name api_in;"
        " taken for api_requests, api_out"
    )
    assert stripe.totals() == {("cus_Acme", "api_requests"): 1, ("cus_Acme", "api_out"): 6}


def test_what_the_stream_refuses_stands_alone(stripe: FakeStripe, stream: StripeSink) -> None:
    """It is found by halving, and each of the others counts once."""
    stripe.poison = "api_requests:event-37"
    outcomes = stream.send([used(number) for number in range(100)])
    assert outcomes.pop(37) == Permanent("HTTP 400 invalid_fields: as told")
    assert outcomes == [Delivered()] * 99
    assert stripe.identifiers() == [f"api_requests:event-{number}" for number in range(100) if number != 37]


# -- sessions


def test_a_session_is_renewed_before_it_ends(stripe: FakeStripe, stream: StripeSink) -> None:
    """One session serves all, until the last minute of its 15."""
    for passed in (0, 400, SESSION_S - 61, SESSION_S - 60, SESSION_S + 500):
        stripe.now = NOW + passed
        assert list(stream.send([used(passed)])) == [Delivered()]
    assert stripe.paths() == [SESSION, STREAM, STREAM, STREAM, SESSION, STREAM, STREAM]


def test_a_session_that_ended_early(stripe: FakeStripe, stream: StripeSink) -> None:
    """401 with the code that says so: a new session, and the same events again."""
    stream.send([used(1)])
    stripe.end_sessions()
    assert list(stream.send([used(2)])) == [Delivered()]
    assert stripe.paths() == [SESSION, STREAM, STREAM, SESSION, STREAM]
    assert stripe.requests[2][2] == stripe.requests[4][2]


def test_no_session_no_event(stripe: FakeStripe, stream: StripeSink) -> None:
    """Where a session is refused nothing was sent, so nothing is in doubt; a wrong key parks nothing."""
    stripe.faults = [429, 401]
    first, second = stream.send([used(1)]), stream.send([used(1)])
    assert [type(each) for each in (*first, *second)] == [Retry, Retry]
    assert stripe.paths() == [SESSION, SESSION]
    assert list(stream.send([used(1)])) == [Delivered()]


# -- corrections


def test_some_is_taken_back(stripe: FakeStripe, sink: StripeSink) -> None:
    """A negative value under an identifier of its own goes by a call, which is answered for."""
    sink.send([used(1, response_bytes=500)])
    correction = used(
        "fix-1", kind="adjustment", requests=0, response_bytes=-200, amends="event-1", reason="x"
    )
    assert list(sink.send([correction])) == [Delivered()]
    assert list(sink.send([correction])) == [Duplicate()]
    assert stripe.requests[-1][0] == EVENTS
    assert stripe.totals() == {("cus_Acme", "api_requests"): 1, ("cus_Acme", "api_out"): 300}


def void(**data: object) -> bytes:
    return used("void-event-1", kind="adjustment", requests=-1, response_bytes=-500, amends="event-1", **data)


def test_all_is_taken_back(stripe: FakeStripe, sink: StripeSink) -> None:
    """Stripe cancels each meter event of the original, which then counts nowhere."""
    sink.send([used(1, response_bytes=500), used(2)])
    assert list(sink.send([void()])) == [Delivered()]
    assert stripe.paths()[-2:] == [ADJUSTMENTS, ADJUSTMENTS]
    assert stripe.identifiers() == ["api_requests:event-2"]


def test_all_is_taken_back_too_late(stripe: FakeStripe, sink: StripeSink) -> None:
    """What Stripe does not cancel any more is said by values."""
    sink.send([used(1, response_bytes=500)])
    stripe.now += DAY + 1
    assert list(sink.send([void()])) == [Delivered()]
    assert stripe.totals() == {("cus_Acme", "api_requests"): 0, ("cus_Acme", "api_out"): 0}


def test_a_cancelling_without_an_answer(stripe: FakeStripe, sink: StripeSink) -> None:
    """It is not said again by a value, as Stripe remembers that it has cancelled."""
    sink.send([used(1, response_bytes=500), used(2)])
    stripe.faults = ["lost"]
    assert [type(each) for each in sink.send([void()])] == [Unknown]
    assert list(sink.send([void()])) == [Delivered()]
    assert stripe.identifiers() == ["api_requests:event-2"]


def test_a_correction_that_is_too_old(stripe: FakeStripe, sink: StripeSink) -> None:
    """It is refused with the reason, like the usage of that time."""
    old = used("void-x", age=36 * DAY, kind="adjustment", requests=-1, amends="x")
    (outcome,) = sink.send([old])
    assert isinstance(outcome, Permanent)
    assert "older than 35 days" in outcome.reason


# -- totals


def test_totals_are_stripes(stripe: FakeStripe, stream: StripeSink) -> None:
    """Of whole minutes, start inclusive and end exclusive, by customer and meter, over all pages."""
    stream.send(
        [used(1), used(2, response_bytes=9), used(3, age=60), used(4, subject="globex"), used(5, age=-60)]
    )
    start_us, end_us = int(NOW) * 1_000_000, int(NOW + 60) * 1_000_000
    ask = ("acme", "globex", "stranger")
    assert set(stream.totals(ask, start_us, end_us).values()) == {0}
    stripe.settle()
    assert stream.totals(ask, start_us, end_us) == {
        ("acme", "requests"): 2,
        ("acme", "request_bytes"): 0,
        ("acme", "response_bytes"): 9,
        ("globex", "requests"): 1,
        ("globex", "request_bytes"): 0,
        ("globex", "response_bytes"): 0,
    }


def test_what_the_stream_found_wrong_later_shows_in_the_totals(
    stripe: FakeStripe, stream: StripeSink
) -> None:
    """The stream accepts before it checks: only Stripe's own totals show what it did not count."""
    stripe.customers.discard("cus_Globex")
    assert list(stream.send([used(1), used(2, subject="globex")])) == [Delivered()] * 2
    assert stripe.errors == [("meter_event_customer_not_found", "api_requests:event-2")]
    stripe.settle()
    found = stream.totals(["acme", "globex"], int(NOW) * 1_000_000, int(NOW + 60) * 1_000_000)
    assert (found["acme", "requests"], found["globex", "requests"]) == (1, 0)


def test_a_meter_that_stripe_does_not_have_is_left_out(stripe: FakeStripe, stream: StripeSink) -> None:
    """There is nothing to compare with."""
    del stripe.meters["api_in"]
    assert ("acme", "request_bytes") not in stream.totals(["acme"], 0, 60_000_000)


@pytest.mark.parametrize("fault", ["cut", 429, 503])
def test_totals_without_an_answer(stripe: FakeStripe, stream: StripeSink, fault: int | str) -> None:
    """They raise what stood in the way."""
    stripe.faults = [fault]
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1"):
        stream.totals(["acme"], 0, 60_000_000)


# -- as a whole


def test_a_meter_of_a_field_that_is_none() -> None:
    """A field that no event has would be billed as nothing: it is refused when the sink is opened."""
    kind = find("stripe")
    assert kind is not None
    settings = kind.set({"stripe": "shop", "secret": KEY, "meters": {"reqests": "api_requests"}})
    with pytest.raises(ValueError, match="events have no reqests; expected one of requests, tokens"):
        kind.open(settings, Service("urn:meter-mw:shop", ("requests", "tokens"), None))  # type: ignore[arg-type]


def quantities(recorded: dict[str, object]) -> list[tuple[str, object]]:
    data = recorded["data"]
    return list(data.items()) if isinstance(data, dict) else []


@pytest.mark.parametrize("by", ["stream", "call"])
def test_an_outage_loses_nothing(tmp_path: Path, by: str) -> None:
    """App, journal, forwarder and Stripe: with an outage, lost answers and a session that ends, ids agree."""
    names = ("requests", "request_bytes", "response_bytes", "tokens")
    fake = FakeStripe(*names)
    fake.now = time.time()

    def fail() -> None:
        fake.is_down = True

    def recover() -> None:
        fake.is_down = False
        fake.end_sessions()
        fake.faults = [None, "lost"]

    settings = {
        "stripe": "shop",
        "secret": "${STRIPE_KEY}",
        "by": by,
        "api": fake.url,
        "stream": fake.url,
        "customers": {"acme": "cus_Acme", "globex": "cus_Globex", "initech": "cus_Initech"},
    }
    recorded = through_an_outage(tmp_path, settings, {"STRIPE_KEY": KEY}, fail, recover)
    fake.close()
    expected = {
        f"{name}:{each['id']}": value
        for each in recorded
        for name, value in quantities(each)
        if name in names and value
    }
    assert len(recorded) >= 45
    assert {each.identifier: each.value for each in fake.taken} == expected
    assert len(fake.taken) == len(expected)
    assert all(len(values) == 1 for values in fake.values.values())
