"""What a billing backend reads in an event."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.sinks.apis import moment
from meter_mw.sinks.translating import Refused, read_usage
from meter_mw.testing.sinks import event

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def with_(**members: object) -> bytes:
    return json.dumps(json.loads(event(1)) | members).encode()


def test_quantities_are_those_that_were_asked_for() -> None:
    """What the event lacks is 0."""
    usage = read_usage(
        with_(data={"requests": 5, "tokens": -2, "status": 200}), ["requests", "tokens", "bytes"]
    )
    assert usage
    assert usage.quantities == {"requests": 5, "tokens": -2, "bytes": 0}
    assert (usage.id, usage.subject, usage.source) == ("event-1", "acme", "urn:meter-mw:conformance")


@pytest.mark.parametrize("kind", ["meter_mw.threshold.v1", "com.example.other"])
def test_what_has_no_quantities_by_its_type_is_nothing(kind: str) -> None:
    """It is not refused either."""
    assert read_usage(with_(type=kind, data={"requests": "many"}), ["requests"]) is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no usage event"),
        (b"\xff", "no usage event"),
        (b"[" * 100_000, "no usage event"),
        (with_(data=None), "no usage event"),
        (with_(id=7), "no usage event"),
        (with_(subject="", time=""), "no subject and no time"),
        (with_(time="2026-11-21T10:43:47"), "with a time zone"),
        (with_(time="11/21/2026"), "with a time zone"),
        (with_(data={"requests": True}), "data.requests is True; expected a whole number"),
        (with_(data={"requests": 1.0}), "data.requests is 1.0; expected a whole number"),
    ],
)
def test_what_cannot_be_billed_says_why(payload: bytes, reason: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(Refused, match=reason):
        read_usage(payload, ["requests"])


@given(st.integers(0, 4_102_444_800_000_000))
def test_a_time_is_cut_off_to_the_millisecond_and_never_rounded(time_us: int) -> None:
    """In whole numbers: a time in another ms would be another record, or in another window."""
    time = (EPOCH + timedelta(microseconds=time_us)).isoformat()
    usage = read_usage(with_(time=time), [])
    assert usage
    assert usage.milliseconds == time_us // 1000


@given(st.integers(0, 4_102_444_800_000))
def test_a_moment_is_rfc_3339_to_the_millisecond(milliseconds: int) -> None:
    """Read back, it is the same."""
    text = moment(milliseconds * 1000 + 999)
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == EPOCH + timedelta(milliseconds=milliseconds)
