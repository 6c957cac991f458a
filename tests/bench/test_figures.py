"""Figures, tables, targets and pictures are made of what was measured, and of nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.admitted import Row
from bench.contenders import ALL, FLOOR, LEASED, STRICT, chosen, one
from bench.figures import Figures, Spread, p99
from bench.load import Hammered
from bench.results import Results, Stores
from bench.store_cost import Bytes
from bench.targets import Target, targets
from bench.workload import LIMITS, Limit, Setting, Store

from bench import plots, report

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [each.name for each in ALL if not each.bare]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Nothing is measured yet."""
    url = "redis://localhost:1/0"
    stores = [Store("memory", None), Store("Redis", url), Store("Redis by unix socket", url)]
    return Results(Stores(*stores, Store("Redis 1 ms away", url), tmp_path))


def note(figures: Figures, setting: Setting, **values: float) -> None:
    """Note one figure for each "name on base", whose blank is an underscore."""
    for title, value in values.items():
        name, _, base = title.partition("_on_")
        figures.add(
            one({"strict": STRICT, "leased": LEASED, "floor": FLOOR}.get(name, name), base), setting, value
        )


def reached(results: Results) -> dict[str, Target]:
    return {each.what: each for each in targets(results)}


def test_p99_is_what_one_in_a_hundred_passes() -> None:
    """Of 200 values two are larger."""
    assert p99(list(range(200))) == 197
    assert p99([7]) == 7
    with pytest.raises(ValueError, match="nothing was measured"):
        p99([])


def test_what_is_added_is_told_round_by_round(results: Results) -> None:
    """A slow round is slow for the bare app too."""
    setting = results.stores.setting(results.stores.tcp)
    for bare, ours in ((10, 30), (50, 72), (11, 30)):
        note(results.added.time_us, setting, bare_on_Starlette=bare, strict_on_Starlette=ours)
    assert results.beyond(STRICT, "Starlette", setting) == Spread(20, 19, 22)
    assert results.beyond(LEASED, "Starlette", setting) is None


def test_the_floor_is_a_call_of_its_own(results: Results) -> None:
    """Nothing is taken off what has no app, and the ratio to it is computed."""
    setting = results.stores.setting(results.stores.tcp)
    note(results.added.time_us, setting, bare_on_Starlette=10, strict_on_Starlette=130, floor_on_asyncio=100)
    target = reached(results)["strict on Starlette: added time, of one bare EVALSHA of redis-py (asyncio)"]
    assert target == Target(target.what, 1.2, 1.2, "times")
    assert target.met is True


def test_what_was_not_measured_is_neither_met_nor_missed(results: Results) -> None:
    """An empty run says so of every target."""
    asked = targets(results)
    assert report.summary(results, list(ALL)) == ""
    assert {each.met for each in asked} == {None}
    assert report.target_table(asked).count("not measured") == len(asked) >= 20


def test_targets_are_met_or_missed(results: Results) -> None:
    """Shares are to be large; bytes, round trips and what is admitted are to be small."""
    setting = results.stores.setting(results.stores.tcp)
    note(results.served.per_second, setting, bare_on_Flask=1000, leased_on_Flask=930, strict_on_Flask=700)
    results.bytes = Bytes(1000, 180.0, 320.0)
    leased = one(LEASED, "Starlette")
    results.crept = Row(leased, "Redis", 10_000, Hammered(10_000, 900, 0, before_refusal=9_989))
    results.killed = Row(leased, "Redis", 10_000, Hammered(10_001, 900, 0))
    met = {each.what: each.met for each in targets(results) if each.met is not None}
    cap = "cap of 10,000, 4 processes, 256 clients, leased: admitted before the first refusal"
    assert met == {
        "meter_mw leased on Flask, gunicorn, 32 connections, 3 limits: requests/s, of the bare app's": True,
        "meter_mw strict on Flask, gunicorn, 32 connections, 3 limits: requests/s, of the bare app's": False,
        cap: False,
        "the same: admitted in all": True,
        "the same, with processes killed (SIGKILL): admitted in all": False,
        "Redis for a subject at rest with 3 limits, 1,000 subjects": True,
    }


def test_what_is_over_a_limit_stands_out(results: Results) -> None:
    """So that nobody wins by being wrong."""
    setting = results.stores.setting(results.stores.tcp)
    note(results.added.time_us, setting, bare_on_DRF=100, throttles_on_DRF=900)
    results.admitted = [Row(one("throttles", "DRF"), "Redis", 1_000, Hammered(1_937, 63, 0))]
    (line,) = report.summary(results, list(ALL)).splitlines()[2:]
    assert line.startswith("| DRF's throttles on DRF | 800 |")
    assert line.endswith("| **1,937** |")
    assert "| 1,000 | 1,937 | **+937** | 0 |" in "\n".join(report.sections(results, list(ALL)))


def test_pictures_are_small_and_of_what_is_known(results: Results, tmp_path: Path) -> None:
    """All three can be drawn of one store; nothing is drawn of nothing."""
    assert plots.draw(results, list(ALL), tmp_path) == []
    for number in (1, 3, 8):
        setting = results.stores.setting(results.stores.tcp, number)
        for place, each in enumerate(ALL):
            if each.fits(setting):
                results.added.time_us.add(each, setting, (10 if each.bare else 100) + place)
                results.served.per_second.add(each, setting, 1_000 if each.bare else 500 + place)
    drawn = plots.draw(results, list(ALL), tmp_path)
    assert [path.name for path in drawn] == ["added-time.png", "requests-per-second.png", "by-limits.png"]
    for path in drawn:
        picture = path.read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 80_000


def test_limits_can_be_had_by_everyone() -> None:
    """They rise with their periods in amount, fall in density, and begin as they did."""
    rising = sorted(LIMITS, key=lambda limit: limit.seconds)
    amounts = [limit.amount for limit in rising]
    densities = [limit.amount / limit.seconds for limit in rising]
    assert amounts == sorted(set(amounts))
    assert densities == sorted(densities, reverse=True)
    assert [str(limit) for limit in LIMITS[:4]] == [
        "1000000/second",
        "60000000/minute",
        "1000000000/day",
        "10000000/10 second",
    ]
    with pytest.raises(ValueError, match="got Limit"):
        Limit(1, "fortnight")


def test_we_stand_on_fastapi_only_beside_a_rival() -> None:
    """A rival brings its framework, and its bare app."""
    assert {each.base for each in chosen([STRICT])} == {"Starlette", "Flask", "Django"}
    assert [each.title for each in chosen(["throttles"])] == ["*bare DRF*", "DRF's throttles on DRF"]
    assert {each.base for each in chosen(NAMES)} == {each.base for each in ALL}
