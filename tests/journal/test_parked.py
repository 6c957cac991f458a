"""Parked events: what becomes of them is on record, and nothing is deleted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal.parked import Change, State, note, park, parked_id, parked_path, read_all, read_parked
from meter_mw.journal.unparking import Busy, is_in_doubt, resend, sole
from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown

from .conftest import MemorySink, event, ids

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def test_an_event_is_kept_with_its_reason(place: Path) -> None:
    """Its bytes, its sink and why; and since when it may be at the destination all the same."""
    park(place, "biller", "no such meter", event(1))
    park(place, "biller", "in doubt", b"\xff\x00", sent=17.0)
    first, second = read_parked(place)
    assert (first.sink, first.reason, first.payload, first.sent) == (
        "biller",
        "no such meter",
        event(1),
        None,
    )
    assert (second.payload, second.sent, second.state) == (b"\xff\x00", 17.0, State.PARKED)
    assert first.id == parked_id("biller", event(1)) != parked_id("other", event(1))
    assert parked_path(place).stat().st_mode & 0o777 == 0o600


def test_parked_twice_it_is_there_once(place: Path) -> None:
    """As after a crash between the parking and the cursor."""
    for _ in range(2):
        park(place, "biller", "bad", event(1))
    (one,) = read_parked(place)
    assert [change.state for change in one.changes] == [State.PARKED, State.PARKED]


def test_what_was_decided_is_added(place: Path) -> None:
    """A dropped event stays in the file, with who, when and why; it does not wait any more."""
    park(place, "biller", "bad", event(1))
    before = parked_path(place).read_bytes()
    note(place, read_parked(place), Change(State.DROPPED, 5.0, "billed by hand", "ada"))
    assert parked_path(place).read_bytes().startswith(before)
    assert list(read_parked(place)) == []
    (one,) = read_all(place).values()
    assert one.changes[-1] == Change(State.DROPPED, 5.0, "billed by hand", "ada")
    assert one.payload == event(1)


def test_a_torn_line_spoils_no_other(place: Path) -> None:
    """A crash in the middle of a record leaves the others as they are."""
    park(place, "biller", "bad", event(1))
    path = parked_path(place)
    path.write_bytes(path.read_bytes() + path.read_bytes()[:40])
    park(place, "biller", "bad", event(2))
    assert [one.payload for one in read_parked(place)] == [event(1), event(2)]


@pytest.mark.parametrize("outcome", [Delivered(), Duplicate()])
def test_a_retry_that_is_taken(place: Path, outcome: Delivered | Duplicate) -> None:
    """The event is sent once, and is done with."""
    park(place, "memory", "bad", event(1))
    sink = MemorySink()
    sink.answer = lambda batch: [outcome] * len(batch)
    assert resend(place, sink, list(read_parked(place)), by="ada") == [outcome]
    (one,) = read_all(place).values()
    assert (one.state, one.waits) == (State.RETRIED, False)
    assert [change.state for change in one.changes] == [State.PARKED, State.SENDING, State.RETRIED]


def test_a_retry_that_is_not_taken(place: Path) -> None:
    """It stays parked, with what the sink says now; only an unknown outcome leaves it in doubt."""
    for number in range(3):
        park(place, "memory", "bad", event(number))
    sink = MemorySink()
    sink.answer = lambda batch: [Permanent("still bad"), Retry(None, "busy"), Unknown("no answer")]
    resend(place, sink, list(read_parked(place)), by="ada", now=lambda: 50.0)
    found = list(read_parked(place))
    assert [one.changes[-1].why for one in found] == ["still bad", "busy", "no answer"]
    assert [one.sent for one in found] == [None, None, 50.0]


def test_a_retry_goes_in_batches_that_the_sink_takes(place: Path) -> None:
    """Many events are sent in as many batches as it takes."""
    for number in range(25):
        park(place, "memory", "bad", event(number))
    sink = MemorySink(max_batch=10)
    resend(place, sink, list(read_parked(place)), by="ada")
    assert [len(batch) for batch in sink.sent] == [10, 10, 5]
    assert list(read_parked(place)) == []


def test_a_retry_that_was_killed_leaves_the_event_in_doubt(place: Path) -> None:
    """Between the note and the answer nobody knows: beyond the horizon it is not sent blindly."""
    park(place, "memory", "bad", event(1))
    sink = MemorySink()
    sink.horizon = DAY

    def die(batch: object) -> list[Delivered]:
        raise KeyboardInterrupt

    sink.answer = die
    with pytest.raises(KeyboardInterrupt):
        resend(place, sink, list(read_parked(place)), by="ada", now=lambda: 1000.0)
    (one,) = read_parked(place)
    assert (one.state, one.sent) == (State.SENDING, 1000.0)
    assert not is_in_doubt(one, sink, 1000.0 + 22 * 3600)
    assert is_in_doubt(one, sink, 1000.0 + 23 * 3600)
    sink.horizon = None
    assert not is_in_doubt(one, sink, 1000.0 + 100 * DAY)


def test_one_at_a_time(place: Path) -> None:
    """Who comes second is told, and waits for nobody; a forwarder parks meanwhile."""
    with sole(place):
        with pytest.raises(Busy), sole(place):
            pass
        park(place, "biller", "bad", event(1))
    with sole(place):
        assert ids([one.payload for one in read_parked(place)]) == ["event-1"]


def test_the_file_is_lines_of_json(place: Path) -> None:
    """As the docs say, for whoever reads it with other tools."""
    park(place, "biller", "bad", event(1), sent=3.0)
    record = json.loads(parked_path(place).read_text())
    assert {name: record[name] for name in ("state", "sink", "why", "sent")} == {
        "state": "parked",
        "sink": "biller",
        "why": "bad",
        "sent": 3.0,
    }
    assert json.loads(record["payload"])["id"] == "event-1"
