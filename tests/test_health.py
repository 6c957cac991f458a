"""What the daemon tells of itself: judged by the reports of its couriers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from meter_mw.cli.health import Bounds, Health
from meter_mw.journal.courier import Report
from meter_mw.journal.parked import Change, State, note, park, read_parked
from meter_mw.journal.supply import Backlog

if TYPE_CHECKING:
    from pathlib import Path


class Convoy:
    """Says what it is told to."""

    def __init__(self, *reports: Report) -> None:
        self._reports = reports
        self.well = True

    def alive(self) -> bool:
        return self.well

    def reports(self) -> list[Report]:
        return list(self._reports)


def report(events: int = 0, age: float | None = None, failures: int = 0, error: str | None = None) -> Report:
    oldest = None if age is None else time.time() - age
    return Report("biller", Backlog(events, oldest), done=5, failures=failures, error=error)


def health(place: Path, *reports: Report) -> Health:
    return Health(Convoy(*reports), Bounds(events=100, seconds=300.0), place)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        ({}, None),
        ({"events": 100, "age": 200, "failures": 2}, None),
        ({"events": 101}, "more than 100 events wait"),
        ({"events": 1, "age": 400}, "an event waits for more than 300 s"),
        ({"failures": 3, "error": "busy"}, "cannot be reached: 3 attempts in a row failed"),
    ],
)
def test_when_a_sink_is_behind(tmp_path: Path, one: dict[str, Any], why: str | None) -> None:
    """By events, by age, or when it cannot be reached; one that is makes the daemon not ready."""
    status = health(tmp_path, report(), report(**one)).status()
    assert [sink["behind"] for sink in status["sinks"]] == [None, why]  # type: ignore[attr-defined]
    assert status["ready"] is (why is None)


def test_a_thread_that_has_ended_is_no_life(tmp_path: Path) -> None:
    """Then it is neither alive nor ready."""
    convoy = Convoy(report())
    judged = Health(convoy, Bounds(100, 300.0), tmp_path)  # type: ignore[arg-type]
    assert judged.lives()
    convoy.well = False
    assert not judged.lives()
    assert judged.status()["ready"] is False


def test_what_is_parked_is_counted(tmp_path: Path) -> None:
    """Of the sink alone, and only while it waits."""
    judged = health(tmp_path, report())

    def parked() -> object:
        return judged.status()["sinks"][0]["parked"]  # type: ignore[index]

    assert parked() == 0
    park(tmp_path, "biller", "bad", b"1")
    park(tmp_path, "biller", "bad", b"2")
    park(tmp_path, "other", "bad", b"3")
    assert parked() == 2
    assert parked() == 2
    first = next(read_parked(tmp_path))
    note(tmp_path, [first], Change(State.DROPPED, 1.0, "paid by hand", "ada"))
    assert parked() == 1


def test_an_error_is_told_in_short(tmp_path: Path) -> None:
    """The last one, up to 200 characters."""
    (sink,) = health(tmp_path, report(failures=1, error="x" * 5000)).status()["sinks"]  # type: ignore[misc]
    assert sink["last_error"] == "x" * 200
    assert (sink["lag_events"], sink["oldest_age_s"], sink["done"]) == (0, None, 5)
