"""A journal, its trail, and closings on a cap, by a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Journal
from meter_mw.periods import Period
from meter_mw.quota import Cap
from meter_mw.recovery.trail import Trail
from meter_mw.rids import new_rid
from meter_mw.stores.kept import pack
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Booking, Charge, Settle
from meter_mw.testing.stores import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY_US = 86_400_000_000
TAG = "t"
CAP = Charge(
    "c:1",
    Cap(1_000_000, Period.DAY),
    1,
    1,
    (Clock.START_US - DAY_US, Clock.START_US, Clock.START_US + DAY_US, Clock.START_US + 2 * DAY_US),
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal", "urn:test")
    yield journal
    journal.close()


@pytest.fixture
def trail(journal: Journal, clock: Clock) -> Iterator[Trail]:
    trail = Trail(journal, clock)
    yield trail
    trail.forget()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


def closing(clock: Clock, units: int = 1) -> Settle:
    """Make a settlement of `units`, of a request whose admission the store never saw."""
    return Settle(new_rid(clock()), TAG, (Booking(CAP, units, Clock.START_US),))


def packed(settlement: Settle, clock: Clock, admitted_us: int = 0) -> bytes:
    return pack(settlement, clock(), admitted_us)


def counted(store: MemoryStore) -> int:
    """Give what the store has counted."""
    (reading,) = store.peek(TAG, (CAP,)).readings
    return reading.state.part
