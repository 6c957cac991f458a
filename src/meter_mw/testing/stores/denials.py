"""Shadow charges never deny, and a denial counts against rates alone, where it is to count at all."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from meter_mw.periods import Period
from meter_mw.quota import Cap, OnDeny, Rate
from meter_mw.stores.port import Outcome, Verdict
from meter_mw.testing.stores.bench import FIVE_A_MINUTE, HUNDRED_A_DAY, SECOND_US, TEN_A_SECOND, Laws

FULL = Cap(0, Period.DAY)


class DenialLaws(Laws):
    """Shadow limits, and what a denial costs."""

    def test_a_shadow_never_denies(self) -> None:
        """It counts in a state of its own, and says when it would have denied."""
        at = self.bench()
        shadow = at.charge("shadow", FIVE_A_MINUTE, shadow=True)
        real = at.charge("c", HUNDRED_A_DAY)
        tallies = [at.admit(real, shadow) for _ in range(8)]
        assert {each.verdict for each in tallies} == {Verdict.ADMITTED}
        assert [each.readings[1].fits for each in tallies] == [True] * 5 + [False] * 3
        assert [each.readings[1].state.part for each in tallies] == [1, 2, 3, 4, 5, 5, 5, 5]
        assert (at.used(real), at.used(shadow)) == (8, 5)
        assert at.store.peek(at.tag, (real, shadow)).verdict is Verdict.ADMITTED

    def test_shadows_are_all_or_nothing_among_themselves(self) -> None:
        """One of them without room, and none of them is charged; the enforced ones are."""
        at = self.bench()
        real = at.charge("c", HUNDRED_A_DAY)
        rate, full = at.charge("a", TEN_A_SECOND, shadow=True), at.charge("f", FULL, shadow=True)
        for charges in ((real, rate, full), (full, rate, real)):
            tally = at.admit(*charges)
            assert tally.verdict is Verdict.ADMITTED
            assert [each.fits for each in tally.readings] == [each is not full for each in charges]
        assert (at.used(real), at.remaining(rate)) == (2, 5)

    def test_shadows_are_charged_only_beside_what_is(self) -> None:
        """Where an enforced charge denies, no shadow is charged, whatever a denial costs."""
        at = self.bench()
        shadows = at.charge("a", TEN_A_SECOND, shadow=True), at.charge("c", HUNDRED_A_DAY, shadow=True)
        before = at.peek(*shadows)
        for on_deny in OnDeny:
            denied = at.send(at.command(*shadows, at.charge("full", FULL), on_deny=on_deny))
            assert (denied.verdict, [each.fits for each in denied.readings]) == (
                Verdict.DENIED,
                [True, True, False],
            )
        assert at.peek(*shadows) == before

    def test_a_repeat_is_told_of_shadows_what_the_first_was(self) -> None:
        """Charged or not, a command that is sent again changes nothing and is told the same."""
        at = self.bench()
        shadow = at.charge("shadow", Cap(1, Period.DAY), shadow=True)
        for _ in range(2):
            command = at.command(at.charge("c", HUNDRED_A_DAY), shadow)
            assert [at.send(command) for _ in range(2)] == [at.send(command)] * 2
        assert at.used(shadow) == 1

    def test_shadows_settle_and_come_back(self) -> None:
        """What is held in a shadow is settled, cancelled and leased like anything else."""
        at = self.bench()
        shadow = at.charge("shadow", HUNDRED_A_DAY, 1, 10, held=True, shadow=True)
        settled, cancelled = at.command(shadow), at.command(shadow)
        tally = at.send(settled)
        at.send(cancelled)
        at.send(at.command(shadow))
        assert at.used(shadow) == 30
        assert at.settle(settled, tally, 4) is Outcome.APPLIED
        assert at.cancel(cancelled) is Outcome.APPLIED
        assert at.used(shadow) == 14
        at.clock.move(30 * SECOND_US)
        assert at.used(shadow) == 4

    def test_a_top_up_is_not_denied_by_a_shadow(self) -> None:
        """A shadow without room is not topped up, and says so; the others are."""
        at = self.bench()
        shadow = at.charge("shadow", FIVE_A_MINUTE, 2, held=True, shadow=True)
        command = at.command(at.charge("c", HUNDRED_A_DAY, 2, held=True), shadow)
        at.send(command)
        more = (
            at.charge("c", HUNDRED_A_DAY, 6, held=True),
            at.charge("shadow", FIVE_A_MINUTE, 6, held=True, shadow=True),
        )
        topped = at.top_up(command, *more)
        assert (topped.verdict, [each.fits for each in topped.readings]) == (Verdict.ADMITTED, [True, False])
        assert [at.used(each) for each in more] == [6, 2]

    def test_a_denial_costs_those_without_room(self) -> None:
        """With `self`, what is left of the burst of a rate that had no room; nothing of the others."""
        at = self.bench()
        full, other = at.charge("a", TEN_A_SECOND, 4), at.charge("b", TEN_A_SECOND, 4)
        cap = at.charge("c", HUNDRED_A_DAY)
        assert at.admits(at.charge("a", TEN_A_SECOND, 3))
        denied = at.send(at.command(full, other, cap, on_deny=OnDeny.SELF))
        assert (denied.verdict, [each.fits for each in denied.readings]) == (
            Verdict.DENIED,
            [False, True, True],
        )
        assert tuple(denied.readings[0].state) == (at.clock() + 500_000, 0)
        assert [at.remaining(each) for each in (full, other, cap)] == [0, 5, 100]

    def test_a_denial_costs_all_rates(self) -> None:
        """With `all`, each rate what was asked of it; a cap counts what is served."""
        at = self.bench()
        full, other = at.charge("a", TEN_A_SECOND, 4), at.charge("b", TEN_A_SECOND, 4)
        cap = at.charge("c", HUNDRED_A_DAY)
        assert at.admits(at.charge("a", TEN_A_SECOND, 3))
        assert at.send(at.command(full, other, cap, on_deny=OnDeny.ALL)).verdict is Verdict.DENIED
        assert [at.remaining(each) for each in (full, other, cap)] == [0, 1, 100]

    def test_a_denial_by_a_cap(self) -> None:
        """With `self` it costs nothing, with `all` the rates beside it; the cap itself never counts it."""
        for on_deny, left in ((OnDeny.NONE, 5), (OnDeny.SELF, 5), (OnDeny.ALL, 3)):
            at = self.bench()
            rate, cap = at.charge("a", TEN_A_SECOND, 2), at.charge("c", FIVE_A_MINUTE, 6)
            assert at.send(at.command(rate, cap, on_deny=on_deny)).verdict is Verdict.DENIED
            assert (at.remaining(rate), at.used(cap)) == (left, 0)

    def test_denials_make_no_debt(self) -> None:
        """However often a client insists, one unit comes as soon as it stops."""
        for on_deny in (OnDeny.SELF, OnDeny.ALL):
            at = self.bench()
            one, many = at.charge("a", TEN_A_SECOND), at.charge("a", TEN_A_SECOND, 5)
            assert at.admits(many)
            for _ in range(20):
                denied = at.send(at.command(many, on_deny=on_deny))
                assert at.wait_us(many, denied) == 500_000
            assert at.wait_us(one, at.send(at.command(one, on_deny=on_deny))) == 100_000
            at.clock.move(100_000)
            assert at.admits(one)

    def test_a_debt_is_not_deepened(self) -> None:
        """A settlement may have gone further than any denial: that stays as it is."""
        at = self.bench()
        one = at.charge("a", TEN_A_SECOND)
        command = at.command(one)
        at.settle(command, at.send(command), 50)
        before = at.peek(one)
        denied = at.send(at.command(one, on_deny=OnDeny.ALL))
        assert (denied.verdict, denied.readings) == (Verdict.DENIED, before)
        assert at.peek(one) == before

    def test_a_denial_counts_once(self) -> None:
        """What was denied and counted is denied again, though there be room, and costs no more."""
        at = self.bench()
        rate, other = at.charge("a", TEN_A_SECOND, 5), at.charge("b", Rate(1, SECOND_US, 100), 30)
        assert at.admits(at.charge("a", TEN_A_SECOND))
        command = at.command(rate, other, within_us=60 * SECOND_US, on_deny=OnDeny.ALL)
        first = at.send(command)
        assert [at.send(command) for _ in range(3)] == [first] * 3
        assert at.remaining(other) == 70
        at.clock.move(30 * SECOND_US)
        again = at.send(command)
        assert (again.verdict, [each.fits for each in again.readings]) == (Verdict.DENIED, [False, True])
        assert (at.remaining(rate), at.remaining(other)) == (5, 100)

    def test_what_was_denied_cannot_be_closed(self) -> None:
        """Nothing of a counted denial is given back or booked."""
        at = self.bench()
        rate, cap = at.charge("a", TEN_A_SECOND, 4), at.charge("full", FULL)
        command = at.command(rate, cap, on_deny=OnDeny.ALL)
        tally = at.send(command)
        assert at.cancel(command) is Outcome.VOID
        assert at.settle(command, tally, 1, 1) is Outcome.VOID
        assert at.top_up(command, at.charge("a", TEN_A_SECOND, held=True)).verdict is Verdict.VOID
        assert (at.remaining(rate), at.used(cap)) == (1, 0)

    def test_a_denial_that_counts_nothing_may_be_asked_again(self) -> None:
        """Without `on_deny` a denial is not remembered: the same rid is admitted once there is room."""
        at = self.bench()
        assert at.admits(at.charge("a", TEN_A_SECOND, 5))
        command = at.command(at.charge("a", TEN_A_SECOND), on_deny=OnDeny.NONE)
        assert at.send(command).verdict is Verdict.DENIED
        at.clock.move(100_000)
        assert at.send(command).verdict is Verdict.ADMITTED
