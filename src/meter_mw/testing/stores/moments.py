"""Time is the store's, and a look changes nothing."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from meter_mw.periods import Period
from meter_mw.quota import Cap
from meter_mw.stores.port import Outcome, Tally, Verdict
from meter_mw.testing.stores.bench import (
    FIVE_A_MINUTE,
    HUNDRED_A_DAY,
    SECOND_US,
    TEN_A_SECOND,
    Laws,
)


class MomentLaws(Laws):
    """Clocks, windows and looks."""

    # Time

    def test_clock_back_takes_rates_along(self) -> None:
        """After the clock went back two hours, a wait is as long as it was before (Rule 4)."""
        at = self.bench()
        one = at.charge("a", TEN_A_SECOND)
        assert [at.admits(one) for _ in range(6)] == [True] * 5 + [False]
        at.clock.move(-7_200 * SECOND_US)
        tally = at.admit(one)
        assert (tally.verdict, at.wait_us(one, tally)) == (Verdict.DENIED, 100_000)
        at.clock.move(100_000)
        assert at.admits(one)

    def test_clock_back_is_seen_by_a_look(self) -> None:
        """A look after the clock went back tells what an admission would be told."""
        at = self.bench()
        one = at.charge("a", TEN_A_SECOND)
        assert at.admits(at.charge("a", TEN_A_SECOND, 5))
        at.clock.move(-7_200 * SECOND_US)
        looked = at.store.peek(at.tag, (one,))
        assert (looked.verdict, looked.readings) == (Verdict.DENIED, at.admit(one).readings)

    def test_clock_back_does_not_reopen_a_window(self) -> None:
        """A cap's window that has been opened goes on counting when the clock goes back before it."""
        at = self.bench()
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 5))
        at.clock.move(-1)
        assert not at.admits(at.charge("c", FIVE_A_MINUTE))
        assert at.used(at.charge("c", FIVE_A_MINUTE)) == 5

    def test_clock_back_and_forth_loses_no_count(self) -> None:
        """A window charged from far before it, when the clock had gone back, still counts when it comes."""
        at = self.bench()
        hourly = Cap(6, Period.HOUR)
        assert at.admits(at.charge("c", hourly, 5))
        at.clock.move(-3 * 3_600 * SECOND_US)
        assert at.admits(at.charge("c", hourly, 1))
        at.clock.move(3 * 3_600 * SECOND_US + 600 * SECOND_US)
        assert at.admits(at.charge("d", HUNDRED_A_DAY))
        assert at.used(at.charge("c", hourly)) == 6

    def test_refresh(self) -> None:
        """Windows that do not reach around the store's now are asked for anew, and nothing changes."""
        at = self.bench()
        old = at.charge("c", FIVE_A_MINUTE)
        rate = at.charge("a", TEN_A_SECOND)
        at.clock.move(120 * SECOND_US)
        tally = at.admit(rate, old)
        assert (tally.verdict, tally.now_us, tally.readings) == (Verdict.REFRESH, at.clock(), ())
        assert at.store.peek(at.tag, (old,)).verdict is Verdict.REFRESH
        assert at.remaining(rate) == 5
        assert at.admits(rate, at.charge("c", FIVE_A_MINUTE))

    def test_stale_windows_still_work(self) -> None:
        """Windows computed just before a boundary serve just after it."""
        at = self.bench()
        at.clock.move(60 * SECOND_US - 1)
        stale = at.charge("c", FIVE_A_MINUTE, 5)
        at.clock.move(1)
        assert at.admits(stale)
        assert not at.admits(at.charge("c", FIVE_A_MINUTE))

    # The port

    def test_peek_changes_nothing(self) -> None:
        """A look says what would be decided and leaves everything alone."""
        at = self.bench()
        rate, cap = at.charge("a", TEN_A_SECOND, 5), at.charge("c", FIVE_A_MINUTE, 6)
        for _ in range(3):
            assert at.store.peek(at.tag, (rate,)).verdict is Verdict.ADMITTED
            assert at.store.peek(at.tag, (rate, cap)).verdict is Verdict.DENIED
        assert at.admits(rate)

    def test_now(self) -> None:
        """The store's time is the clock that it was handed."""
        at = self.bench()
        assert at.store.now_us() == at.clock()
        at.clock.move(5)
        assert at.store.now_us() == at.clock()

    def test_no_charges(self) -> None:
        """A command that charges nothing is admitted, and remembered like any other."""
        at = self.bench()
        command = at.command()
        assert at.send(command) == Tally(Verdict.ADMITTED, at.clock())
        assert at.cancel(command) is Outcome.APPLIED
        assert at.send(command).verdict is Verdict.VOID

    def test_rid_of_another_subject(self) -> None:
        """A rid is remembered for its own subject alone."""
        at = self.bench()
        command = at.command(at.charge("c", FIVE_A_MINUTE))
        assert at.cancel(command._replace(tag=at.tag + "_")) is Outcome.RECOVERED
        assert at.send(command).verdict is Verdict.ADMITTED
