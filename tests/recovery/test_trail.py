"""How far closings are settled never passes one that is not; what memory leaves out, the journal sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import HELD, Journal, Position
from meter_mw.recovery import trail as module
from meter_mw.recovery.backlog import Backlog
from meter_mw.recovery.marks import Marks
from meter_mw.recovery.register import Register
from recovery.conftest import closing, counted, packed

if TYPE_CHECKING:
    from meter_mw.recovery.trail import Trail
    from meter_mw.stores.memory import MemoryStore
    from meter_mw.stores.port import Settle
    from meter_mw.testing.stores import Clock


def kept(trail: Trail, clock: Clock, count: int) -> list[tuple[Settle, Position]]:
    made = [closing(clock) for _ in range(count)]
    return [(each, trail.keep(each.rid, b"{}", packed(each, clock))) for each in made]


def test_settled_follows_the_oldest(trail: Trail, clock: Clock) -> None:
    """Confirmed out of order, the place moves on when the oldest is confirmed."""
    several = kept(trail, clock, 3)
    for number, settled in ((2, Position(0, 0)), (0, several[0][1]), (1, several[2][1])):
        trail.confirmed((several[number][0].rid,))
        assert trail.save().settled == settled


def test_a_rid_that_is_kept_twice_is_confirmed_twice(trail: Trail, clock: Clock) -> None:
    """A cancellation may be noted twice: each stands for itself."""
    one = closing(clock)
    trail.keep(one.rid, b"", packed(one, clock))
    trail.confirmed((one.rid,))
    end = trail.keep(one.rid, b"", packed(one, clock))
    trail.confirmed((one.rid,))
    assert trail.save().settled == end


def test_what_may_be_in_the_store_is_marked_before_it_is_sent(trail: Trail, clock: Clock) -> None:
    """The marks say up to where and since when; what reached nobody is taken back."""
    (first, end), (second, last) = kept(trail, clock, 2)
    clock.move(5)
    trail.sending((first.rid,))
    assert (trail.marks.sent, trail.marks.since_us) == (end, clock())
    clock.move(5)
    noted = trail.sending((second.rid,))
    assert (trail.marks.sent, trail.marks.since_us) == (last, clock() - 5)  # the first is still in doubt
    trail.unsent(noted)
    assert trail.marks.sent == end
    trail.confirmed((first.rid,))
    clock.move(5)
    trail.sending((second.rid,))
    assert (trail.marks.settled, trail.marks.sent, trail.marks.since_us) == (end, last, clock())


def test_the_register_knows_it(trail: Trail, clock: Clock) -> None:
    """Whoever takes the register over reads the same marks."""
    register = trail.ready()
    assert register is not None
    ((one, end),) = kept(trail, clock, 1)
    trail.sending((one.rid,))
    trail.confirmed((one.rid,))
    trail.save()
    estate = register.path.parent
    trail.forget()
    left = Register.take(estate)
    assert left is not None
    assert left.marks().settled == end
    left.disown()


def test_a_gap_is_closed_by_who_has_read_all(trail: Trail, clock: Clock) -> None:
    """What memory leaves out is read from the last settled on, until nothing is left that was written."""
    several = kept(trail, clock, 2)
    assert trail.leaves_out(several[1][0].rid)
    assert trail.marks.beyond_us is None
    noted = trail.sending((several[0][0].rid,))
    assert trail.marks.tried_us(several[1][1], 0) == clock()  # whoever takes over late is careful
    trail.unsent(noted)
    assert trail.marks.beyond_us is None
    trail.sending((several[0][0].rid,))
    assert trail.gap == Position(0, 0)
    ((_, later),) = kept(trail, clock, 1)
    assert not trail.passed(several[1][1])
    assert trail.gap == several[1][1]
    assert trail.passed(later)
    assert trail.gap is None
    assert (trail.save().settled, trail.marks.beyond_us) == (later, None)


def test_what_is_not_in_the_journal_cannot_be_left_out(trail: Trail, clock: Clock) -> None:
    """Memory must hold what is kept nowhere else."""
    assert not trail.leaves_out(closing(clock).rid)


def test_what_nobody_sends_is_sent_from_the_journal(
    trail: Trail, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closing that is neither confirmed nor waiting is not left for ever."""
    monkeypatch.setattr(module, "OVERDUE_S", 0.0)
    kept(trail, clock, 1)
    trail.look(is_idle=False)
    assert trail.gap is None
    trail.look(is_idle=True)
    assert trail.gap == Position(0, 0)


def test_what_the_journal_does_not_take_stays_in_memory(
    trail: Trail, journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a gap too: what waits for the disk is in memory alone."""
    ((first, _),) = kept(trail, clock, 1)
    assert trail.leaves_out(first.rid)
    held = closing(clock)
    monkeypatch.setattr(journal, "append", lambda event, closing: HELD)
    trail.keep(held.rid, b"{}", packed(held, clock))
    assert not trail.leaves_out(held.rid)


def test_a_loss_goes_back(trail: Trail, clock: Clock) -> None:
    """After a loss all is read again from where the store went back to, and the loss ends with the gap."""
    several = kept(trail, clock, 3)
    trail.confirmed(each.rid for each, _ in several)
    assert trail.save().settled == several[2][1]
    trail.rewind(Marks(several[0][1], several[0][1], None, 7, 3))
    assert trail.gap == several[0][1]
    assert trail.save().settled == several[0][1]
    assert trail.marks.lost_after_us == 7
    assert trail.passed(several[2][1])
    assert trail.marks == Marks(several[2][1], several[0][1])


def test_what_its_admission_settled_is_confirmed_at_once(trail: Trail, clock: Clock) -> None:
    """Nobody sends it, and nothing waits for it."""
    one = closing(clock)
    end = trail.keep(one.rid, b"{}", packed(one, clock), settled=True)
    assert (trail.save().settled, trail.end) == (end, end)


def test_what_its_admission_settled_passes_nothing(trail: Trail, clock: Clock) -> None:
    """It stands behind those that the store has not confirmed, however many of both come."""
    (first, _), (second, end) = kept(trail, clock, 2)
    settled = closing(clock)
    last = trail.keep(settled.rid, b"{}", packed(settled, clock), settled=True)
    assert trail.save().settled == Position(0, 0)
    trail.confirmed((second.rid,))
    assert trail.save().settled == Position(0, 0)
    trail.confirmed((first.rid,))
    assert trail.save().settled == last > end


def test_what_its_admission_settled_is_sent_after_a_loss(
    trail: Trail, journal: Journal, store: MemoryStore, clock: Clock
) -> None:
    """All from where the store went back to is read again: what was charged at once is among it."""
    settled = [closing(clock, 1 << number) for number in range(3)]
    ends = [trail.keep(each.rid, b"{}", packed(each, clock, clock()), settled=True) for each in settled]
    assert trail.save().settled == ends[2]
    trail.rewind(Marks(ends[0], ends[0], None, 7, 3))
    home = journal.home()
    assert home is not None
    backlog = Backlog(home, trail.marks, trail, store=store, park=refuse, lost=lambda _: True)
    while trail.gap is not None:
        backlog.step(trail.end)
    assert (counted(store), trail.save().settled) == (2 + 4, ends[2])


def test_what_is_charged_while_counts_are_brought_back_is_in_doubt_later(trail: Trail, clock: Clock) -> None:
    """Read from the journal when the store has forgotten its rid, it could count twice."""
    ((_, end),) = kept(trail, clock, 1)
    trail.rewind(Marks(lost_after_us=7, lost_since_us=7))
    assert trail.marks.tried_us(end, clock()) is None
    settled = closing(clock)
    later = trail.keep(settled.rid, b"{}", packed(settled, clock, clock()), settled=True)
    assert trail.marks.tried_us(later, clock()) == clock()
    assert trail.gap == Position(0, 0)


def test_what_waits_for_the_disk_and_is_settled_waits_for_nobody_else(
    trail: Trail, journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory has nothing to send for it."""
    settled = closing(clock)
    monkeypatch.setattr(journal, "append", lambda event, closing: HELD)
    trail.keep(settled.rid, b"{}", packed(settled, clock), settled=True)
    assert trail.save().settled == Position(0, 0)
    monkeypatch.undo()
    end = trail.keep(settled.rid, b"{}", packed(settled, clock), settled=True)
    assert trail.save().settled == end


def refuse(packed: bytes, reason: str) -> None:
    raise AssertionError(f"parked: {reason}")
