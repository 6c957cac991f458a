"""The laws of a store, as tests: whoever writes one inherits them.

    class TestMyStore(StoreConformance):
        def make_store(self, clock):
            return MyStore(clock=clock)

pytest then runs every law against it. A store under test decides by the clock that it is handed.
"""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from meter_mw.model import LARGEST_COST
from meter_mw.periods import Period, Windows, calendar
from meter_mw.quota import HORIZON_US, LETTERS, Cap, Quota, Rate, Slots
from meter_mw.rids import new_rid
from meter_mw.stores.port import (
    REMEMBERED_US,
    Admit,
    Booking,
    Cancel,
    Charge,
    Closed,
    Closing,
    Outcome,
    Reading,
    Settle,
    Tally,
    TopUp,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SECOND_US = 1_000_000
PATIENCE_US = 5 * SECOND_US
LEASE_US = 30 * SECOND_US


class Clock:
    """Stands still until it is moved; begins on 1 January 2026, 00:00 UTC."""

    START_US = 1_767_225_600 * SECOND_US

    def __init__(self) -> None:
        self.now_us = self.START_US

    def __call__(self) -> int:
        """Read it."""
        return self.now_us

    def move(self, by_us: int) -> None:
        """Move it, forward or back."""
        self.now_us += by_us


class ConformingStore(Protocol):
    """What the laws ask of a store; an async one is wrapped in a runner by its test."""

    def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        """See `Store.admit`."""
        ...

    def settle(self, closings: Sequence[Closing]) -> Sequence[Closed]:
        """See `Store.settle`."""
        ...

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """See `Store.peek`."""
        ...

    def now_us(self) -> int:
        """See `Store.now_us`."""
        ...

    def close(self) -> None:
        """See `Store.close`."""
        ...


class Bench:
    """A store, a clock and a subject of one law's own, and short ways to speak to them."""

    def __init__(self, make_store: Callable[[Callable[[], int]], ConformingStore]) -> None:
        self.clock = Clock()
        self.store = make_store(self.clock)
        self.tag = uuid4().hex

    def charge(
        self,
        id_: str,
        quota: Quota,
        need: int = 1,
        take: int | None = None,
        *,
        held: bool = False,
        shadow: bool = False,
        holder: str = "",
    ) -> Charge:
        """Ask `need` units of a quota."""
        take = need if take is None else take
        windows = self.windows(quota.period) if isinstance(quota, Cap) else None
        held = held or isinstance(quota, Slots)
        id_ = f"{LETTERS[type(quota)]}:{id_}"
        return Charge(id_, quota, need, take, windows, held=held, shadow=shadow, holder=holder)

    def windows(self, period: Period) -> Windows:
        """Give the windows around the clock's now, in UTC."""
        return calendar(period, "UTC", None).windows(self.clock())

    def command(self, *charges: Charge, tag: str | None = None, within_us: int = SECOND_US) -> Admit:
        """Make a command with a new rid."""
        now_us = self.clock()
        return Admit(new_rid(now_us), tag or self.tag, now_us + within_us, charges, LEASE_US)

    def send(self, command: Admit) -> Tally:
        """Have a command decided."""
        return self.store.admit(command, patience_us=PATIENCE_US)

    def admit(self, *charges: Charge) -> Tally:
        """Ask with a new rid."""
        return self.send(self.command(*charges))

    def admits(self, *charges: Charge) -> bool:
        """Ask with a new rid, and say whether it was admitted."""
        return self.admit(*charges).verdict is Verdict.ADMITTED

    def settle(self, command: Admit, tally: Tally, *actual: int) -> Outcome:
        """Book what each charge of an admitted command turned out to be."""
        return self.close(settlement(command, tally, *actual))

    def cancel(self, command: Admit) -> Outcome:
        """Give a command's units back."""
        return self.close(Cancel(command.rid, command.tag, command.charges))

    def close(self, closing: Closing) -> Outcome:
        """Settle or cancel one."""
        (closed,) = self.store.settle((closing,))
        return closed.outcome

    def peek(self, *charges: Charge) -> tuple[Reading, ...]:
        """Read how the charges stand."""
        return self.store.peek(self.tag, charges).readings

    def used(self, charge: Charge) -> int:
        """Read the units that a cap has counted."""
        (reading,) = self.peek(charge)
        return reading.state.part

    def remaining(self, charge: Charge) -> int:
        """Read the units that fit at once."""
        (reading,) = self.peek(charge)
        if isinstance(charge.quota, Rate):
            return charge.quota.remaining(reading.state, self.clock())
        return charge.quota.remaining(reading.state.part)

    def wait_us(self, charge: Charge, tally: Tally, at: int = 0) -> int | None:
        """Read from a tally how long a rate's charge has to wait."""
        assert isinstance(charge.quota, Rate)
        return charge.quota.wait_us(tally.readings[at].state, tally.now_us, charge.need)


def settlement(command: Admit, tally: Tally, *actual: int) -> Settle:
    """Make the settlement of an admitted command."""
    bookings = (
        Booking(charge, units, 0 if charge.windows is None else reading.state.whole)
        for charge, units, reading in zip(command.charges, actual, tally.readings, strict=True)
    )
    return Settle(command.rid, command.tag, tuple(bookings))


TEN_A_SECOND = Rate(10, SECOND_US, 5)
THREE_A_SECOND = Rate(3, SECOND_US, 7)
HUNDRED_A_DAY = Cap(100, Period.DAY)
FIVE_A_MINUTE = Cap(5, Period.MINUTE)


class StoreConformance:
    """Every law of a store. Say in `make_store` how to open one that decides by `clock`."""

    def make_store(self, clock: Callable[[], int]) -> ConformingStore:
        """Open the store under test."""
        raise NotImplementedError

    def setup_method(self) -> None:
        """Keep track of what a law opens."""
        self._opened: list[ConformingStore] = []

    def teardown_method(self) -> None:
        """Close what the law opened."""
        for store in self._opened:
            store.close()

    def bench(self) -> Bench:
        """Open a store for one law."""
        bench = Bench(self.make_store)
        self._opened.append(bench.store)
        return bench

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
        late = at.send(replace(command, rid=new_rid(at.clock())))
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
        assert at.cancel(replace(command, tag=at.tag + "_")) is Outcome.RECOVERED
        assert at.send(command).verdict is Verdict.ADMITTED
