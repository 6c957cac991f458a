"""Closings of the dead reach the store once, whatever it had of them; poison holds nothing up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meter_mw.recovery.backlog import Backlog, Inherited
from meter_mw.recovery.marks import Marks
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import REMEMBERED_US, NotAsked, Refusal, StoreUnavailable
from meter_mw.stores.settler import IN_DOUBT
from recovery.conftest import closing, counted, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.journal import Journal, Position
    from meter_mw.recovery.trail import Trail
    from meter_mw.stores.port import Closed, Closing
    from meter_mw.testing.stores import Clock


class Left:
    """What a dead process left: closings of 1, 2, 4 and 8 units, and its register."""

    def __init__(self, trail: Trail, journal: Journal, clock: Clock) -> None:
        self.clock = clock
        self.register = trail.ready()
        self.closings = [closing(clock, 2**number) for number in range(4)]
        self.ends: list[Position] = []
        for each in self.closings:
            self.ends.append(trail.keep(each.rid, b"{}", packed(each, clock, admitted_us=0)))
            clock.move(1_000_000)
        self.parked: list[str] = []

    def backlog(self, store: MemoryStore, marks: Marks | None = None, *, lost: bool = True) -> Backlog:
        assert self.register is not None
        marks = marks or Marks()
        progress = Inherited(self.register, marks, self.clock)
        estate = self.register.path.parent
        return Backlog(
            estate,
            marks,
            progress,
            store=store,
            park=lambda _, reason: self.parked.append(reason),
            lost=lambda _: lost,
        )


@pytest.fixture
def left(trail: Trail, journal: Journal, clock: Clock) -> Left:
    return Left(trail, journal, clock)


def run(backlog: Backlog) -> None:
    while backlog.step():
        pass


def test_all_that_was_never_sent(left: Left, store: MemoryStore) -> None:
    """However late, what was surely never sent is sent, once."""
    left.clock.move(10 * REMEMBERED_US)
    run(left.backlog(store))
    assert counted(store) == 15
    assert left.register is not None
    assert left.register.marks().settled == left.ends[3]
    run(left.backlog(store, left.register.marks()))
    assert counted(store) == 15


def test_what_may_have_been_sent_lately(left: Left, store: MemoryStore) -> None:
    """What the store may have is sent again while it surely remembers, and counted once."""
    store.settle(left.closings[:2])
    marks = Marks(left.ends[0], left.ends[2], left.clock())
    left.clock.move(REMEMBERED_US - 1)
    run(left.backlog(store, marks))
    assert counted(store) == 15
    assert left.parked == []


def test_what_may_have_been_sent_long_ago(left: Left, store: MemoryStore) -> None:
    """What the store may have, and may have forgotten, is parked with the reason, and not counted twice."""
    store.settle(left.closings[:2])
    marks = Marks(left.ends[0], left.ends[2], left.clock())
    left.clock.move(REMEMBERED_US)
    run(left.backlog(store, marks))
    assert counted(store) == 1 + 2 + 8
    assert left.parked == [IN_DOUBT] * 2


def test_lost_data_is_told_again_however_late(left: Left, store: MemoryStore) -> None:
    """What was made after the moment that a store went back to is surely not there."""
    store.settle(left.closings[:1])
    marks = Marks(left.ends[0], left.ends[0], None, left.clock() - 4_000_000, left.clock() - 5_000_000)
    left.clock.move(10 * REMEMBERED_US)
    run(left.backlog(store, marks))
    assert counted(store) == 15


def test_a_loss_elsewhere_is_no_licence(left: Left, store: MemoryStore) -> None:
    """What is in parts of the store that lost nothing is sent with care: late, it is parked."""
    store.settle(left.closings)
    marks = Marks(lost_after_us=0, lost_since_us=0)
    left.clock.move(10 * REMEMBERED_US)
    run(left.backlog(store, marks, lost=False))
    assert counted(store) == 15
    assert left.parked == [IN_DOUBT] * 4


class Failing(MemoryStore):
    """Fails as it is told, before or after it has acted."""

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__(clock)
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.poison = ""

    def settle(self, closings: Sequence[Closing], *, patience_us: int = 0) -> Sequence[Closed]:
        if self.before:
            raise self.before.pop(0)
        if self.poison in {each.rid for each in closings}:
            raise Refusal("redis at h:1 refused: mw: the key of a holder holds something else")
        answers = super().settle(closings)
        if self.after:
            raise self.after.pop(0)
        return answers


def test_an_outage_is_waited_for(left: Left, clock: Clock) -> None:
    """A store that is away for hours, and was not reached, is told all when it is back."""
    store = Failing(clock)
    store.before = [NotAsked("away")] * 3
    backlog = left.backlog(store)
    for _ in range(3):
        with pytest.raises(NotAsked):
            backlog.step()
        clock.move(REMEMBERED_US)
    run(backlog)
    assert counted(store) == 15


def test_a_lost_answer_is_asked_for_again(left: Left, clock: Clock) -> None:
    """A store that acted before it went silent is told again, while it remembers."""
    store = Failing(clock)
    store.after = [StoreUnavailable("silent")]
    backlog = left.backlog(store)
    with pytest.raises(StoreUnavailable):
        backlog.step()
    run(backlog)
    assert counted(store) == 15


def test_a_lost_answer_of_long_ago_is_not(left: Left, clock: Clock) -> None:
    """And where it no longer remembers, it is left alone."""
    store = Failing(clock)
    store.after = [StoreUnavailable("silent")]
    backlog = left.backlog(store)
    with pytest.raises(StoreUnavailable):
        backlog.step()
    clock.move(2 * REMEMBERED_US)
    run(backlog)
    assert counted(store) == 15
    assert left.parked == [IN_DOUBT] * 4


def test_18_poison_is_put_aside(left: Left, clock: Clock) -> None:
    """What the store cannot digest is parked with its words; the rest is settled."""
    store = Failing(clock)
    store.poison = left.closings[1].rid
    backlog = left.backlog(store)
    for _ in range(20):
        try:
            if not backlog.step():
                break
        except Refusal:
            continue
    assert counted(store) == 1 + 4 + 8
    (reason,) = left.parked
    assert "holds something else" in reason


def test_what_is_not_a_closing_is_put_aside(left: Left, store: MemoryStore, trail: Trail) -> None:
    """Bytes that nobody can read hold nothing up."""
    trail.keep(left.closings[0].rid, b"", b"\xc1 not a closing")
    run(left.backlog(store))
    assert counted(store) == 15
    assert "expected a packed closing" in left.parked[0]
