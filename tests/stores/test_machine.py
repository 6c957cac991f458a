"""Both stores, told the same by edges that repeat, lose and abandon, keep what a simple model keeps."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from meter_mw.periods import Period, calendar
from meter_mw.quota import Cap, OnDeny, Rate, Slots
from meter_mw.rids import new_rid
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import (
    Admit,
    Booking,
    Cancel,
    Charge,
    Closed,
    Outcome,
    Settle,
    Tally,
    TopUp,
    Verdict,
)
from meter_mw.stores.redis_store import open_store
from meter_mw.testing.stores import Clock
from support.servers import on_every_redis

if TYPE_CHECKING:
    from meter_mw.model import RequestId
    from meter_mw.stores.port import Closing
    from support.servers import RedisServer

SECOND = 1_000_000
LEASE_US = 45 * SECOND
FENCE_US = 90 * SECOND
FOR_EVER_US = 10**15
TAGS = ("a", "b")
POOL = "pool"

PLANS = (
    {
        "c:month": Cap(12, Period.MONTH, warn=(6, 12)),
        "c:minute": Cap(10, Period.MINUTE),
        "c:pool": Cap(20, Period.MONTH, grace=2),
        "s:own": Slots(2),
        "s:pool": Slots(3),
        "r:rate": Rate(1, SECOND, 30),
    },
    {
        "c:month": Cap(8, Period.MONTH, bills=True, warn=(4,)),
        "c:minute": Cap(30, Period.MINUTE, bills=True, ceiling=40),
        "c:pool": Cap(9, Period.MONTH),
        "s:own": Slots(1),
        "s:pool": Slots(5),
        "r:rate": Rate(3, SECOND, 7),
    },
    {
        "c:month": Cap(0, Period.MONTH),
        "c:minute": Cap(3, Period.MINUTE),
        "c:pool": Cap(50, Period.MONTH, bills=True),
        "s:own": Slots(4),
        "s:pool": Slots(1),
        "r:rate": Rate(7, 60 * SECOND, 3),
    },
)
HELD = frozenset({"c:minute", "c:pool", "s:own", "s:pool"})
COUNTED = tuple(id_ for id_ in PLANS[0] if id_ != "r:rate")

asks = st.lists(
    st.tuples(st.sampled_from(tuple(PLANS[0])), st.integers(0, 6), st.integers(0, 9)),
    min_size=1,
    max_size=4,
    unique_by=lambda ask: ask[0],
)


@dataclass
class Hold:
    """What a request holds: so many units of each window in which it took some, until a moment."""

    until_us: int
    pieces: list[tuple[int, int]]

    @property
    def units(self) -> int:
        return sum(units for _, units in self.pieces)


@dataclass(frozen=True)
class Want:
    """What a charge is given: beyond what is held already, and whether what it needs is there."""

    had: int
    units: int
    fits: bool


@dataclass
class Asked:
    """A request, as its edge knows it: what was sent, and what of it was heard."""

    command: Admit
    heard: Tally | None = None


@dataclass
class Model:
    """What ought to be: sums of what is known, and of holds that are not over."""

    known: dict[tuple[str, str, int], int] = field(default_factory=lambda: defaultdict(int))
    holds: dict[tuple[RequestId, str, str], Hold] = field(default_factory=dict)
    taken: dict[tuple[RequestId, str, str], tuple[int, int]] = field(default_factory=dict)
    fates: dict[RequestId, str] = field(default_factory=dict)

    def lives(self, now_us: int) -> None:
        """Let go of what is over."""
        self.holds = {key: hold for key, hold in self.holds.items() if hold.until_us > now_us}

    def used(self, holder: str, id_: str, window: int) -> int:
        """Add up what counts in a window."""
        held = sum(
            hold.pieces[-1][1]
            for (_, whose, what), hold in self.holds.items()
            if (whose, what) == (holder, id_) and hold.pieces[-1][0] == window
        )
        return self.known[holder, id_, window] + held


def most(quota: Cap | Slots) -> int:
    """Give the largest count that may be admitted to."""
    return quota.most if isinstance(quota, Cap) else quota.units


class Machine(RuleBasedStateMachine):
    """Edges of two subjects that share a pool, before both stores."""

    server: RedisServer

    @initialize()
    def begin(self) -> None:
        self.looker = self.server.client()
        self.looker.flushall()
        self.clock = Clock()
        self.clock.move(40 * SECOND)
        self.memory = MemoryStore(self.clock, remembered_us=FOR_EVER_US)
        self.redis = open_store(self.server.url, clock=self.clock)
        self.model = Model()
        self.plan = PLANS[0]
        self.asked: list[Asked] = []

    # What an edge says

    def charge(self, id_: str, need: int, take: int) -> Charge:
        quota, holder = self.plan[id_], POOL if id_.endswith("pool") else ""
        held = id_ in HELD
        if isinstance(quota, Slots):
            need = take = 1 + (need > 5)
        elif not held:
            take = min(take, need)
        windows = None
        if isinstance(quota, Cap):
            windows = calendar(quota.period, "UTC", None).windows(self.clock())
        return Charge(id_, quota, need, take, windows, held=held, holder=holder)

    def told(self, command: Admit | TopUp) -> Tally:
        tally = self.memory.admit(command)
        assert self.redis.admit(command, patience_us=5 * SECOND) == tally
        return tally

    def closes(self, closing: Closing) -> Closed:
        (closed,) = self.memory.settle((closing,))
        assert list(self.redis.settle((closing,))) == [closed]
        return closed

    def window(self, charge: Charge) -> int:
        if charge.windows is None:
            return 0
        assert isinstance(charge.quota, Cap)
        return calendar(charge.quota.period, "UTC", None).windows(self.clock())[1]

    def key(self, command: Admit | TopUp | Closing, charge: Charge) -> tuple[RequestId, str, str]:
        return command.rid, charge.holder or command.tag, charge.id

    def recent(self, asked: list[Asked], number: int) -> Asked:
        """Give one of the last few: most of what happens to a request happens soon."""
        return asked[-1 - number % min(5, len(asked))]

    # What the model expects

    def expect(self, command: Admit, tally: Tally) -> None:
        """Check the answer to an admission, and charge it to the model."""
        model, now_us = self.model, self.clock()
        fate = model.fates.get(command.rid)
        if now_us > command.not_after_us:
            assert tally.verdict is Verdict.LATE
        elif fate in ("settled", "cancelled"):
            assert tally.verdict is Verdict.VOID
        elif fate == "counted":
            assert tally.verdict is Verdict.DENIED
        elif fate == "admitted":
            assert tally.verdict is Verdict.ADMITTED
        elif not all(
            each.windows is None or each.windows[0] <= now_us < each.windows[-1] for each in command.charges
        ):
            assert tally.verdict is Verdict.REFRESH
        else:
            self.expect_decision(command, tally)

    def expect_decision(self, command: Admit | TopUp, tally: Tally) -> None:
        """Check what was decided, and charge it to the model."""
        wanted = [self.want(command, each) for each in command.charges]
        fits = [
            reading.fits if want is None else want.fits
            for want, reading in zip(wanted, tally.readings, strict=True)
        ]
        assert [each.fits for each in tally.readings] == fits
        assert tally.verdict is (Verdict.ADMITTED if all(fits) else Verdict.DENIED)
        if isinstance(command, Admit) and (all(fits) or command.on_deny is not OnDeny.NONE):
            self.model.fates[command.rid] = "admitted" if all(fits) else "counted"
        if all(fits):
            for each, want, reading in zip(command.charges, wanted, tally.readings, strict=True):
                if want is not None:
                    self.take(command, each, want)
                    assert reading.granted == want.had + want.units

    def want(self, command: Admit | TopUp, charge: Charge) -> Want | None:
        """Give what a cap or slots have for a charge beyond what is held already; a rate is not modelled."""
        if isinstance(charge.quota, Rate):
            return None
        rid, holder, id_ = self.key(command, charge)
        room = most(charge.quota) - self.model.used(holder, id_, self.window(charge))
        if isinstance(charge.quota, Slots) and isinstance(command, Admit) and command.after is not None:
            handed = self.model.holds.get((command.after, holder, id_))
            room += handed.units if handed else 0
        hold = self.model.holds.get((rid, holder, id_)) if charge.held else None
        had = hold.units if hold else 0
        need, take = max(0, charge.need - had), max(0, charge.take - had)
        return Want(had, min(take, max(need, room)), need <= max(0, room))

    def take(self, command: Admit | TopUp, charge: Charge, want: Want) -> None:
        """Charge what was granted."""
        model, key, window = self.model, self.key(command, charge), self.window(charge)
        if isinstance(charge.quota, Slots) and isinstance(command, Admit) and command.after is not None:
            model.holds.pop((command.after, *key[1:]), None)
        if not charge.held:
            model.known[key[1], key[2], window] += want.units
            model.taken[key] = (window, want.units)
        elif want.units or key in model.holds:
            hold = model.holds.setdefault(key, Hold(0, []))
            if not hold.pieces or hold.pieces[-1][0] != window:
                hold.pieces.append((window, 0))
            hold.pieces[-1] = (window, hold.pieces[-1][1] + want.units)
            hold.until_us = self.clock() + LEASE_US
        if want.units:
            assert model.used(key[1], key[2], window) <= most(charge.quota)

    # What happens

    @rule(
        tag=st.sampled_from(TAGS),
        asks=asks,
        on_deny=st.sampled_from((OnDeny.NONE, OnDeny.NONE, OnDeny.SELF, OnDeny.ALL)),
        after=st.none() | st.integers(0, 99),
        fate=st.sampled_from(("heard", "heard", "heard", "reply lost", "command lost")),
    )
    def admit(
        self,
        tag: str,
        asks: list[tuple[str, int, int]],
        on_deny: OnDeny,
        after: int | None,
        fate: str,
    ) -> None:
        charges = tuple(self.charge(*ask) for ask in asks)
        follows = None
        if after is not None and self.asked:
            follows = self.asked[after % len(self.asked)].command.rid
        now_us = self.clock()
        command = Admit(new_rid(now_us), tag, now_us + FENCE_US, charges, LEASE_US, on_deny, follows)
        asked = Asked(command)
        self.asked.append(asked)
        if fate != "command lost":
            tally = self.told(command)
            self.expect(command, tally)
            asked.heard = tally if fate == "heard" else None

    @precondition(lambda self: self.asked)
    @rule(number=st.integers(0, 99))
    def repeat(self, number: int) -> None:
        asked = self.recent(self.asked, number)
        tally = self.told(asked.command)
        self.expect(asked.command, tally)
        if tally.readings:
            asked.heard = asked.heard or tally

    @precondition(lambda self: self.asked)
    @rule(number=st.integers(0, 99), need=st.integers(0, 9), more=st.integers(0, 6), repeats=st.booleans())
    def top_up(self, number: int, need: int, more: int, repeats: bool) -> None:
        held = [each for each in self.asked if any(charge.held for charge in each.command.charges)]
        if not held:
            return
        command = self.recent(held, number).command
        charges = tuple(self.charge(each.id, need, need + more) for each in command.charges if each.held)
        topping = TopUp(command.rid, command.tag, self.clock() + SECOND, charges, LEASE_US)
        tally = self.told(topping)
        self.expect_top_up(topping, tally)
        if repeats:
            again = self.told(topping)
            self.expect_top_up(topping, again)
            if tally.verdict is Verdict.ADMITTED:
                before = [(each.granted, each.state) for each in tally.readings]
                assert all(
                    later.granted >= granted and (later.granted > granted or later.state == state)
                    for later, (granted, state) in zip(again.readings, before, strict=True)
                )

    def expect_top_up(self, command: TopUp, tally: Tally) -> None:
        """Check the answer to a top-up."""
        if self.model.fates.get(command.rid) in ("settled", "cancelled", "counted"):
            assert tally.verdict is Verdict.VOID
        else:
            self.expect_decision(command, tally)

    @precondition(lambda self: self.asked)
    @rule(
        number=st.integers(0, 99),
        units=st.lists(st.integers(0, 12), min_size=4, max_size=4),
        repeats=st.booleans(),
    )
    def settle(self, number: int, units: list[int], repeats: bool) -> None:
        self.close(self.settlement(self.recent(self.asked, number), units), repeats=repeats)

    @precondition(lambda self: self.asked)
    @rule(number=st.integers(0, 99), repeats=st.booleans())
    def cancel(self, number: int, repeats: bool) -> None:
        command = self.recent(self.asked, number).command
        self.close(Cancel(command.rid, command.tag, command.charges), repeats=repeats)

    def settlement(self, asked: Asked, units: list[int]) -> Settle:
        command, heard = asked.command, asked.heard
        bookings = []
        for index, each in enumerate(command.charges):
            window = 0 if each.windows is None else each.windows[1]
            if each.windows is not None and heard is not None and heard.readings:
                window = heard.readings[index].state.whole
            bookings.append(Booking(each, units[index], window))
        return Settle(command.rid, command.tag, tuple(bookings))

    def close(self, closing: Closing, *, repeats: bool) -> None:
        """Close a request in the stores and in the model."""
        model, fate = self.model, self.model.fates.get(closing.rid)
        closed = self.closes(closing)
        if fate == "settled":
            assert closed.outcome is Outcome.ALREADY
        elif fate in ("cancelled", "counted"):
            assert closed.outcome is Outcome.VOID
        else:
            assert closed.outcome is (Outcome.APPLIED if fate == "admitted" else Outcome.RECOVERED)
            for booking in closing.bookings:
                self.book(closing, booking)
            model.fates[closing.rid] = "settled" if isinstance(closing, Settle) else "cancelled"
        if repeats:
            again = self.closes(closing)
            assert again.outcome in (Outcome.ALREADY, Outcome.VOID)
            assert again.notes == closed.notes or isinstance(closing, Cancel)

    def book(self, closing: Closing, booking: Booking) -> None:
        key = self.key(closing, booking.charge)
        hold, taken = self.model.holds.pop(key, None), self.model.taken.pop(key, None)
        if not isinstance(booking.charge.quota, Cap):
            return
        _, holder, id_ = key
        if hold is not None:
            window, last = hold.pieces[-1]
            self.model.known[holder, id_, window] += max(0, booking.actual - (hold.units - last))
        elif taken is not None:
            window, units = taken
            self.model.known[holder, id_, window] += booking.actual - units
        else:
            self.model.known[holder, id_, booking.window_us] += booking.actual

    @rule(
        by_us=st.sampled_from((1, SECOND, 10 * SECOND, 20 * SECOND, 20 * SECOND, LEASE_US - 1, LEASE_US))
        | st.integers(0, 70 * SECOND)
    )
    def time_passes(self, by_us: int) -> None:
        self.clock.move(by_us)
        self.model.lives(self.clock())

    @rule(to=st.integers(0, len(PLANS) - 1))
    def the_plan_changes(self, to: int) -> None:
        self.plan = PLANS[to]

    @invariant()
    def both_count_what_the_model_counts(self) -> None:
        for tag in TAGS:
            charges = tuple(self.charge(id_, 1, 1) for id_ in self.plan)
            looked = self.memory.peek(tag, charges)
            assert self.redis.peek(tag, charges) == looked
            for each, reading in zip(charges, looked.readings, strict=True):
                if each.id in COUNTED:
                    holder, window = each.holder or tag, self.window(each)
                    assert reading.state.part == self.model.used(holder, each.id, window), each.id
                    assert each.windows is None or reading.state.whole == window
        self.memory_holds_what_lives()

    def memory_holds_what_lives(self) -> None:
        """The open counts of memory say of caps how much is held: what lives, or was not looked at since."""
        for name, holder in self.memory._holders.items():
            for id_, used in holder.counts.items():
                if id_.startswith("c") and used.until_us > self.clock():
                    held = sum(
                        each.units
                        for (_, what), each in holder.holds.items()
                        if what == id_ and each.start_us == used.start_us
                    )
                    assert used.held == held, (name, id_)
                    assert used.used >= used.held

    def teardown(self) -> None:
        """When all is closed, and every lease is over, nothing is held."""
        if not hasattr(self, "redis"):
            return
        try:
            for number, asked in enumerate(self.asked):
                if number % 3:
                    self.close(self.settlement(asked, [number % 5] * 4), repeats=False)
            self.both_count_what_the_model_counts()
            self.time_passes(LEASE_US)
            for tag in (*TAGS, POOL):
                self.told(Admit(new_rid(self.clock()), tag, self.clock(), ()))
            self.both_count_what_the_model_counts()
            assert not any(each.holds for each in self.memory._holders.values())
            counts = [each for holder in self.memory._holders.values() for each in holder.counts.items()]
            assert not any(used.held for _, used in counts if used.until_us > self.clock())
            assert not any(used.used for id_, used in counts if id_.startswith("s"))
            assert not [key for key in self.looker.scan_iter("mw:*:h") if self.looker.hlen(key)]
        finally:
            self.redis.close()
            self.looker.close()


@pytest.mark.lengthy
@on_every_redis
def test_every_edge(redis_server: RedisServer) -> None:
    """Whatever edges do, and whatever the plan becomes, no unit and no slot is lost or made up."""
    machine = type("Served", (Machine,), {"server": redis_server})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("METER_EXAMPLES", "60")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
