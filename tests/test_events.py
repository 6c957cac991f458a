"""A usage event as CloudEvents 1.0 JSON, checked against the rules of its JSON Schema, written out here."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.events import encode
from meter_mw.model import LARGEST_COST, THRESHOLD_EVENT, RequestId, SubjectId, UsageEvent

RID = RequestId("01900000-0000-7000-8000-000000000001")
DATA: dict[str, object] = {"requests": 1, "request_bytes": 0, "response_bytes": 9, "route": "items.read"}

RFC_3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


def event(
    subject: str = "acme", time_us: int = 1_767_225_600_000_000, data: dict[str, object] | None = None
) -> UsageEvent:
    """Make an event."""
    return UsageEvent(
        RID, "urn:meter-mw:orders-api", SubjectId(subject), time_us, DATA if data is None else data
    )


def checked(encoded: bytes) -> dict[str, object]:
    """Read an event, and hold it to the schema: required members, their types and formats."""
    read = json.loads(encoded)
    assert isinstance(read, dict)
    for name in ("id", "source", "specversion", "type", "subject"):
        assert isinstance(read[name], str)
        assert read[name] != ""
    assert read["specversion"] == "1.0"
    assert URI.fullmatch(read["source"])
    assert RFC_3339.fullmatch(read["time"])
    assert read["datacontenttype"] == "application/json"
    assert all(re.fullmatch("[a-z0-9]{1,20}", name) for name in read)
    return read


def test_an_event_has_these_members() -> None:
    """Exactly these, with the data as an object and not as a text."""
    assert checked(encode(event())) == {
        "specversion": "1.0",
        "id": RID,
        "source": "urn:meter-mw:orders-api",
        "type": "meter_mw.request.v1",
        "subject": "acme",
        "time": "2026-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "data": DATA,
    }


def test_a_threshold_is_an_event_of_its_own_type() -> None:
    """What tells of a threshold is not billed, and says so by its type."""
    announced = UsageEvent(
        "threshold-x", "urn:meter-mw:a", SubjectId("acme"), 0, {"limit": "cap"}, THRESHOLD_EVENT
    )
    read = checked(encode(announced))
    assert (read["id"], read["type"]) == ("threshold-x", "meter_mw.threshold.v1")


@pytest.mark.parametrize(
    ("time_us", "expected"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_767_225_599_999_999, "2025-12-31T23:59:59.999999Z"),
        (1_767_225_600_000_001, "2026-01-01T00:00:00.000001Z"),
        (1_767_225_600_100_000, "2026-01-01T00:00:00.100000Z"),
        (4_102_444_800_000_000, "2100-01-01T00:00:00Z"),
    ],
)
def test_times_are_exact_and_in_utc(time_us: int, expected: str) -> None:
    """RFC 3339 in UTC, to the microsecond."""
    assert checked(encode(event(time_us=time_us)))["time"] == expected


@given(st.integers(0, 4_102_444_800_000_000))
def test_a_time_is_read_back(time_us: int) -> None:
    """No microsecond is lost on the way, to any reader of RFC 3339."""
    text = checked(encode(event(time_us=time_us)))["time"]
    assert isinstance(text, str)
    read = datetime.fromisoformat(text)
    assert (read - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == time_us


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_an_event_is_one_line(subject: str) -> None:
    """Whatever a subject or a route is called, the event has no line break and is UTF-8."""
    encoded = encode(event(subject, data={"route": subject}))
    assert b"\n" not in encoded
    assert b"\r" not in encoded
    read = checked(encoded)
    assert (read["subject"], read["data"]) == (subject, {"route": subject})


def test_numbers_are_exact() -> None:
    """2^52 units are written as they are, and a list of names as a list."""
    data: dict[str, object] = {"requests": LARGEST_COST, "limited_by": ["rate"], "charged": False}
    assert checked(encode(event(data=data)))["data"] == data
    assert b"4503599627370496" in encode(event(data=data))


def test_the_same_event_is_the_same_bytes() -> None:
    """An id determines its payload."""
    assert encode(event()) == encode(event())
