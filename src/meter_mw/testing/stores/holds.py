"""What is held is granted in part, settled to the truth, and comes back by itself."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from meter_mw.periods import Period
from meter_mw.quota import Cap, Rate
from meter_mw.stores.port import Booking, Outcome, Settle, Verdict
from meter_mw.testing.stores.bench import (
    FIVE_A_MINUTE,
    HUNDRED_A_DAY,
    LEASE_US,
    SECOND_US,
    TEN_A_SECOND,
    Laws,
)

TWENTY_AT_ONCE = Rate(10, SECOND_US, 20)


class HoldLaws(Laws):
    """Held charges and their leases."""

    def test_a_cap_grants_what_it_has(self) -> None:
        """More than what is needed is granted as far as it is there; none of what is needed is missing."""
        at = self.bench()
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 70))
        tally = at.admit(at.charge("c", HUNDRED_A_DAY, 10, 50, held=True))
        assert (tally.verdict, tally.readings[0].granted) == (Verdict.ADMITTED, 30)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 100
        assert not at.admits(at.charge("c", HUNDRED_A_DAY, 1, 50, held=True))
        nothing = at.admit(at.charge("c", HUNDRED_A_DAY, 0, 50, held=True))
        assert (nothing.verdict, nothing.readings[0].granted) == (Verdict.ADMITTED, 0)

    def test_a_cap_grants_no_less_than_is_needed(self) -> None:
        """Where not all that is needed is free, nothing is held."""
        at = self.bench()
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 95))
        assert not at.admits(at.charge("c", HUNDRED_A_DAY, 6, 6, held=True))
        assert not at.admits(at.charge("c", HUNDRED_A_DAY, 6, 90, held=True))
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 95

    def test_a_rate_grants_all(self) -> None:
        """Where what is needed fits, a rate takes all: the rest is waited for by those who come next."""
        at = self.bench()
        one = at.charge("a", TEN_A_SECOND)
        assert at.admits(at.charge("a", TEN_A_SECOND, 1, 12, held=True))
        denied = at.admit(one)
        assert (denied.verdict, at.wait_us(one, denied)) == (Verdict.DENIED, 800_000)

    def test_nothing_always_fits(self) -> None:
        """Who needs nothing is admitted whatever the debt."""
        at = self.bench()
        cap, rate = at.charge("c", FIVE_A_MINUTE), at.charge("a", TEN_A_SECOND)
        command = at.command(cap, rate)
        at.settle(command, at.send(command), 50, 50)
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 0), at.charge("a", TEN_A_SECOND, 0))
        held = at.charge("c", FIVE_A_MINUTE, 0, 9, held=True), at.charge("a", TEN_A_SECOND, 0, 9, held=True)
        tally = at.admit(*held)
        assert (tally.verdict, [each.fits for each in tally.readings]) == (Verdict.ADMITTED, [True, True])
        assert at.used(cap) == 50
        assert not at.admits(cap)
        assert not at.admits(rate)

    def test_a_hold_is_settled_to_the_truth(self) -> None:
        """More than was held is charged, less is given back, and a repeat changes nothing."""
        for actual in (0, 3, 4, 5, 15):
            at = self.bench()
            cap = at.charge("c", HUNDRED_A_DAY, 1, 4, held=True)
            rate = at.charge("a", TWENTY_AT_ONCE, 1, 4, held=True)
            command = at.command(cap, rate)
            tally = at.send(command)
            assert (at.used(cap), at.remaining(rate)) == (4, 16)
            assert at.settle(command, tally, actual, actual) is Outcome.APPLIED
            assert at.settle(command, tally, actual, actual) is Outcome.ALREADY
            assert (at.used(cap), at.remaining(rate)) == (actual, 20 - actual)
            at.clock.move(LEASE_US)
            assert at.used(at.charge("c", HUNDRED_A_DAY)) == actual

    def test_a_cancelled_hold_is_given_back(self) -> None:
        """Once, and not again when its lease would have been over."""
        at = self.bench()
        cap, rate = at.charge("c", HUNDRED_A_DAY, 4, held=True), at.charge("a", TWENTY_AT_ONCE, 4, held=True)
        before = at.peek(cap, rate)
        command = at.command(cap, rate)
        at.send(command)
        assert [at.cancel(command), at.cancel(command)] == [Outcome.APPLIED, Outcome.VOID]
        assert at.peek(cap, rate) == before
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 6))
        at.clock.move(LEASE_US)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 6

    def test_a_repeat_holds_once(self) -> None:
        """A command that is sent again holds no more, and is told the same."""
        at = self.bench()
        command = at.command(
            at.charge("c", HUNDRED_A_DAY, 1, 4, held=True), at.charge("a", TWENTY_AT_ONCE, 1, 4, held=True)
        )
        first = at.send(command)
        assert [at.send(command) for _ in range(3)] == [first] * 3
        at.cancel(command)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 0

    def test_units_come_back_when_the_lease_is_over(self) -> None:
        """Not one µs earlier, and only those of the lease that is over (Rule 6)."""
        at = self.bench()
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 4, held=True), at.charge("d", HUNDRED_A_DAY, 2))
        at.clock.move(SECOND_US)
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 9, held=True))
        at.clock.move(LEASE_US - SECOND_US - 1)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 13
        at.clock.move(1)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 9
        at.clock.move(SECOND_US)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 0
        assert at.used(at.charge("d", HUNDRED_A_DAY)) == 2
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 100))

    def test_leases_end_in_their_own_order(self) -> None:
        """One that began later and is shorter is over first."""
        at = self.bench()
        for lease_us in (LEASE_US, 5 * SECOND_US, 20 * SECOND_US):
            assert at.admits(at.charge("d", HUNDRED_A_DAY))
            command = at.command(at.charge("c", HUNDRED_A_DAY, 1, held=True), lease_us=lease_us)
            assert at.send(command).verdict is Verdict.ADMITTED
        left = []
        for lasts_us in (5, 15, 10):
            at.clock.move(lasts_us * SECOND_US - 1)
            left.append(at.used(at.charge("c", HUNDRED_A_DAY)))
            at.clock.move(1)
            left.append(at.used(at.charge("c", HUNDRED_A_DAY)))
        assert left == [3, 2, 2, 1, 1, 0]

    def test_of_a_rate_comes_back_what_has_not_drained(self) -> None:
        """Of 10 units at 10 a second, held for 0.6 s, 4 come back; the other 6 are back by themselves."""
        at = self.bench()
        command = at.command(at.charge("a", TWENTY_AT_ONCE, 10, held=True), lease_us=600_000)
        assert at.send(command).verdict is Verdict.ADMITTED
        at.clock.move(500_000)
        assert at.admits(at.charge("a", TWENTY_AT_ONCE, 5))
        at.clock.move(100_000 - 1)
        assert at.remaining(at.charge("a", TWENTY_AT_ONCE)) == 10
        at.clock.move(1)
        assert at.remaining(at.charge("a", TWENTY_AT_ONCE)) == 15
        assert [at.admits(at.charge("a", TWENTY_AT_ONCE)) for _ in range(16)] == [True] * 15 + [False]

    def test_what_has_drained_does_not_come_back_twice(self) -> None:
        """A hold that lasted longer than its units needed to drain gives nothing back."""
        at = self.bench()
        command = at.command(at.charge("a", TWENTY_AT_ONCE, 10, held=True))
        tally = at.send(command)
        at.clock.move(5 * SECOND_US)
        assert at.admits(at.charge("a", TWENTY_AT_ONCE, 15))
        assert at.settle(command, tally, 0) is Outcome.APPLIED
        assert [at.admits(at.charge("a", TWENTY_AT_ONCE)) for _ in range(6)] == [True] * 5 + [False]

    def test_a_settlement_after_the_lease_is_booked_in_full(self) -> None:
        """What came back is charged anew, once (Rule 6)."""
        at = self.bench()
        charges = (
            at.charge("c", HUNDRED_A_DAY, 10, held=True),
            at.charge("a", TWENTY_AT_ONCE, 10, held=True),
        )
        command = at.command(*charges)
        tally = at.send(command)
        at.clock.move(LEASE_US)
        assert at.used(charges[0]) == 0
        assert at.settle(command, tally, 7, 7) is Outcome.APPLIED
        assert at.settle(command, tally, 7, 7) is Outcome.ALREADY
        assert (at.used(charges[0]), at.remaining(charges[1])) == (7, 13)

    def test_a_cancellation_after_the_lease_gives_nothing_back(self) -> None:
        """What came back by itself is not given back a second time."""
        at = self.bench()
        command = at.command(at.charge("c", HUNDRED_A_DAY, 10, held=True))
        at.send(command)
        at.clock.move(LEASE_US)
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 25))
        assert at.cancel(command) is Outcome.APPLIED
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 25

    def test_a_repeat_after_the_lease_holds_nothing(self) -> None:
        """It is admitted as it was, and takes nothing again (Rule 1)."""
        at = self.bench()
        command = at.command(at.charge("c", HUNDRED_A_DAY, 10, held=True), within_us=2 * LEASE_US)
        at.send(command)
        at.clock.move(LEASE_US)
        again = at.send(command)
        assert (again.verdict, again.readings[0].granted) == (Verdict.ADMITTED, 10)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 0

    def test_a_hold_of_a_closed_window_leaves_the_next_alone(self) -> None:
        """When its lease is over, or it is settled, the count of the window after it stays."""
        for settles in (False, True):
            at = self.bench()
            command = at.command(at.charge("c", FIVE_A_MINUTE, 5, held=True), lease_us=90 * SECOND_US)
            tally = at.send(command)
            at.clock.move(60 * SECOND_US)
            assert at.admits(at.charge("c", FIVE_A_MINUTE, 3))
            if settles:
                assert at.settle(command, tally, 4) is Outcome.APPLIED
            at.clock.move(30 * SECOND_US)
            assert at.used(at.charge("c", FIVE_A_MINUTE)) == 3

    def test_some_held_and_some_for_good(self) -> None:
        """One command may hold of one quota and charge another; only what is held comes back."""
        at = self.bench()
        assert at.admits(at.charge("c", HUNDRED_A_DAY, 4, held=True), at.charge("d", HUNDRED_A_DAY, 3))
        at.clock.move(LEASE_US)
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 0
        assert at.used(at.charge("d", HUNDRED_A_DAY)) == 3

    def test_a_denied_hold_holds_nothing(self) -> None:
        """All or nothing is as true of what is held."""
        at = self.bench()
        full = at.charge("full", Cap(0, Period.DAY))
        held = at.charge("c", HUNDRED_A_DAY, 4, held=True), at.charge("a", TWENTY_AT_ONCE, 4, held=True)
        before = at.peek(*held)
        assert not at.admits(*held, full)
        assert at.peek(*held) == before
        at.clock.move(LEASE_US)
        assert at.used(held[0]) == 0

    def test_a_lost_hold_is_settled_in_full(self) -> None:
        """A settlement whose admission the store never saw is booked in full (Rule 5)."""
        at = self.bench()
        cap, rate = at.charge("c", HUNDRED_A_DAY, 4, held=True), at.charge("a", TWENTY_AT_ONCE, 4, held=True)
        command = at.command(cap, rate)
        opening = at.windows(Period.DAY)[1]
        lost = Settle(command.rid, at.tag, (Booking(cap, 9, opening), Booking(rate, 9)))
        assert [at.close(lost), at.close(lost)] == [Outcome.RECOVERED, Outcome.ALREADY]
        assert (at.used(cap), at.remaining(rate)) == (9, 11)
