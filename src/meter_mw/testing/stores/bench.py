"""What the laws are told with: a clock that stands still, and short ways to speak to a store."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from meter_mw.periods import Period, Windows, calendar
from meter_mw.quota import LETTERS, Cap, OnDeny, Quota, Rate, Slots
from meter_mw.rids import new_rid
from meter_mw.stores.port import (
    Admit,
    Booking,
    Cancel,
    Charge,
    Closed,
    Closing,
    Outcome,
    Reading,
    Settle,
    StoreUnavailable,
    Tally,
    TopUp,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

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

    def admit_many(
        self, commands: Sequence[Admit | TopUp], *, patience_us: int
    ) -> Sequence[Tally | StoreUnavailable]:
        """See `Store.admit_many`."""
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
        anchor: date | None = None,
    ) -> Charge:
        """Ask `need` units of a quota, and take as many where it is not said how many."""
        take = need if take is None else take
        windows = self.windows(quota.period, anchor) if isinstance(quota, Cap) else None
        held = held or isinstance(quota, Slots)
        id_ = f"{LETTERS[type(quota)]}:{id_}"
        return Charge(id_, quota, need, take, windows, held=held, shadow=shadow, holder=holder)

    def windows(self, period: Period, anchor: date | None = None) -> Windows:
        """Give the windows around the clock's now, in UTC."""
        return calendar(period, "UTC", anchor).windows(self.clock())

    def command(
        self,
        *charges: Charge,
        tag: str | None = None,
        within_us: int = SECOND_US,
        lease_us: int = LEASE_US,
        on_deny: OnDeny = OnDeny.NONE,
        after: Admit | None = None,
    ) -> Admit:
        """Make a command with a new rid."""
        now_us, rid = self.clock(), None if after is None else after.rid
        return Admit(new_rid(now_us), tag or self.tag, now_us + within_us, charges, lease_us, on_deny, rid)

    def send(self, command: Admit | TopUp) -> Tally:
        """Have a command decided."""
        return self.store.admit(command, patience_us=PATIENCE_US)

    def send_many(self, *commands: Admit | TopUp) -> Sequence[Tally | StoreUnavailable]:
        """Have several commands decided at the same time."""
        return self.store.admit_many(commands, patience_us=PATIENCE_US)

    def admit(self, *charges: Charge) -> Tally:
        """Ask with a new rid."""
        return self.send(self.command(*charges))

    def admits(self, *charges: Charge) -> bool:
        """Ask with a new rid, and say whether it was admitted."""
        return self.admit(*charges).verdict is Verdict.ADMITTED

    def top_up(self, command: Admit, *charges: Charge, lease_us: int = LEASE_US) -> Tally:
        """Hold more for a command that was sent."""
        return self.send(TopUp(command.rid, command.tag, self.clock() + SECOND_US, charges, lease_us))

    def settle(self, command: Admit, tally: Tally, *actual: int) -> Outcome:
        """Book what each charge of an admitted command turned out to be."""
        return self.close(settlement(command, tally, *actual))

    def cancel(self, command: Admit) -> Outcome:
        """Give a command's units back."""
        return self.close(Cancel(command.rid, command.tag, command.charges))

    def close(self, closing: Closing) -> Outcome:
        """Settle or cancel one, and say what became of that."""
        return self.closed(closing).outcome

    def closed(self, closing: Closing) -> Closed:
        """Settle or cancel one."""
        (closed,) = self.store.settle((closing,))
        return closed

    def peek(self, *charges: Charge) -> tuple[Reading, ...]:
        """Read how the charges stand."""
        return self.store.peek(self.tag, charges).readings

    def used(self, charge: Charge) -> int:
        """Read the units that a cap has counted, or the slots in use."""
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


class Laws:
    """Some laws of a store, and how one is opened for each of them."""

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
