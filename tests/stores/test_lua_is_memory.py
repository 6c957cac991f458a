"""The script answers as the reference in memory does, on random histories."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from meter_mw.model import LARGEST_COST
from meter_mw.periods import Period
from meter_mw.quota import Cap, OnDeny, Rate, Slots
from meter_mw.rids import new_rid
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, Booking, Cancel, Charge, Settle, TopUp
from meter_mw.stores.redis_store import open_store
from meter_mw.testing.stores import Clock, settlement
from support.servers import on_every_redis
from support.states import state_of

if TYPE_CHECKING:
    import redis

    from meter_mw.stores.holder import Taken
    from meter_mw.stores.port import Closing, Tally

SECOND = 1_000_000
LEASE_US = 3 * SECOND
FOR_EVER_US = 10**15
RATES = (
    Rate(10, SECOND, 5),
    Rate(3, SECOND, 4),
    Rate(7, 60 * SECOND, 3),
    Rate(1_000_003, SECOND, 2_000_000),
    Rate(LARGEST_COST, SECOND, LARGEST_COST),
    Rate(1, 86_400 * SECOND, 3_000),
)
CAPS = (
    Cap(0, Period.HOUR),
    Cap(1, Period.HOUR, warn=(1,)),
    Cap(5, Period.HOUR, bills=True, warn=(2, 4, 5)),
    Cap(1_000, Period.HOUR, grace=3),
    Cap(3, Period.HOUR, grace=1, bills=True, ceiling=6),
    Cap(LARGEST_COST, Period.HOUR),
)
LENGTHS = (SECOND, 60 * SECOND, 3_600 * SECOND)
UNITS = st.one_of(
    st.integers(0, 3),
    st.integers(0, 6),
    st.sampled_from((999, 1_000_003, LARGEST_COST - 1, LARGEST_COST)),
    st.integers(0, LARGEST_COST),
)
FEW = st.one_of(st.integers(0, 3), st.integers(0, 3), st.integers(1, 1), UNITS)
SHIFTS = st.one_of(
    st.sampled_from(
        (0, 1, -1, 333_333, 333_334, SECOND, 60 * SECOND, -60 * SECOND, 7_200 * SECOND, -7_200 * SECOND)
    ),
    st.integers(-3 * SECOND, 5 * SECOND),
    st.integers(-90_000 * SECOND, 90_000 * SECOND),
)
TAGS = st.sampled_from("aaaab")


@dataclass(frozen=True)
class Ask:
    """What one charge asks; its quota may differ from call to call, as after a change of the policy."""

    id: str
    quota: int
    units: tuple[int, int]
    stale: int
    held: bool
    shadow: bool
    holder: str


def asks(ids: str, *, plain: bool) -> st.SearchStrategy[list[Ask]]:
    """Give what may be asked together; what is plain holds nothing, and is of the subject alone."""
    return st.lists(
        st.builds(
            Ask,
            st.sampled_from(ids.split()),
            st.sampled_from((0, 1, 1, 2, 2, 3, 4, 5)),
            st.tuples(FEW, FEW) if plain else st.tuples(UNITS, UNITS),
            st.sampled_from((0, 0, 0, 0, 1, -1, 2, -2, -9)),
            st.just(False) if plain else st.booleans(),
            st.just(False) if plain else st.sampled_from((False, False, False, True)),
            st.just("") if plain else st.sampled_from(("", "", "", "shared", "a:k1")),
        ),
        max_size=4,
        unique_by=lambda ask: ask.id,
    )


ANY = asks("r1 r2 c1 c2 c3 s1", plain=False)
PLAIN = asks("r1 r2 r3 c1 c2 c3", plain=True)


def admissions(asked: st.SearchStrategy[list[Ask]]) -> st.SearchStrategy[tuple[object, ...]]:
    """Give admissions, with how long they may take, what a denial costs, and whose slots are handed over."""
    return st.tuples(
        st.just("admit"),
        TAGS,
        asked,
        st.sampled_from((SECOND, SECOND, 0, -1)),
        st.sampled_from((OnDeny.NONE, OnDeny.NONE, OnDeny.SELF, OnDeny.ALL)),
        st.one_of(st.none(), st.integers(0, 99)),
    )


ENDS = (
    st.tuples(st.just("again"), st.integers(0, 99)),
    st.tuples(st.just("settle"), st.integers(0, 99), st.lists(UNITS, min_size=4, max_size=4)),
    st.tuples(st.just("cancel"), st.integers(0, 99)),
    st.tuples(st.just("move"), SHIFTS),
)
TOP_UPS = st.tuples(st.just("top up"), st.integers(0, 99), UNITS, UNITS)
STEPS = st.one_of(admissions(ANY), TOP_UPS, TOP_UPS, st.tuples(st.just("peek"), TAGS, ANY), *ENDS)
PLAIN_STEPS = st.one_of(admissions(PLAIN), admissions(PLAIN), admissions(PLAIN), *ENDS)


class Both:
    """The same history, told to both stores."""

    def __init__(self, url: str, looker: redis.Redis) -> None:
        self.looker = looker
        self.clock = Clock()
        self.memory = MemoryStore(self.clock, remembered_us=FOR_EVER_US)
        self.redis = open_store(url, clock=self.clock)
        self.asked: list[tuple[Admit, Tally]] = []

    def charge(self, ask: Ask) -> Charge:
        held = ask.held or ask.id.startswith("s")
        take, need = ask.units if held else sorted(ask.units)
        told = {"held": held, "shadow": ask.shadow, "holder": ask.holder}
        if ask.id.startswith("r"):
            return Charge(ask.id, RATES[ask.quota], need, take, None, **told)
        if ask.id.startswith("s"):
            return Charge(ask.id, Slots(1 + ask.quota), need, take, None, **told)
        length = LENGTHS[int(ask.id[1:]) - 1]
        now_us = self.clock()
        opening = now_us - now_us % length + ask.stale * length
        windows = (opening - length, opening, opening + length, opening + 2 * length)
        return Charge(ask.id, CAPS[ask.quota], need, take, windows, **told)

    def admit(self, command: Admit | TopUp) -> None:
        tally = self.memory.admit(command)
        assert self.redis.admit(command, patience_us=5 * SECOND) == tally
        if isinstance(command, Admit):
            self.asked.append((command, tally))

    def close(self, closing: Closing) -> None:
        assert list(self.redis.settle((closing,))) == list(self.memory.settle((closing,)))

    def step(self, step: tuple[object, ...]) -> None:
        match step:
            case ("move", int(shift)):
                self.clock.move(shift)
            case ("admit", str(tag), [*asks], int(within), OnDeny() as on_deny, after):
                charges = tuple(self.charge(ask) for ask in asks)
                follows = self.asked[after % len(self.asked)][0].rid if self.asked and after else None
                rid, fence = new_rid(self.clock()), self.clock() + within
                self.admit(Admit(rid, tag, fence, charges, LEASE_US, on_deny, follows))
            case ("peek", str(tag), [*asks]):
                charges = tuple(self.charge(ask) for ask in asks)
                assert self.redis.peek(tag, charges) == self.memory.peek(tag, charges)
            case (str(verb), int(number), *rest) if self.asked:
                command, tally = self.asked[number % len(self.asked)]
                if verb == "again":
                    self.admit(command._replace(not_after_us=self.clock() + SECOND))
                elif verb == "top up":
                    self.admit(self.top_up(command, *rest))
                elif verb == "cancel":
                    self.close(Cancel(command.rid, command.tag, command.charges))
                else:
                    self.close(self.settlement(command, tally, rest[0]))

    def hold_the_same(self) -> None:
        """The script keeps what memory keeps, to the last boundary, and lets nothing live for ever."""
        for name, holder in self.memory._holders.items():
            tag, _, suffix = name.partition(":")
            key = f"mw:{{{tag}}}:{suffix}" if suffix else f"mw:{{{tag}}}"
            seen, due, rates, counts = state_of(self.looker.get(key) or b"\x00")
            assert (rates, counts, due) == (holder.rates, holder.counts, holder.due_us)
            assert not rates | counts or seen == holder.seen_us
            held = {
                name: msgspec.msgpack.decode(each) for name, each in self.looker.hgetall(f"{key}:h").items()
            }
            assert held == {
                bytes.fromhex(rid.replace("-", "")) + id_.encode(): _packed(each)
                for (rid, id_), each in holder.holds.items()
            }
        for key in self.looker.scan_iter("mw:*"):
            assert self.looker.pttl(key) > 0

    def top_up(self, command: Admit, need: int, take: int) -> TopUp:
        now_us = self.clock()
        charges = tuple(replace(each, need=need, take=take) for each in command.charges if each.held)
        charges = tuple(self.rolled(each) for each in charges)
        return TopUp(command.rid, command.tag, now_us + SECOND, charges, LEASE_US)

    def rolled(self, charge: Charge) -> Charge:
        """Give the charge with windows around now, as an edge would."""
        if charge.windows is None:
            return charge
        length = charge.windows[1] - charge.windows[0]
        opening = self.clock() - self.clock() % length
        return replace(charge, windows=(opening - length, opening, opening + length, opening + 2 * length))

    def settlement(self, command: Admit, tally: Tally, units: object) -> Settle:
        assert isinstance(units, list)
        if tally.readings:
            return settlement(command, tally, *units[: len(command.charges)])
        windows = (0 if each.windows is None else each.windows[1] for each in command.charges)
        bookings = (Booking(*each) for each in zip(command.charges, units, windows, strict=False))
        return Settle(command.rid, command.tag, tuple(bookings))


def _packed(held: Taken) -> list[int]:
    """Give a hold as the script keeps it."""
    if isinstance(held.quota, Rate):
        return [held.until_us, *held.span, held.due_us, held.quota.denominator]
    return [held.until_us, held.start_us, held.units, held.base]


def tell(redis_server, steps: list[tuple[object, ...]]) -> None:
    """Tell both stores a history, and see after each step that they are alike."""
    with redis_server.client() as client:
        client.flushall()
        both = Both(redis_server.url, client)
        try:
            for step in steps:
                both.step(step)
                both.hold_the_same()
        finally:
            both.redis.close()


told = settings(
    max_examples=int(os.environ.get("METER_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


@pytest.mark.lengthy
@on_every_redis
@told
@given(steps=st.lists(STEPS, min_size=15, max_size=30))
def test_every_history(redis_server, steps) -> None:
    """Both stores tell the same of every command, wherever the clock goes."""
    tell(redis_server, steps)


@pytest.mark.lengthy
@on_every_redis
@told
@given(steps=st.lists(PLAIN_STEPS, min_size=15, max_size=30))
def test_every_plain_history(redis_server, steps) -> None:
    """So they do where the script takes its short way, and leaves it."""
    tell(redis_server, steps)
