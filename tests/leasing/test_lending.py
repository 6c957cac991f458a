"""Leases that are over: what was not used comes back at once, what is in flight when it has ended."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from leasing.charges import MONTH, cap, rate
from leasing.simulation import TAG, Process, World
from meter_mw.leasing.lending import LINGER_S
from meter_mw.policy.terms import Speed
from meter_mw.stores.port import Admit, Cancel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.leasing.grants import Asked
    from meter_mw.leasing.lease import Grant
    from meter_mw.leasing.pool import Share
    from meter_mw.stores.port import Charge

FAR = cap(10_000_000)


def lending(*charges: Charge, start_us: int | None = None) -> tuple[World, Process, list[Share]]:
    """Have a process that has just been lent something, and ten requests in flight of it."""
    world = World(charges, 1, seed=1, speed=Speed.LEASED)
    if start_us is not None:
        world.now_us = start_us
    process = world.processes[0]
    for _ in range(60):
        world.pass_a_step([1], 0)
    shares = []
    while len(shares) < 10:
        world.pass_a_step([0], 0)
        share = process.pool.take(world.now_us)
        if share is not None:
            shares.append(share)
        else:
            process.request(0)
    return world, process, shares


def counted(world: World) -> int:
    return world.store.peek(TAG, world.charges).readings[0].state.part


def pass_time(world: World, seconds: float) -> None:
    """Let time pass in which nobody comes: steps are long where little happens."""
    end_us = world.now_us + int(seconds * 1_000_000)
    while world.now_us < end_us:
        world.now_us += 0 if seconds < 5 else 499_000
        world.pass_a_step([0], 0)


@pytest.mark.parametrize("charged", [True, False])
def test_what_is_in_flight_does_not_hold_up_the_rest(*, charged: bool) -> None:
    world, process, shares = lending(FAR)
    served = world.charged
    assert counted(world) > served + 10
    pass_time(world, 1.2)
    assert counted(world) == served + 10
    for share in shares:
        share.lease.end(charged=charged)
    pass_time(world, 2)
    assert counted(world) == served + (10 if charged else 0)
    assert process.trail.entries == {}
    assert process.lending.pause() is None


def test_what_takes_very_long_is_settled_as_used() -> None:
    """Long before the store forgets what it was charged."""
    world, process, shares = lending(FAR)
    served = world.charged
    pass_time(world, LINGER_S + 5)
    assert process.trail.entries == {}
    for share in shares:
        share.lease.end(charged=False)
    pass_time(world, 2)
    assert counted(world) == served + 10


def test_a_rate_waits_for_nobody() -> None:
    """It keeps what was taken, whatever becomes of that."""
    world, process, shares = lending(rate(1, 100_000))
    pass_time(world, 1.2)
    assert process.lending.pause() is None
    quota = world.charges[0].quota
    state = world.store.peek(TAG, world.charges).readings[0].state
    taken = 100_000 - quota.remaining(state, world.now_us)  # type: ignore[union-attr]  # it is a rate
    assert world.charged + len(shares) - 2 <= taken <= world.charged + len(shares)


def test_what_is_in_flight_is_never_debited_to_the_next_window() -> None:
    """A lease is over before its window closes; in the next one nothing of it is counted."""
    world, process, shares = lending(FAR, start_us=MONTH[2] - 400_000)
    served = world.charged
    world.now_us = MONTH[2]
    pass_time(world, 0.1)
    assert counted(world) == 0
    assert any(isinstance(each, Cancel) for each in process.trail.journal)
    for share in shares:
        share.lease.end(charged=True)
    pass_time(world, 2)
    assert counted(world) == 0
    assert process.trail.entries == {}
    assert served > 0


def test_the_store_refuses_a_slice_that_would_reach_the_boundary() -> None:
    """Others may have come since the pool has last seen the count."""
    world, process, _ = lending(cap(1_000_000, warn=(400_000,)))
    pass_time(world, 1.2)
    units = 399_998 - counted(world)
    others = replace(world.charges[0], need=units, take=units)
    world.store.admit(Admit(world.rid(), TAG, world.now_us, (others,)))
    for _ in range(20):  # so that it would like one
        process.pool._came += 10
        process.pool._count(world.now_us)
        world.now_us += 50_000
    assert process.pool.slice(world.now_us) is not None
    process.lending.want(process.pool)
    process.lending.turn()
    assert counted(world) == 399_998
    assert process.pool.take(world.now_us) is None
    (reading,) = world.store.admit(Admit(world.rid(), TAG, world.now_us, world.charges)).readings
    assert reading.warned == (0, 0)
    (reading,) = world.store.admit(Admit(world.rid(), TAG, world.now_us, world.charges)).readings
    assert reading.warned == (0, 400_000)


def test_a_recall_ends_what_is_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry may be in a register that is left to others by now, who take it for unused."""
    world, process, shares = lending(FAR)
    for share in shares:
        share.lease.end(charged=True)
    process.lending.recall()
    process.lending.turn(recalled=True)
    ask = process.lending._grants.ask

    def slowly(asked: Sequence[Asked]) -> list[Grant | None]:
        granted = ask(asked)
        assert any(granted)
        process.lending.recall()
        return granted

    monkeypatch.setattr(process.lending._grants, "ask", slowly)
    for _ in range(20):
        process.pool._came += 10
        process.pool._count(world.now_us)
        world.now_us += 50_000
    process.lending.want(process.pool)
    process.lending.turn()
    assert process.pool.take(world.now_us) is None


def test_a_recall_ends_all() -> None:
    world, process, shares = lending(FAR)
    served = world.charged
    process.lending.recall()
    assert process.pool.take(world.now_us) is None
    for share in shares:
        share.lease.end(charged=True)
    process.lending.turn(recalled=True)
    assert process.lending.is_back
    pass_time(world, 0.1)
    assert counted(world) == served + 10
