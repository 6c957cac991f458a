"""Several processes lease from one cap: never one too many, none lost, and near the limit one by one."""

from __future__ import annotations

import math
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasing.charges import cap, rate
from leasing.simulation import World
from meter_mw.policy.terms import Speed

PROCESSES = 4


def poisson(chance: random.Random, mean: float) -> int:
    count, product, least = 0, chance.random(), math.exp(-mean)
    while product >= least:
        product *= chance.random()
        count += 1
    return count


def arrivals(chance: random.Random, per_second: list[float]) -> list[int]:
    return [poisson(chance, each / 1_000) for each in per_second]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_kill_and_no_refund_makes_a_count_wrong(data: st.DataObject) -> None:
    """What is recorded never passes the cap, and in the end the store has counted just that."""
    units = data.draw(st.integers(200, 3_000), label="cap")
    take = data.draw(st.sampled_from((1, 1, 3)), label="take")
    processes = data.draw(st.integers(1, 5), label="processes")
    demand = data.draw(
        st.lists(st.integers(0, 8_000), min_size=processes, max_size=processes), label="demand"
    )
    kills = data.draw(st.lists(st.tuples(st.integers(0, 399), st.integers(0, processes - 1)), max_size=6))
    world = World(
        (cap(units, take, warn=(units // 2,)),),
        processes,
        data.draw(st.integers(0, 1_000_000), label="seed"),
        speed=data.draw(st.sampled_from((Speed.AUTO, Speed.LEASED))),
        refunds=data.draw(st.sampled_from((0.0, 0.3)), label="refunds"),
        grants_after_us=data.draw(st.sampled_from((0, 2_000, 40_000))),
        settles_after_us=data.draw(st.sampled_from((0, 7_000, 90_000))),
    )
    lasts_us = data.draw(st.sampled_from((0, 3_000, 200_000)), label="lasts")
    for step in range(400):
        for at, number in kills:
            if at == step:
                world.kill(number)
        world.pass_a_step(arrivals(world.random, [float(each) for each in demand]), lasts_us)
        assert world.charged * take <= units
        (count,) = [each.state.part for each in world.store.peek("subject", world.charges).readings]
        assert world.charged * take <= count <= units
    (reading,) = world.close().readings
    assert reading.state.part == world.charged * take <= units


EVEN, UNEVEN = (0.25, 0.25, 0.25, 0.25), (0.9, 0.06, 0.03, 0.01)


@pytest.mark.parametrize(
    ("per_second", "shares", "speed"),
    [
        (1_000, EVEN, Speed.AUTO),
        (3_000, EVEN, Speed.LEASED),
        (3_000, UNEVEN, Speed.AUTO),
        (12_000, UNEVEN, Speed.LEASED),
    ],
)
def test_the_last_units_are_given_one_by_one(
    per_second: int, shares: tuple[float, ...], speed: Speed
) -> None:
    """Of 10,000 none is refused before 9,990 are admitted; the store is asked in the last seconds alone."""
    world = World((cap(10_000),), PROCESSES, seed=per_second, speed=speed)
    chance = random.Random(per_second)
    while world.pass_a_step(arrivals(chance, [per_second * each for each in shares]), 20_000):
        pass
    assert 9_990 <= world.admitted <= 10_000
    assert world.strict < 200 + 4 * per_second


@pytest.mark.parametrize("seed", range(2))
def test_who_falls_silent_keeps_at_most_a_second_of_its_own(seed: int) -> None:
    """The bound on under-admission: others may use up a cap before the slice of one that stopped is back."""
    calm, wild = 400.0, 30_000.0
    world = World((cap(10_000),), PROCESSES, seed=seed)
    chance = random.Random(seed)
    for _ in range(chance.randrange(1_000, 3_000)):
        assert world.pass_a_step(arrivals(chance, [calm / PROCESSES] * PROCESSES), 20_000)
    while world.pass_a_step(arrivals(chance, [0.0, *[wild / 3] * 3]), 20_000):
        pass
    assert world.admitted >= 10_000 - calm


@pytest.mark.parametrize("per_second", [500, 5_000])
def test_a_burst_grows_by_what_is_lent_at_most(per_second: int) -> None:
    """In any span of time: the burst, what the rate brings, and a sixteenth of the burst a process."""
    burst, sustained = 1_600, 1_000
    world = World((rate(sustained, burst),), PROCESSES, seed=1)
    chance = random.Random(per_second)
    admitted: deque[int] = deque([0])
    for step in range(4_000):
        pace = 0.0 if step // 1_000 % 2 else per_second / PROCESSES
        world.pass_a_step(arrivals(chance, [pace] * PROCESSES), 5_000)
        admitted.append(world.admitted)
    assert world.strict < world.admitted
    most = burst + PROCESSES * (burst // 16)
    for span in (1, 10, 100, 1_000):
        found = max(admitted[at + span] - admitted[at] for at in range(len(admitted) - span))
        assert found <= most + sustained * span / 1_000 + 1
