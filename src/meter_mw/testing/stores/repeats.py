"""A command is idempotent and fenced, and a settlement books the truth, once."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from meter_mw.model import LARGEST_COST
from meter_mw.periods import Period
from meter_mw.quota import HORIZON_US, Cap, Rate
from meter_mw.rids import new_rid
from meter_mw.stores.port import REMEMBERED_US, Booking, Cancel, Closing, Outcome, Settle, Verdict
from meter_mw.testing.stores.bench import (
    FIVE_A_MINUTE,
    HUNDRED_A_DAY,
    SECOND_US,
    TEN_A_SECOND,
    Laws,
    settlement,
)


class RepeatLaws(Laws):
    """Repeats, fences and settlements."""

    # Repeats and fences

    def test_repeated_admit_charges_once(self) -> None:
        """A command that is sent again is admitted again and charged once (Rule 1)."""
        at = self.bench()
        cap, rate = at.charge("c", FIVE_A_MINUTE, 2), at.charge("a", TEN_A_SECOND, 2)
        command = at.command(cap, rate)
        first = at.send(command)
        assert [at.send(command) for _ in range(3)] == [first] * 3
        assert (at.used(cap), at.remaining(rate)) == (2, 3)

    def test_repeated_admit_is_admitted_beyond_the_limit(self) -> None:
        """What was admitted stays admitted, when others have used up the rest since."""
        at = self.bench()
        command = at.command(at.charge("c", FIVE_A_MINUTE))
        at.send(command)
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 4))
        assert at.send(command).verdict is Verdict.ADMITTED

    def test_denied_command_may_be_asked_again(self) -> None:
        """A denial is not remembered: the same rid is admitted once there is room."""
        at = self.bench()
        assert at.admits(at.charge("a", TEN_A_SECOND, 5))
        command = at.command(at.charge("a", TEN_A_SECOND))
        assert at.send(command).verdict is Verdict.DENIED
        at.clock.move(100_000)
        assert at.send(command).verdict is Verdict.ADMITTED

    def test_late(self) -> None:
        """A command that comes after its fence is late and changes nothing (Rule 2)."""
        at = self.bench()
        cap = at.charge("c", FIVE_A_MINUTE)
        command = at.command(cap, within_us=0)
        assert at.send(command).verdict is Verdict.ADMITTED
        at.clock.move(1)
        late = at.send(command._replace(rid=new_rid(at.clock())))
        assert (late.verdict, late.now_us, late.readings) == (Verdict.LATE, at.clock(), ())
        assert at.send(command).verdict is Verdict.LATE
        assert at.used(cap) == 1

    def test_cancel_then_zombie(self) -> None:
        """A command that was cancelled before it came is void (Rule 2)."""
        at = self.bench()
        cap = at.charge("c", FIVE_A_MINUTE)
        command = at.command(cap)
        assert at.cancel(command) is Outcome.RECOVERED
        assert at.send(command).verdict is Verdict.VOID
        assert at.cancel(command) is Outcome.VOID
        assert at.used(cap) == 0

    def test_zombie_then_cancel(self) -> None:
        """A command that was charged and then cancelled is given back, and void from then on."""
        at = self.bench()
        cap, rate = at.charge("c", FIVE_A_MINUTE, 2), at.charge("a", TEN_A_SECOND, 2)
        before = at.peek(cap, rate)
        command = at.command(cap, rate)
        at.send(command)
        assert at.cancel(command) is Outcome.APPLIED
        assert at.send(command).verdict is Verdict.VOID
        assert at.cancel(command) is Outcome.VOID
        assert at.peek(cap, rate) == before

    def test_cancel_never_undoes_a_settlement(self) -> None:
        """What is settled stays settled, and what is void stays void."""
        at = self.bench()
        cap = at.charge("c", FIVE_A_MINUTE, 2)
        command = at.command(cap)
        tally = at.send(command)
        assert at.settle(command, tally, 3) is Outcome.APPLIED
        assert at.cancel(command) is Outcome.ALREADY
        assert at.send(command).verdict is Verdict.VOID
        assert at.used(cap) == 3
        other = at.command(at.charge("c", FIVE_A_MINUTE, 1))
        tally = at.send(other)
        assert at.cancel(other) is Outcome.APPLIED
        assert at.settle(other, tally, 2) is Outcome.VOID
        assert at.used(cap) == 3

    def test_rid_is_remembered(self) -> None:
        """A repeat is harmless within the horizon, however many requests came between."""
        at = self.bench()
        cap = at.charge("c", HUNDRED_A_DAY, 2)
        command = at.command(cap, within_us=REMEMBERED_US)
        at.send(command)
        for _ in range(30):
            at.clock.move(REMEMBERED_US // 31)
            at.admit(at.charge("c", HUNDRED_A_DAY))
        assert at.send(command).verdict is Verdict.ADMITTED
        assert at.cancel(command) is Outcome.APPLIED
        assert at.used(at.charge("c", HUNDRED_A_DAY)) == 30

    # Settling

    def test_settle_books_the_truth(self) -> None:
        """More than was taken is charged, less is given back, and a repeat changes nothing."""
        for actual, used in ((7, 7), (2, 2), (4, 4), (0, 0)):
            at = self.bench()
            cap, rate = at.charge("c", HUNDRED_A_DAY, 4), at.charge("a", Rate(10, SECOND_US, 20), 4)
            command = at.command(cap, rate)
            tally = at.send(command)
            assert at.settle(command, tally, actual, actual) is Outcome.APPLIED
            assert at.settle(command, tally, actual, actual) is Outcome.ALREADY
            assert (at.used(cap), at.remaining(rate)) == (used, 20 - used)

    def test_settle_cannot_be_refused(self) -> None:
        """A settlement goes beyond the limit: into debt that is then waited for (Rule 5)."""
        at = self.bench()
        cap, rate = at.charge("c", FIVE_A_MINUTE, 1), at.charge("a", TEN_A_SECOND, 1)
        command = at.command(cap, rate)
        tally = at.send(command)
        assert at.settle(command, tally, 50, 50) is Outcome.APPLIED
        assert (at.used(cap), at.remaining(cap), at.remaining(rate)) == (50, 0, 0)
        denied = at.admit(rate)
        assert at.wait_us(rate, denied) == 4_600_000

    def test_settle_of_a_lost_admit(self) -> None:
        """A settlement whose admission the store never saw is booked in full, once (Rule 5)."""
        at = self.bench()
        cap, rate = at.charge("c", FIVE_A_MINUTE, 1), at.charge("a", TEN_A_SECOND, 1)
        command = at.command(cap, rate)
        opening = at.windows(Period.MINUTE)[1]
        lost = Settle(command.rid, at.tag, (Booking(cap, 3, opening), Booking(rate, 3)))
        assert [at.close(lost), at.close(lost)] == [Outcome.RECOVERED, Outcome.ALREADY]
        assert (at.used(cap), at.remaining(rate)) == (3, 2)
        assert at.send(command).verdict is Verdict.VOID

    def test_batch(self) -> None:
        """A batch is applied in its order; repeated, it changes nothing."""
        at = self.bench()
        cap = at.charge("c", HUNDRED_A_DAY, 1)
        commands = [at.command(cap) for _ in range(250)]
        tallies = [at.send(each) for each in commands[:50]]
        batch: list[Closing] = [settlement(*each, 2) for each in zip(commands, tallies, strict=False)]
        batch += [Cancel(each.rid, each.tag, each.charges) for each in commands[25:]]
        outcomes = [Outcome.APPLIED] * 50 + [Outcome.ALREADY] * 25 + [Outcome.RECOVERED] * 200
        assert [each.outcome for each in at.store.settle(batch)] == outcomes
        again = [Outcome.ALREADY] * 75 + [Outcome.VOID] * 200
        assert [each.outcome for each in at.store.settle(batch)] == again
        assert at.used(cap) == 100

    def test_empty_batch(self) -> None:
        """Nothing to settle is nothing to do."""
        assert list(self.bench().store.settle(())) == []

    def test_late_settlement_of_a_closed_window(self) -> None:
        """What is settled after its window is over is not counted in the next, and harms no count there."""
        at = self.bench()
        command = at.command(at.charge("c", FIVE_A_MINUTE, 2))
        tally = at.send(command)
        at.clock.move(60 * SECOND_US)
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 3))
        assert at.settle(command, tally, 5) is Outcome.APPLIED
        assert at.used(at.charge("c", FIVE_A_MINUTE)) == 3

    def test_settlement_many_windows_later(self) -> None:
        """A request that outlives its window table leaves the standing window's count alone."""
        at = self.bench()
        hourly, other = Cap(5, Period.HOUR), Cap(5, Period.DAY)
        command = at.command(at.charge("c", hourly, 2))
        tally = at.send(command)
        at.clock.move(5 * 3_600 * SECOND_US + 600 * SECOND_US)
        assert at.admits(at.charge("c", hourly, 5), at.charge("d", other))
        assert at.settle(command, tally, 4) in (Outcome.APPLIED, Outcome.RECOVERED)
        assert at.admits(at.charge("d", other))
        assert not at.admits(at.charge("c", hourly))

    def test_refund_is_bounded(self) -> None:
        """Giving back never leaves more than the burst, or less than nothing used."""
        at = self.bench()
        cap, rate = at.charge("c", FIVE_A_MINUTE, 5), at.charge("a", TEN_A_SECOND, 5)
        command = at.command(cap, rate)
        at.send(command)
        at.clock.move(30 * SECOND_US)
        assert at.cancel(command) is Outcome.APPLIED
        assert (at.used(cap), at.remaining(rate)) == (0, 5)
        assert [at.admits(at.charge("a", TEN_A_SECOND)) for _ in range(6)] == [True] * 5 + [False]

    def test_largest_settlement(self) -> None:
        """The largest cost settles without leaving the exact numbers, however often."""
        at = self.bench()
        cap, rate = at.charge("c", HUNDRED_A_DAY, 1), at.charge("a", Rate(1, 86_400 * SECOND_US, 3000), 1)
        for _ in range(3):
            command = at.command(cap, rate)
            opening = at.windows(Period.DAY)[1]
            huge = (Booking(cap, LARGEST_COST, opening), Booking(rate, LARGEST_COST))
            assert at.close(Settle(command.rid, at.tag, huge)) is Outcome.RECOVERED
        (used, due) = at.peek(cap, rate)
        assert used.state.part == LARGEST_COST
        assert due.state.whole == at.clock() + HORIZON_US
