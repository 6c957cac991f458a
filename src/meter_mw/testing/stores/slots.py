"""Slots are exact: as many as there are at the same time, each given back, lost or handed over."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from meter_mw.periods import Period
from meter_mw.quota import Cap, Slots
from meter_mw.stores.port import Booking, Outcome, Settle, Verdict
from meter_mw.testing.stores.bench import LEASE_US, Laws


class SlotLaws(Laws):
    """Concurrency."""

    def test_slots_are_exact(self) -> None:
        """So many at once and not one more; whoever ends, however, makes room for one."""
        at = self.bench()
        slot = at.charge("s", Slots(3))
        commands = [at.command(slot) for _ in range(5)]
        tallies = [at.send(each) for each in commands]
        assert [each.verdict for each in tallies] == [Verdict.ADMITTED] * 3 + [Verdict.DENIED] * 2
        assert [each.readings[0].state.part for each in tallies] == [1, 2, 3, 3, 3]
        assert at.settle(commands[0], tallies[0], 1) is Outcome.APPLIED
        assert at.used(slot) == 2
        assert at.cancel(commands[1]) is Outcome.APPLIED
        assert [at.admits(slot) for _ in range(3)] == [True, True, False]

    def test_closing_twice_frees_one(self) -> None:
        """A repeated closing, or one of a request that was denied or never came, gives nothing back."""
        at = self.bench()
        slot = at.charge("s", Slots(2))
        command, other, denied = at.command(slot), at.command(slot), at.command(slot)
        tally = at.send(command)
        at.send(other)
        refused = at.send(denied)
        for _ in range(2):
            at.settle(command, tally, 1)
            at.cancel(command)
            at.settle(denied, refused, 1)
            at.cancel(at.command(slot))
        assert at.used(slot) == 1
        assert [at.admits(slot) for _ in range(2)] == [True, False]

    def test_a_repeat_takes_one_slot(self) -> None:
        """A command that is sent again is in flight once."""
        at = self.bench()
        slot = at.charge("s", Slots(1))
        command = at.command(slot)
        assert [at.send(command).verdict for _ in range(3)] == [Verdict.ADMITTED] * 3
        assert at.used(slot) == 1
        at.cancel(command)
        assert at.used(slot) == 0

    def test_a_slot_is_free_again_when_its_lease_is_over(self) -> None:
        """Not one µs earlier; a closing that comes later gives no second one back (Rule 6)."""
        at = self.bench()
        slot = at.charge("s", Slots(1))
        command = at.command(slot)
        tally = at.send(command)
        at.clock.move(LEASE_US - 1)
        assert not at.admits(slot)
        at.clock.move(1)
        assert at.used(slot) == 0
        assert at.admits(slot)
        assert at.settle(command, tally, 1) is Outcome.APPLIED
        assert at.used(slot) == 1
        assert not at.admits(slot)

    def test_each_slot_has_its_own_lease(self) -> None:
        """Those that were taken later come back later."""
        at = self.bench()
        slot = at.charge("s", Slots(5))
        for _ in range(5):
            assert at.admits(slot)
            at.clock.move(LEASE_US // 10)
        at.clock.move(LEASE_US // 2)
        left = []
        for _ in range(5):
            left.append(at.used(slot))
            at.clock.move(LEASE_US // 10)
        assert left == [4, 3, 2, 1, 0]

    def test_a_slot_is_handed_over(self) -> None:
        """Of one slot, the next request takes that of the one before it, and the count never rises."""
        at = self.bench()
        slot = at.charge("s", Slots(1))
        first = at.command(slot)
        tally = at.send(first)
        assert not at.admits(slot)
        for _ in range(4):
            second = at.command(slot, after=first)
            handed = at.send(second)
            assert (handed.verdict, handed.readings[0].state.part) == (Verdict.ADMITTED, 1)
            assert at.send(second) == handed
            assert not at.admits(slot)
            at.settle(first, tally, 1)
            assert at.used(slot) == 1
            first, tally = second, handed
        at.clock.move(LEASE_US)
        assert at.used(slot) == 0

    def test_a_slot_is_handed_over_once(self) -> None:
        """Of two that follow the same request, one has its slot; what was never held is not handed over."""
        at = self.bench()
        slot = at.charge("s", Slots(2))
        first = at.command(slot)
        at.send(first)
        assert at.admits(slot)
        followers = [at.send(at.command(slot, after=first)).verdict for _ in range(2)]
        assert followers == [Verdict.ADMITTED, Verdict.DENIED]
        assert at.send(at.command(slot, after=at.command(slot))).verdict is Verdict.DENIED
        assert at.used(slot) == 2

    def test_a_denied_request_takes_no_slot_over(self) -> None:
        """Where something else has no room, the slot stays with whom it was."""
        at = self.bench()
        slot, full = at.charge("s", Slots(1)), at.charge("full", Cap(0, Period.DAY))
        first = at.command(slot)
        at.send(first)
        denied = at.send(at.command(slot, full, after=first))
        assert [each.fits for each in denied.readings] == [True, False]
        assert at.used(slot) == 1
        at.cancel(first)
        assert at.used(slot) == 0

    def test_fewer_slots_than_in_use(self) -> None:
        """A limit that is lowered ends nothing, and admits nobody until there is room."""
        at = self.bench()
        commands = [at.command(at.charge("s", Slots(3))) for _ in range(3)]
        for each in commands:
            assert at.send(each).verdict is Verdict.ADMITTED
        one = at.charge("s", Slots(1))
        for each in commands:
            assert not at.admits(one)
            at.cancel(each)
        assert at.admits(one)

    def test_several_slots_at_once(self) -> None:
        """A request may take more than one, and gives all of them back."""
        at = self.bench()
        two = at.charge("s", Slots(5), 2)
        commands = [at.command(two) for _ in range(3)]
        verdicts = [at.send(each).verdict for each in commands]
        assert verdicts == [Verdict.ADMITTED, Verdict.ADMITTED, Verdict.DENIED]
        assert at.close(Settle(commands[0].rid, at.tag, (Booking(two, 0),))) is Outcome.APPLIED
        assert at.used(two) == 2
