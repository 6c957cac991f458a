"""What an HTTP answer says about a batch."""

from __future__ import annotations

import json

import pytest

from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown
from meter_mw.sinks.answers import Answer, outcomes, retry_after
from meter_mw.testing.sinks import event


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thursday, 01-Jan-26 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Thu, 99 Jan 2026 00:00:30 GMT", None),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    """Both forms of RFC 9110 are read, and nonsense is as if absent."""
    assert retry_after(value, 1767225600.0) == expected


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_delivers_all(status: int) -> None:
    """Any 2xx without results is a delivery of all, whatever else its body says."""
    for body in (b"", b"ok", b"[]", b'{"results": 1}', b"[" * 100_000):
        assert outcomes(Answer(status, None, body), [event(1), event(2)]) == [Delivered()] * 2


def test_results_are_keyed_by_id() -> None:
    """Named events have their own outcome, the others that of the answer."""
    results = [
        {"id": "event-1", "status": "duplicate"},
        {"id": "event-2", "status": "permanent", "reason": "no such meter"},
        {"id": "event-3", "status": "retry", "after": 3},
        {"id": "event-4", "status": 409},
        {"id": "event-5", "status": 503},
        {"id": "event-6", "status": "odd"},
        {"id": 7, "status": "permanent"},
        "nonsense",
    ]
    batch = [event(number) for number in range(8)]
    found = outcomes(Answer(200, None, json.dumps({"results": results}).encode()), batch)
    assert found[:4] == [Delivered(), Duplicate(), Permanent("no such meter"), Retry(3.0, "retry")]
    assert found[4] == Duplicate()
    assert isinstance(found[5], Retry)
    assert isinstance(found[6], Unknown)
    assert found[7] == Delivered()


def test_multi_status_delivers_only_what_it_names() -> None:
    """A 207 leaves the events that it does not name to be sent again."""
    body = b'{"results": [{"id": "event-1", "status": 201}]}'
    assert outcomes(Answer(207, None, body), [event(1)]) == [Delivered()]
    assert isinstance(outcomes(Answer(207, None, body), [event(2)])[0], Unknown)
    assert isinstance(outcomes(Answer(207, None, b"?"), [event(2)])[0], Unknown)


@pytest.mark.parametrize(
    "status", [301, 302, 307, 401, 403, 404, 405, 408, 410, 415, 429, 500, 502, 503, 504]
)
def test_failures_are_retried(status: int) -> None:
    """No status of the whole but 400, 413 and 422 gives an event up."""
    assert outcomes(Answer(status, 9.0, b""), [event(1)]) == [Retry(9.0, f"HTTP {status}")]


def test_a_reason_holds_no_line_end() -> None:
    """What a server says cannot forge a line of the log."""
    answer = Answer(400, None, b"no\r\n2026-01-01 CRITICAL forged \x1b[2J" + b"x" * 1000)
    assert "\n" not in answer.reason
    assert "\x1b" not in answer.reason
    assert len(answer.reason) < 300
