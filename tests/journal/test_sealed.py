"""The supply of sealed windows: what is in hand, who sends it, and what outlives a crash."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal.sealed import LOOK_EVERY, SealedSupply
from meter_mw.journal.supply import Backlog, Consignment
from meter_mw.sinks.windows import Windows
from meter_mw.sinks.windows.records import Addition

from .conftest import SOURCE, Clock

if TYPE_CHECKING:
    from pathlib import Path

NOW_US = 1_767_261_600_000_000
MINUTE_US = 60_000_000


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    """Give windows of a minute, of which three are over."""
    windows = Windows(
        tmp_path / "windows", SOURCE, length_us=MINUTE_US, lateness_us=0, remember_us=10_000 * MINUTE_US
    )
    for number in (1, 2, 3):
        windows.add([Addition(f"e{number}", "acme", NOW_US - number * MINUTE_US, {"requests": 1})], NOW_US)
    return windows


def supply_of(windows: Windows, clock: Clock | None = None) -> SealedSupply:
    return SealedSupply(windows, now=lambda: NOW_US / 1_000_000, clock=clock or Clock())


def payloads(consignment: Consignment | None) -> list[bytes]:
    return [item.payload for item in consignment.items] if consignment else []


def test_what_is_in_hand_is_not_handed_out_again(windows: Windows) -> None:
    """Each record is in one consignment at a time, and in none when it is done."""
    supply = supply_of(windows)
    first, second = supply.take(2), supply.take(2)
    assert (len(payloads(first)), len(payloads(second))) == (2, 1)
    assert len({*payloads(first), *payloads(second)}) == 3
    assert supply.take(2) is None
    for each in (first, second):
        assert each is not None
        each.items = []
        supply.keep(each)
    assert supply.backlog() == Backlog()
    assert supply_of(windows).take(2) is None


def test_what_was_in_hand_comes_first_after_a_crash(windows: Windows) -> None:
    """The consignment as it was, less what is done with, with the moments of its items."""
    supply = supply_of(windows)
    first = supply.take(2)
    assert first is not None
    done, kept = first.items
    kept.sent = 7.5
    first.items = [kept]
    supply.keep(first)
    supply.release()
    again = supply_of(windows).take(100)
    assert again is not None
    assert [(item.payload, item.sent) for item in again.items] == [(kept.payload, 7.5)]
    assert done.payload != kept.payload


def test_one_has_the_mandate(windows: Windows) -> None:
    """Another supply gets nothing until it is released, and need not wait for what is not its own."""
    clock = Clock()
    one, other = supply_of(windows), supply_of(windows, clock)
    assert one.take(1) is not None
    assert other.take(1) is None
    assert other.arrived(0)
    assert not one.arrived(0)
    one.release()
    clock.now += LOOK_EVERY
    assert other.take(100) is not None


def test_a_child_has_no_part_in_it(windows: Windows) -> None:
    """After a fork the mandate is the parent's alone, also when the child ends."""
    supply = supply_of(windows)
    assert supply.take(1) is not None
    child = os.fork()
    if child == 0:
        os._exit(0 if supply.take(1) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert supply_of(windows).take(1) is None
    assert supply.take(1) is not None


def test_it_looks_now_and_then(windows: Windows) -> None:
    """An empty look is the last for a moment, unless someone hastens it."""
    clock = Clock()
    supply = supply_of(windows, clock)
    assert len(payloads(supply.take(100))) == 3
    assert supply.take(100) is None
    windows.add([Addition("late", "acme", NOW_US - MINUTE_US, {"requests": 1})], NOW_US)
    assert supply.take(100) is None
    supply.hasten()
    assert len(payloads(supply.take(100))) == 1
    assert supply.take(100) is None
    windows.add([Addition("later", "acme", NOW_US - MINUTE_US, {"requests": 1})], NOW_US)
    clock.now += LOOK_EVERY
    assert len(payloads(supply.take(100))) == 1


def test_the_backlog_is_what_is_sealed(windows: Windows) -> None:
    """With the moment since which the oldest could have been sent."""
    supply = supply_of(windows)
    assert supply.backlog() == Backlog()
    supply.take(1)
    assert supply.backlog() == Backlog(3, NOW_US / 1_000_000)


def test_a_database_that_cannot_be_read(windows: Windows, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, nothing is handed out, and what is in hand is not taken for done."""
    supply = supply_of(windows)
    consignment = supply.take(100)
    assert consignment is not None
    (windows.folder / "windows.db").write_bytes(b"x" * 9000)
    with pytest.raises(OSError, match="not a database"):
        supply.keep(consignment)
    assert supply.take(100) is None
    assert "no look for windows that are over: file is not a database" in caplog.text
    assert supply.backlog() == Backlog()
    assert not supply.arrived(0)


def test_records_are_whole_events(windows: Windows) -> None:
    """What a sink is sent can be read like any event."""
    consignment = supply_of(windows).take(100)
    assert {json.loads(payload)["type"] for payload in payloads(consignment)} == {"meter_mw.window.v1"}
