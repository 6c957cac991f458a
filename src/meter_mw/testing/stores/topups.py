"""A top-up says what is to be held in all, and renews the lease."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.quota import Rate, Slots
from meter_mw.rids import new_rid
from meter_mw.stores.port import Outcome, TopUp, Verdict
from meter_mw.testing.stores.bench import (
    FIVE_A_MINUTE,
    HUNDRED_A_DAY,
    LEASE_US,
    SECOND_US,
    TEN_A_SECOND,
    Laws,
)

if TYPE_CHECKING:
    from meter_mw.stores.port import Charge

TWENTY_AT_ONCE = Rate(10, SECOND_US, 20)


class TopUpLaws(Laws):
    """Holding more of the same."""

    def test_a_top_up_says_the_total(self) -> None:
        """What is held already counts; a repeat takes nothing more, an earlier one takes nothing away."""
        at = self.bench()

        def held(units: int) -> tuple[int, int]:
            charges = (
                at.charge("c", HUNDRED_A_DAY, units, held=True),
                at.charge("a", TWENTY_AT_ONCE, units, held=True),
            )
            tally = at.top_up(command, *charges)
            assert tally.verdict is Verdict.ADMITTED
            assert tally.readings[0].granted == at.used(charges[0])
            return at.used(charges[0]), at.remaining(charges[1])

        command = at.command(
            at.charge("c", HUNDRED_A_DAY, 2, held=True), at.charge("a", TWENTY_AT_ONCE, 2, held=True)
        )
        tally = at.send(command)
        assert [held(units) for units in (5, 5, 3, 0, 9)] == [(5, 15), (5, 15), (5, 15), (5, 15), (9, 11)]
        assert at.settle(command, tally, 6, 6) is Outcome.APPLIED
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 6
        assert at.remaining(at.charge("a", TWENTY_AT_ONCE)) == 14

    def test_a_top_up_is_granted_in_part(self) -> None:
        """What is needed must be there; of the rest a cap gives what it has."""
        at = self.bench()
        command = at.command(at.charge("c", HUNDRED_A_DAY, 10, held=True))
        at.send(command)
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 70))
        tally = at.top_up(command, at.charge("c", HUNDRED_A_DAY, 11, 50, held=True))
        assert (tally.verdict, tally.readings[0].granted) == (Verdict.ADMITTED, 30)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 100
        enough = at.top_up(command, at.charge("c", HUNDRED_A_DAY, 30, 50, held=True))
        assert (enough.verdict, enough.readings[0].granted) == (Verdict.ADMITTED, 30)
        assert at.top_up(command, at.charge("c", HUNDRED_A_DAY, 31, held=True)).verdict is Verdict.DENIED

    def test_a_late_top_up_changes_nothing(self) -> None:
        """It is fenced like an admission (Rule 2)."""
        at = self.bench()
        command = at.command(at.charge("c", HUNDRED_A_DAY, 2, held=True))
        at.send(command)
        more = at.charge("c", HUNDRED_A_DAY, 5, held=True)
        late = TopUp(command.rid, at.tag, at.clock() - 1, (more,), LEASE_US)
        tally = at.send(late)
        assert (tally.verdict, tally.readings) == (Verdict.LATE, ())
        assert at.used(more) == 2

    def test_a_top_up_of_what_is_over_is_void(self) -> None:
        """After a settlement or a cancellation nothing more is held (Rule 2)."""
        for settles in (True, False):
            at = self.bench()
            command = at.command(at.charge("c", HUNDRED_A_DAY, 2, held=True))
            tally = at.send(command)
            assert (at.settle(command, tally, 3) if settles else at.cancel(command)) is Outcome.APPLIED
            more = at.charge("c", HUNDRED_A_DAY, 5, held=True)
            assert at.top_up(command, more).verdict is Verdict.VOID
            assert at.used(more) == (3 if settles else 0)

    def test_a_denied_top_up_changes_nothing(self) -> None:
        """Neither what is held nor how long: all of its charges fit, or none is topped up."""
        at = self.bench()
        held = at.charge("c", FIVE_A_MINUTE, 2, held=True), at.charge("a", TEN_A_SECOND, 2, held=True)
        command = at.command(*held)
        at.send(command)
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 2))
        before = at.peek(*held)
        more = at.charge("c", FIVE_A_MINUTE, 4, held=True), at.charge("a", TEN_A_SECOND, 4, held=True)
        for charges in (more, more[::-1]):
            tally = at.top_up(command, *charges)
            assert tally.verdict is Verdict.DENIED
            assert {each.fits for each in tally.readings} == {True, False}
        assert at.peek(*held) == before
        at.clock.move(LEASE_US)
        assert at.used(at.charge("c", FIVE_A_MINUTE)) == 2

    def test_a_top_up_renews_the_lease(self) -> None:
        """Of all that it names, though it take nothing more; the rest comes back in its time."""
        at = self.bench()
        command = at.command(
            at.charge("c", HUNDRED_A_DAY, 2, held=True),
            at.charge("d", HUNDRED_A_DAY, 2, held=True),
            at.charge("s", Slots(1)),
        )
        tally = at.send(command)
        at.clock.move(LEASE_US - 1)
        kept = at.charge("c", HUNDRED_A_DAY, 2, held=True), at.charge("s", Slots(1))
        assert at.top_up(command, *kept).verdict is Verdict.ADMITTED
        at.clock.move(LEASE_US - 1)
        other = at.charge("d", HUNDRED_A_DAY)
        assert [at.used(each) for each in (*kept, other)] == [2, 1, 0]
        assert not at.admits(at.charge("s", Slots(1)))
        at.clock.move(1)
        assert [at.used(each) for each in (*kept, other)] == [0, 0, 0]
        assert at.settle(command, tally, 2, 2, 1) is Outcome.APPLIED
        assert [at.used(each) for each in (*kept, other)] == [2, 0, 2]

    def test_a_top_up_after_the_lease_holds_anew(self) -> None:
        """What came back is taken again, all of it, if it is still there."""
        at = self.bench()
        command = at.command(at.charge("c", HUNDRED_A_DAY, 60, held=True))
        tally = at.send(command)
        at.clock.move(LEASE_US)
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 30))
        assert at.top_up(command, at.charge("c", HUNDRED_A_DAY, 71, held=True)).verdict is Verdict.DENIED
        again = at.top_up(command, at.charge("c", HUNDRED_A_DAY, 70, held=True))
        assert (again.verdict, again.readings[0].granted) == (Verdict.ADMITTED, 70)
        assert at.settle(command, tally, 65) is Outcome.APPLIED
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 95

    def test_a_top_up_in_the_next_window_charges_only_what_is_new(self) -> None:
        """What was held before stays in the closed window; the settlement books the rest in the new one."""
        for actual, used in ((6, 3), (5, 2), (4, 1), (3, 0), (1, 0), (9, 6)):
            at = self.bench()
            command = at.command(at.charge("c", FIVE_A_MINUTE, 3, held=True), lease_us=90 * SECOND_US)
            tally = at.send(command)
            at.clock.move(60 * SECOND_US)
            topped = at.top_up(command, at.charge("c", FIVE_A_MINUTE, 5, held=True))
            assert (topped.verdict, topped.readings[0].granted) == (Verdict.ADMITTED, 5)
            assert at.used(at.charge("c", FIVE_A_MINUTE)) == 2
            assert at.top_up(command, at.charge("c", FIVE_A_MINUTE, 5, held=True)).readings[0].granted == 5
            assert at.settle(command, tally, actual) is Outcome.APPLIED
            assert at.used(at.charge("c", FIVE_A_MINUTE)) == used

    def test_a_top_up_in_the_next_window_may_need_nothing(self) -> None:
        """It renews the lease there all the same, and what the settlement finds beyond is booked there."""
        at = self.bench()
        command = at.command(at.charge("c", FIVE_A_MINUTE, 3, held=True), lease_us=90 * SECOND_US)
        tally = at.send(command)
        at.clock.move(60 * SECOND_US)
        topped = at.top_up(command, at.charge("c", FIVE_A_MINUTE, 2, held=True))
        assert (topped.verdict, topped.readings[0].granted) == (Verdict.ADMITTED, 3)
        assert at.settle(command, tally, 5) is Outcome.APPLIED
        assert at.used(at.charge("c", FIVE_A_MINUTE)) == 2

    def test_a_hold_that_rolled_comes_back_from_its_window(self) -> None:
        """When the lease of a hold over two windows ends, the new window gets back what it gave."""
        at = self.bench()
        command = at.command(at.charge("c", FIVE_A_MINUTE, 3, held=True), lease_us=90 * SECOND_US)
        at.send(command)
        at.clock.move(60 * SECOND_US)
        at.top_up(command, at.charge("c", FIVE_A_MINUTE, 5, held=True))
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 3))
        at.clock.move(LEASE_US)
        assert at.used(at.charge("c", FIVE_A_MINUTE)) == 3

    def test_a_top_up_that_outran_its_admission(self) -> None:
        """Of a rid that the store does not know, all is held, and comes back or is settled like any other."""
        at = self.bench()
        command = at.command(at.charge("c", HUNDRED_A_DAY, 2, held=True))
        topped = at.top_up(command, at.charge("c", HUNDRED_A_DAY, 5, held=True))
        assert (topped.verdict, topped.readings[0].granted) == (Verdict.ADMITTED, 5)
        assert at.settle(command, topped, 4) is Outcome.RECOVERED
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 4

    def test_an_admission_after_its_top_up_holds_no_more(self) -> None:
        """Which of the two comes first makes no difference: what the rid holds already counts."""
        at = self.bench()

        def charges(units: int) -> tuple[Charge, ...]:
            held = (
                at.charge("c", HUNDRED_A_DAY, units, held=True),
                at.charge("a", TWENTY_AT_ONCE, units, held=True),
            )
            return (*held, at.charge("s", Slots(1)))

        command = at.command(*charges(2))
        assert at.top_up(command, *charges(5)).verdict is Verdict.ADMITTED
        tally = at.send(command)
        assert (tally.verdict, tally.readings[0].granted) == (Verdict.ADMITTED, 5)
        assert [at.remaining(each) for each in charges(1)] == [95, 15, 0]
        assert at.settle(command, tally, 4, 4, 1) is Outcome.APPLIED
        assert [at.remaining(each) for each in charges(1)] == [96, 16, 1]

    def test_requests_are_topped_up_apart(self) -> None:
        """What one request holds is not held for another of the same subject."""
        at = self.bench()
        commands = [at.command(at.charge("c", HUNDRED_A_DAY, 2, held=True)) for _ in range(3)]
        tallies = [at.send(each) for each in commands]
        at.top_up(commands[0], at.charge("c", HUNDRED_A_DAY, 10, held=True))
        at.top_up(commands[1], at.charge("c", HUNDRED_A_DAY, 5, held=True))
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 17
        at.settle(commands[0], tallies[0], 1)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 8

    def test_stale_windows_of_a_top_up(self) -> None:
        """Windows that do not reach around now are asked for anew, and nothing changes."""
        at = self.bench()
        stale = at.charge("c", FIVE_A_MINUTE, 2, held=True)
        at.clock.move(180 * SECOND_US)
        command = TopUp(new_rid(at.clock()), at.tag, at.clock(), (stale,), LEASE_US)
        assert at.send(command).verdict is Verdict.REFRESH
        assert at.used(at.charge("c", FIVE_A_MINUTE)) == 0
