"""Overage and thresholds are told by the one answer that brought them, and again to its repeats."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from datetime import date

from meter_mw.periods import Period
from meter_mw.quota import Cap, Slots
from meter_mw.stores.port import Booking, Closed, Note, Outcome, Settle, Verdict
from meter_mw.testing.stores.bench import HUNDRED_A_DAY, LEASE_US, SECOND_US, Laws, settlement

BILLED = Cap(10, Period.DAY, bills=True)
WARNED = Cap(10, Period.DAY, warn=(5, 8, 10))
DAY_US = 86_400 * SECOND_US


class MarkLaws(Laws):
    """Overage, grace, ceilings, thresholds, and until when a count goes on."""

    def test_overage_is_split_exactly(self) -> None:
        """Of the request that straddles the limit, what is beyond it is overage; of those after it, all."""
        at = self.bench()
        tallies = [at.admit(at.charge("c", BILLED, units)) for units in (8, 5, 4)]
        assert [each.verdict for each in tallies] == [Verdict.ADMITTED] * 3
        assert [each.readings[0].overage for each in tallies] == [0, 3, 4]
        assert at.used(at.charge("c", BILLED)) == 17

    def test_a_repeat_is_told_the_same(self) -> None:
        """Of overage and of thresholds; it marks nothing again."""
        at = self.bench()
        cap = Cap(10, Period.DAY, bills=True, warn=(5, 8))
        command = at.command(at.charge("c", cap, 12))
        first = at.send(command)
        assert (first.readings[0].overage, first.readings[0].warned) == (2, (0, 8))
        assert [at.send(command) for _ in range(3)] == [first] * 3
        after = at.admit(at.charge("c", cap, 1)).readings[0]
        assert (after.overage, after.warned) == (1, (0, 0))
        repeated = at.send(command).readings[0]
        assert (repeated.overage, repeated.warned, repeated.state.part) == (2, (0, 8), 13)

    def test_thresholds_are_told_once(self) -> None:
        """By the request that reached them, several at once if need be."""
        at = self.bench()
        told = [at.admit(at.charge("c", WARNED, units)).readings[0].warned for units in (4, 1, 2, 3, 0)]
        assert told == [(0, 0), (0, 5), (0, 0), (5, 10), (0, 0)]

    def test_a_threshold_is_not_told_again_after_a_refund(self) -> None:
        """A count that falls below and rises again announces nothing new."""
        at = self.bench()
        command = at.command(at.charge("c", WARNED, 6))
        assert at.send(command).readings[0].warned == (0, 5)
        at.cancel(command)
        assert at.admit(at.charge("c", WARNED, 6)).readings[0].warned == (0, 0)
        assert at.admit(at.charge("c", WARNED, 3)).readings[0].warned == (5, 8)

    def test_what_is_held_is_marked_when_it_is_known(self) -> None:
        """A settlement notes what its units turned out to be, and a repeat notes the same."""
        at = self.bench()
        cap = Cap(10, Period.DAY, bills=True, warn=(5, 8))
        command = at.command(at.charge("d", HUNDRED_A_DAY), at.charge("c", cap, 1, 30, held=True))
        tally = at.send(command)
        assert (tally.readings[1].overage, tally.readings[1].warned) == (0, (0, 0))
        other = at.admit(at.charge("c", cap, 4)).readings[0]
        assert (other.overage, other.warned) == (0, (0, 0))
        closing = settlement(command, tally, 1, 13)
        notes = (Note(1, 7, (0, 8)),)
        assert at.closed(closing) == Closed(Outcome.APPLIED, notes)
        assert at.admit(at.charge("c", cap, 1)).readings[0].overage == 1
        assert [at.closed(closing) for _ in range(2)] == [Closed(Outcome.ALREADY, notes)] * 2
        assert at.used(at.charge("c", cap)) == 18

    def test_nothing_to_say_is_not_noted(self) -> None:
        """A settlement below the limit and every threshold has no notes; a cancellation never has."""
        at = self.bench()
        cap = Cap(10, Period.DAY, bills=True, warn=(8,))
        command = at.command(at.charge("c", cap, 1, 9, held=True), at.charge("s", Slots(1)))
        tally = at.send(command)
        assert at.closed(settlement(command, tally, 7, 1)) == Closed(Outcome.APPLIED)
        over = at.command(at.charge("c", cap, 9))
        at.send(over)
        assert at.cancel(over) is Outcome.APPLIED
        assert at.used(at.charge("c", cap)) == 7

    def test_notes_name_their_booking(self) -> None:
        """Of several bookings each is told apart."""
        at = self.bench()
        caps = [
            at.charge(name, cap, 1, held=True) for name, cap in (("a", BILLED), ("b", WARNED), ("d", BILLED))
        ]
        command = at.command(*caps)
        tally = at.send(command)
        closed = at.closed(settlement(command, tally, 11, 7, 12))
        assert closed.notes == (Note(0, 1), Note(1, 0, (0, 5)), Note(2, 2))

    def test_a_lost_admit_is_marked_by_its_settlement(self) -> None:
        """What is booked in full is marked in full."""
        at = self.bench()
        charge = at.charge("c", BILLED)
        lost = Settle(at.command().rid, at.tag, (Booking(charge, 14, at.windows(Period.DAY)[1]),))
        assert at.closed(lost) == Closed(Outcome.RECOVERED, (Note(0, 4),))
        assert at.admit(charge).readings[0].overage == 1

    def test_a_mark_goes_with_its_units(self) -> None:
        """Units that turn out not to have been used are overage no longer, and the next is marked right."""
        at = self.bench()
        assert at.admits(at.charge("c", BILLED, 9))
        command = at.command(at.charge("c", BILLED, 4))
        tally = at.send(command)
        assert tally.readings[0].overage == 3
        assert at.closed(settlement(command, tally, 2)) == Closed(Outcome.APPLIED)
        assert at.used(at.charge("c", BILLED)) == 11
        assert at.admit(at.charge("c", BILLED, 2)).readings[0].overage == 2

    def test_all_marks_add_up(self) -> None:
        """Charged or held, in whatever order they are settled, the marks are what lies beyond the cap."""
        at = self.bench()
        held, marks = [], 0
        for units in (3, 4, 2, 7, 1, 5):
            command = at.command(at.charge("c", BILLED, 1, 2 * units, held=True))
            held.append((command, at.send(command), units))
            marks += at.admit(at.charge("c", BILLED, units)).readings[0].overage
        for command, tally, units in held[::2] + held[1::2]:
            marks += sum(note.overage for note in at.closed(settlement(command, tally, units)).notes)
        assert (at.used(at.charge("c", BILLED)), marks) == (44, 34)

    def test_a_lease_that_is_over_marks_nothing(self) -> None:
        """What was never used is no overage and reaches no threshold."""
        at = self.bench()
        cap = Cap(10, Period.DAY, bills=True, warn=(5,))
        assert at.admits(at.charge("c", cap, 4), at.charge("d", HUNDRED_A_DAY))
        assert at.admits(at.charge("c", cap, 50, held=True))
        at.clock.move(LEASE_US)
        reading = at.admit(at.charge("c", cap, 7)).readings[0]
        assert (reading.overage, reading.warned, reading.state.part) == (1, (0, 5), 11)

    def test_what_comes_back_announces_nothing(self) -> None:
        """A lease that ends under another plan than it began reaches no threshold in silence."""
        at = self.bench()
        assert at.admits(at.charge("c", Cap(100, Period.DAY, bills=True, warn=(5,)), 9, held=True))
        assert at.admits(at.charge("c", Cap(100, Period.DAY), 7))
        at.clock.move(LEASE_US)
        assert at.admits(at.charge("d", HUNDRED_A_DAY))
        reading = at.admit(at.charge("c", Cap(100, Period.DAY, warn=(5,)))).readings[0]
        assert (reading.state.part, reading.warned) == (8, (0, 5))

    def test_grace(self) -> None:
        """So many more are served as if they belonged to the cap; then it denies."""
        at = self.bench()
        one = at.charge("c", Cap(5, Period.DAY, grace=2))
        tallies = [at.admit(one) for _ in range(9)]
        assert [each.verdict for each in tallies] == [Verdict.ADMITTED] * 7 + [Verdict.DENIED] * 2
        assert {each.readings[0].overage for each in tallies} == {0}
        assert at.remaining(one) == 0

    def test_grace_is_no_overage(self) -> None:
        """Where a cap bills, it bills what comes after its grace."""
        at = self.bench()
        one = at.charge("c", Cap(5, Period.DAY, grace=2, bills=True), 3)
        assert [at.admit(one).readings[0].overage for _ in range(4)] == [0, 0, 2, 3]

    def test_ceiling(self) -> None:
        """Overage ends there, to the unit; a hold is granted what is left below it."""
        at = self.bench()
        cap = Cap(10, Period.DAY, bills=True, ceiling=15)
        assert at.admits(at.charge("c", cap, 12))
        assert not at.admits(at.charge("c", cap, 4))
        tally = at.admit(at.charge("c", cap, 1, 9, held=True))
        assert (tally.verdict, tally.readings[0].granted) == (Verdict.ADMITTED, 3)
        assert not at.admits(at.charge("c", cap))

    def test_a_window_begins_unmarked(self) -> None:
        """Each has overage and thresholds of its own."""
        at = self.bench()
        cap = Cap(2, Period.MINUTE, bills=True, warn=(1,))
        for _ in range(3):
            reading = at.admit(at.charge("c", cap, 3)).readings[0]
            assert (reading.overage, reading.warned) == (1, (0, 1))
            at.clock.move(60 * SECOND_US)

    def test_a_cap_that_changes_keeps_its_marks(self) -> None:
        """Raised or lowered in mid-period, it neither marks nor tells anything a second time."""
        at = self.bench()
        assert (
            at.admit(at.charge("c", Cap(10, Period.DAY, bills=True, warn=(5,)), 12)).readings[0].overage == 2
        )
        raised = at.admit(at.charge("c", Cap(20, Period.DAY, bills=True, warn=(5, 14)), 4)).readings[0]
        assert (raised.overage, raised.warned, raised.state.part) == (0, (5, 14), 16)
        lowered = at.admit(at.charge("c", Cap(8, Period.DAY, bills=True), 1)).readings[0]
        assert (lowered.overage, lowered.state.part) == (1, 17)

    def test_a_count_goes_on_until_its_window_closes(self) -> None:
        """Admitted, denied, looked at or repeated, the answer is the same moment."""
        at = self.bench()
        cap = Cap(2, Period.DAY)
        closing = at.windows(Period.DAY)[2]
        command = at.command(at.charge("c", cap), within_us=DAY_US)
        answers = [at.send(command)]
        for _ in range(3):
            at.clock.move(3_600 * SECOND_US)
            answers += [at.admit(at.charge("c", cap)), at.send(command)]
            answers.append(at.store.peek(at.tag, (at.charge("c", cap),)))
        assert {each.readings[0].until_us for each in answers} == {closing}

    def test_a_moved_anchor_keeps_the_count(self) -> None:
        """In mid-period it goes on to the close of the new window, and begins anew there."""
        at = self.bench()
        cap = Cap(10, Period.MONTH)
        assert at.admits(at.charge("c", cap, 6))
        moved = date(2026, 1, 15)
        at.clock.move(2 * DAY_US)
        (reading,) = at.admit(at.charge("c", cap, 3, anchor=moved)).readings
        closing = at.windows(Period.MONTH, moved)[2]
        assert (reading.state.part, reading.until_us) == (9, closing)
        assert closing < at.windows(Period.MONTH)[2]
        at.clock.move(closing - at.clock() - 1)
        assert not at.admits(at.charge("c", cap, 2, anchor=moved))
        at.clock.move(1)
        (reading,) = at.admit(at.charge("c", cap, 2, anchor=moved)).readings
        assert (tuple(reading.state), reading.until_us) == ((closing, 2), at.windows(Period.MONTH, moved)[2])

    def test_a_hold_survives_a_moved_anchor(self) -> None:
        """What was held before the windows moved is settled in the count that goes on."""
        at = self.bench()
        cap, moved = Cap(100, Period.MONTH), date(2026, 1, 15)
        command = at.command(at.charge("c", cap, 1, 40, held=True))
        tally = at.send(command)
        at.clock.move(SECOND_US)
        assert at.admits(at.charge("c", cap, 5, anchor=moved))
        assert at.used(at.charge("c", cap, anchor=moved)) == 45
        assert at.settle(command, tally, 30) is Outcome.APPLIED
        assert at.used(at.charge("c", cap, anchor=moved)) == 35
