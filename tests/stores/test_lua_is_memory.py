"""The script answers as the reference in memory does, on random histories."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from meter_mw.model import LARGEST_COST
from meter_mw.periods import Period
from meter_mw.quota import Cap, Rate, Span
from meter_mw.rids import new_rid
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, Booking, Cancel, Charge, Settle
from meter_mw.stores.redis_store import open_store
from meter_mw.testing.stores import Clock, settlement
from support.servers import on_every_redis

if TYPE_CHECKING:
    import redis

    from meter_mw.stores.port import Closing, Tally

SECOND = 1_000_000
FOR_EVER_US = 10**15
RATES = (
    Rate(10, SECOND, 5),
    Rate(3, SECOND, 4),
    Rate(7, 60 * SECOND, 3),
    Rate(1_000_003, SECOND, 2_000_000),
    Rate(LARGEST_COST, SECOND, LARGEST_COST),
    Rate(1, 86_400 * SECOND, 3_000),
)
CAPS = (0, 1, 5, 1_000, LARGEST_COST - 1, LARGEST_COST)
LENGTHS = (SECOND, 60 * SECOND, 3_600 * SECOND)
UNITS = st.one_of(
    st.integers(0, 3),
    st.integers(0, 6),
    st.sampled_from((999, 1_000_003, LARGEST_COST - 1, LARGEST_COST)),
    st.integers(0, LARGEST_COST),
)
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


ASKS = st.lists(
    st.builds(
        Ask,
        st.sampled_from(("r1", "r2", "c1", "c2", "c3")),
        st.sampled_from((0, 1, 1, 2, 2, 3, 4, 5)),
        st.tuples(UNITS, UNITS),
        st.sampled_from((0, 0, 0, 0, 1, -1, 2, -2, -9)),
    ),
    max_size=4,
    unique_by=lambda ask: ask.id,
)
STEPS = st.one_of(
    st.tuples(st.just("admit"), TAGS, ASKS, st.sampled_from((SECOND, SECOND, 0, -1))),
    st.tuples(st.just("peek"), TAGS, ASKS),
    st.tuples(st.just("again"), st.integers(0, 99)),
    st.tuples(st.just("settle"), st.integers(0, 99), st.lists(UNITS, min_size=4, max_size=4)),
    st.tuples(st.just("cancel"), st.integers(0, 99)),
    st.tuples(st.just("move"), SHIFTS),
)


class Both:
    """The same history, told to both stores."""

    def __init__(self, url: str, looker: redis.Redis) -> None:
        self.looker = looker
        self.clock = Clock()
        self.memory = MemoryStore(self.clock, remembered_us=FOR_EVER_US)
        self.redis = open_store(url, clock=self.clock)
        self.asked: list[tuple[Admit, Tally]] = []

    def charge(self, ask: Ask) -> Charge:
        take, need = sorted(ask.units)
        if ask.id.startswith("r"):
            return Charge(ask.id, RATES[ask.quota], need, take)
        length = LENGTHS[int(ask.id[1:]) - 1]
        now_us = self.clock()
        opening = now_us - now_us % length + ask.stale * length
        windows = (opening - length, opening, opening + length, opening + 2 * length)
        return Charge(ask.id, Cap(CAPS[ask.quota], Period.HOUR), need, take, windows)

    def admit(self, command: Admit) -> None:
        tally = self.memory.admit(command)
        assert self.redis.admit(command, patience_us=5 * SECOND) == tally
        self.asked.append((command, tally))

    def close(self, closing: Closing) -> None:
        assert list(self.redis.settle((closing,))) == list(self.memory.settle((closing,)))

    def step(self, step: tuple[object, ...]) -> None:
        match step:
            case ("move", int(shift)):
                self.clock.move(shift)
            case ("admit", str(tag), [*asks], int(within)):
                charges = tuple(self.charge(ask) for ask in asks)
                self.admit(Admit(new_rid(self.clock()), tag, self.clock() + within, charges))
            case ("peek", str(tag), [*asks]):
                charges = tuple(self.charge(ask) for ask in asks)
                assert self.redis.peek(tag, charges) == self.memory.peek(tag, charges)
            case (str(verb), int(number), *rest) if self.asked:
                command, tally = self.asked[number % len(self.asked)]
                if verb == "again":
                    self.admit(Admit(command.rid, command.tag, self.clock() + SECOND, command.charges))
                elif verb == "cancel":
                    self.close(Cancel(command.rid, command.tag))
                else:
                    self.close(self.settlement(command, tally, rest[0]))

    def hold_the_same(self) -> None:
        """The script keeps what memory keeps, to the last boundary, and lets nothing live for ever."""
        for tag, subject in self.memory._subjects.items():
            packed = self.looker.get(f"mw:{{{tag}}}")
            seen, kept = msgspec.msgpack.decode(packed or b"\x92\x00\x80")
            states = {id_: (Span(*state[:2]), (*state, state[0])[2]) for id_, state in dict(kept).items()}
            assert states == {id_: (each.state, each.until_us) for id_, each in subject.entries.items()}
            assert not states or seen == subject.seen_us
        for key in self.looker.scan_iter("mw:*"):
            assert self.looker.pttl(key) > 0

    def settlement(self, command: Admit, tally: Tally, units: object) -> Settle:
        assert isinstance(units, list)
        if tally.readings:
            return settlement(command, tally, *units[: len(command.charges)])
        windows = (0 if each.windows is None else each.windows[1] for each in command.charges)
        bookings = (Booking(*each) for each in zip(command.charges, units, windows, strict=False))
        return Settle(command.rid, command.tag, tuple(bookings))


@on_every_redis
@settings(
    max_examples=int(os.environ.get("METER_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(steps=st.lists(STEPS, min_size=15, max_size=30))
def test_every_history(redis_server, steps) -> None:
    """Both stores tell the same of every command, wherever the clock goes."""
    with redis_server.client() as client:
        client.flushall()
        both = Both(redis_server.url, client)
        try:
            for step in steps:
                both.step(step)
                both.hold_the_same()
        finally:
            both.redis.close()
