"""What fits is admitted, all or nothing, and a policy that changes keeps the count."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from meter_mw.model import LARGEST_COST
from meter_mw.periods import Period
from meter_mw.quota import Cap, Rate
from meter_mw.stores.port import Tally, Verdict
from meter_mw.testing.stores.bench import (
    FIVE_A_MINUTE,
    HUNDRED_A_DAY,
    SECOND_US,
    TEN_A_SECOND,
    THREE_A_SECOND,
    Laws,
)


class DecisionLaws(Laws):
    """What fits, exactly."""

    # The quotas

    def test_burst_then_denied_not_yet(self) -> None:
        """A rate at rest admits its burst at once, and no more."""
        at = self.bench()
        one = at.charge("a", TEN_A_SECOND)
        assert [at.admits(one) for _ in range(7)] == [True] * 5 + [False] * 2

    def test_wait_is_exact(self) -> None:
        """A denied request is admitted after the wait that was told, and not one µs earlier."""
        at = self.bench()
        three = at.charge("a", THREE_A_SECOND, 3)
        while True:
            tally = at.admit(three)
            if tally.verdict is Verdict.DENIED:
                break
        wait_us = at.wait_us(three, tally)
        assert wait_us is not None
        assert wait_us > 0
        at.clock.move(wait_us - 1)
        assert not at.admits(three)
        at.clock.move(1)
        assert at.admits(three)

    def test_rate_never_drifts(self) -> None:
        """Three a second stays three a second: a part of a µs is never lost, nor gained."""
        at = self.bench()
        one = at.charge("a", Rate(3, SECOND_US, 4))
        assert [at.admits(one) for _ in range(5)] == [True] * 4 + [False]
        for _ in range(50):
            at.clock.move(SECOND_US)
            assert [at.admits(one) for _ in range(4)] == [True] * 3 + [False]

    def test_never_is_told_from_not_yet(self) -> None:
        """What exceeds the burst or the cap itself is denied, and no wait is told."""
        at = self.bench()
        above = at.charge("a", TEN_A_SECOND, 6)
        tally = at.admit(above)
        assert tally.verdict is Verdict.DENIED
        assert at.wait_us(above, tally) is None
        assert not at.admits(at.charge("c", FIVE_A_MINUTE, 6))
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 5))

    def test_cap_is_exact(self) -> None:
        """A cap admits its units and no more, and starts again when its window rolls."""
        at = self.bench()
        assert [at.admits(at.charge("c", FIVE_A_MINUTE)) for _ in range(7)] == [True] * 5 + [False] * 2
        at.clock.move(60 * SECOND_US - 1)
        assert not at.admits(at.charge("c", FIVE_A_MINUTE))
        at.clock.move(1)
        assert [at.admits(at.charge("c", FIVE_A_MINUTE)) for _ in range(7)] == [True] * 5 + [False] * 2

    def test_reading_after_admission(self) -> None:
        """An admission's readings are as of after the charge, a denial's as of before."""
        at = self.bench()
        cap, rate = at.charge("c", FIVE_A_MINUTE, 3), at.charge("a", TEN_A_SECOND, 3)
        opening = at.windows(Period.MINUTE)[1]
        tally = at.admit(cap, rate)
        assert tally.now_us == at.clock()
        assert [tuple(each.state) for each in tally.readings] == [(opening, 3), (at.clock() + 300_000, 0)]
        assert all(each.fits for each in tally.readings)
        denied = at.admit(cap, rate)
        assert [tuple(each.state) for each in denied.readings] == [(opening, 3), (at.clock() + 300_000, 0)]
        assert not any(each.fits for each in denied.readings)

    def test_each_reading_says_whether_it_fits(self) -> None:
        """A denial names the quotas that had no room, and only those."""
        at = self.bench()
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 5))
        tally = at.admit(at.charge("a", TEN_A_SECOND), at.charge("c", FIVE_A_MINUTE))
        assert [each.fits for each in tally.readings] == [True, False]

    def test_costs_of_every_size(self) -> None:
        """Costs of 0, 1, the burst, one above and 2^52 are all decided exactly."""
        for quota in (TEN_A_SECOND, FIVE_A_MINUTE):
            for cost, fits in ((0, True), (1, True), (5, True), (6, False), (LARGEST_COST, False)):
                at = self.bench()
                assert at.admits(at.charge("x", quota, cost)) is fits
                assert at.remaining(at.charge("x", quota)) == (5 - cost if fits else 5)

    def test_largest_cost(self) -> None:
        """A cap of 2^52 takes 2^52 units, to the last one."""
        at = self.bench()
        huge = Cap(LARGEST_COST, Period.YEAR)
        assert at.admits(at.charge("c", huge, LARGEST_COST - 1))
        assert not at.admits(at.charge("c", huge, 2))
        assert at.admits(at.charge("c", huge, 1))
        assert not at.admits(at.charge("c", huge, 1))
        assert at.used(at.charge("c", huge)) == LARGEST_COST

    def test_largest_rate(self) -> None:
        """A rate of 2^52 units keeps its exactness."""
        at = self.bench()
        rate = Rate(LARGEST_COST, SECOND_US, LARGEST_COST)
        assert at.admits(at.charge("a", rate, LARGEST_COST - 1))
        assert not at.admits(at.charge("a", rate, 2))
        assert at.admits(at.charge("a", rate, 1))
        assert not at.admits(at.charge("a", rate, 1))

    def test_need_without_take(self) -> None:
        """A charge that takes nothing asks for room and leaves the count alone."""
        at = self.bench()
        for quota in (TEN_A_SECOND, FIVE_A_MINUTE):
            look = at.charge("x", quota, 1, 0)
            assert [at.admits(look) for _ in range(9)] == [True] * 9
            assert at.admits(at.charge("x", quota, 5))
            assert not at.admits(look)

    # All or nothing

    def test_all_or_nothing(self) -> None:
        """One charge without room, and none of them is charged."""
        at = self.bench()
        rate, cap = at.charge("a", TEN_A_SECOND), at.charge("c", HUNDRED_A_DAY)
        full = at.charge("full", Cap(0, Period.DAY))
        before = at.peek(rate, cap, full)
        for charges in ((rate, cap, full), (full, rate, cap), (rate, full, cap)):
            assert not at.admits(*charges)
        assert at.peek(rate, cap, full) == before

    def test_denial_changes_nothing(self) -> None:
        """However often a request is denied, what is left stays as it was."""
        at = self.bench()
        assert at.admits(at.charge("a", TEN_A_SECOND, 4), at.charge("c", FIVE_A_MINUTE, 4))
        one = (at.charge("a", TEN_A_SECOND), at.charge("c", FIVE_A_MINUTE))
        before = at.peek(*one)
        for _ in range(20):
            assert not at.admits(at.charge("a", TEN_A_SECOND, 2), at.charge("c", FIVE_A_MINUTE, 2))
        assert at.peek(*one) == before
        assert at.admits(*one)

    def test_eight_charges(self) -> None:
        """Eight quotas are decided together."""
        at = self.bench()
        charges = [at.charge(f"r{n}", Rate(10, SECOND_US, n + 3)) for n in range(4)]
        charges += [at.charge(f"c{n}", Cap(n + 4, Period.DAY)) for n in range(4)]
        assert [at.admits(*charges) for _ in range(5)] == [True] * 3 + [False] * 2

    def test_subjects_and_ids_never_share(self) -> None:
        """Two ids of a subject, or one id of two subjects, are different quotas."""
        at = self.bench()
        assert at.admits(at.charge("a", TEN_A_SECOND, 5))
        assert not at.admits(at.charge("a", TEN_A_SECOND))
        assert at.admits(at.charge("aa", TEN_A_SECOND, 5), at.charge("a:", TEN_A_SECOND, 5))
        assert at.admits(at.charge("a", Cap(5, Period.DAY), 5))
        for tag in (f"{at.tag}1"[-64:], at.tag[:-1], at.tag.upper() + "_", "-" + at.tag):
            command = at.command(at.charge("a", TEN_A_SECOND, 5), tag=tag)
            assert at.send(command).verdict is Verdict.ADMITTED

    # Several at the same time

    def test_many_are_decided_each_by_itself(self) -> None:
        """One after the other: what the first leaves is the next one's, and no denial denies another."""
        at = self.bench()
        few, other = at.charge("c", FIVE_A_MINUTE, 3), at.charge("a", TEN_A_SECOND)
        first, late = at.command(few, other), at.command(other, within_us=-1)
        asked = (first, at.command(few, other), late, first, at.command(other))
        told = at.send_many(*asked)
        assert [each.verdict for each in told if isinstance(each, Tally)] == [
            Verdict.ADMITTED,
            Verdict.DENIED,
            Verdict.LATE,
            Verdict.ADMITTED,
            Verdict.ADMITTED,
        ]
        assert (at.used(few), at.remaining(other)) == (3, 3)
        assert at.send_many() == []

    def test_many_are_as_many_as_one_likes(self) -> None:
        """However many they are, each has its answer, in their order."""
        at = self.bench()
        charges = [at.charge("c", HUNDRED_A_DAY, number) for number in range(1, 14)]
        told = at.send_many(*(at.command(each) for each in charges * 20))
        used = [each.readings[0].state.part for each in told if isinstance(each, Tally)]
        assert used[:14] == [1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66, 78, 91, 92]
        assert len(used) == 260

    # A policy that changes

    def test_changed_cap_keeps_its_count(self) -> None:
        """Raising or lowering a cap in mid-period neither resets nor freezes what was used."""
        at = self.bench()
        assert at.admits(at.charge("c", Cap(10, Period.DAY), 6))
        assert not at.admits(at.charge("c", Cap(5, Period.DAY)))
        assert at.used(at.charge("c", Cap(5, Period.DAY))) == 6
        assert at.admits(at.charge("c", Cap(20, Period.DAY), 14))
        assert not at.admits(at.charge("c", Cap(20, Period.DAY)))

    def test_changed_rate_keeps_its_arrival(self) -> None:
        """A rate that changes goes on from where it was, whatever the old one's fractions."""
        at = self.bench()
        assert at.admits(at.charge("a", Rate(7, SECOND_US, 7), 7))
        slower = at.charge("a", Rate(1, SECOND_US, 7))
        assert at.remaining(slower) == 6
        assert at.admits(at.charge("a", Rate(1, SECOND_US, 7), 6))
        assert not at.admits(slower)

    def test_changed_fraction_rounds_up(self) -> None:
        """A part of a µs that another rate's fractions cannot hold counts as a whole one."""
        at = self.bench()
        assert at.admits(at.charge("a", Rate(7, SECOND_US, 7)))
        (reading,) = at.peek(at.charge("a", Rate(1, SECOND_US, 7)))
        assert tuple(reading.state) == (at.clock() + 142_858, 0)
