"""What meter_mw is to reach, each ratio or bound beside what this run reached; computed, not typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.contenders import FLOOR, LEASED, STRICT, one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.results import Results

_CALLS = {"Starlette": "asyncio", "Flask": "blocking"}
_RIVALS = {"Starlette": "slowapi", "Flask": "Flask-Limiter"}
_SHARES = {
    "Starlette": (("uvicorn, 64 connections"), 0.90, 0.60),
    "Flask": (("gunicorn, 32 connections"), 0.92, 0.75),
}


@dataclass(frozen=True, slots=True)
class Target:
    """One line: what is asked for, the bound, and what was reached (`None`: not measured in this run)."""

    what: str
    bound: float
    reached: float | None
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is reached."""
        if self.reached is None:
            return None
        return self.reached >= self.bound if self.at_least else self.reached <= self.bound


def targets(results: Results) -> list[Target]:
    """Give all of them."""
    return [*_strict(results), *_leased(results), *_refused(results), *_shares(results), *_exact(results)]


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over is not None and under else None


def _added(results: Results, name: str, base: str, number: int = 3, *, cpu: bool = False) -> float | None:
    spread = results.beyond(name, base, results.stores.setting(results.stores.tcp, number), cpu=cpu)
    return None if spread is None else spread.median


def _strict(results: Results) -> Iterator[Target]:
    for base, call in _CALLS.items():
        ours = _added(results, STRICT, base)
        yield Target(
            f"strict on {base}: added time, of one bare EVALSHA of redis-py ({call})",
            1.2,
            _ratio(ours, _added(results, FLOOR, call)),
            "times",
        )
        rival = _RIVALS[base]
        yield Target(
            f"strict on {base}: added time, of {rival}'s with 3 limits and fields",
            0.35,
            _ratio(ours, _added(results, rival, base)),
            "times",
        )
        yield Target(
            f"strict on {base}: added time with 8 limits, of that with 1",
            1.3,
            _ratio(_added(results, STRICT, base, 8), _added(results, STRICT, base, 1)),
            "times",
        )
    yield Target("server time of an ADMIT with 3 limits", 15, results.server_us.get(3), "µs")
    yield Target(
        "strict on Starlette, 64 in flight: CPU of an admission, of one EVALSHA of redis-py (asyncio)",
        0.5,
        _ratio(_added(results, STRICT, "Starlette", cpu=True), _added(results, FLOOR, "asyncio", cpu=True)),
        "times",
    )


def _leased(results: Results) -> Iterator[Target]:
    setting = results.stores.paced
    for base in _CALLS:
        added = results.beyond(LEASED, base, setting)
        each, bare = one(LEASED, base), one("bare", base)
        worst, trips = results.added.p99_us, results.added.trips
        known = added is not None
        yield Target(
            f"leased on {base}, {setting.paced:,}/s of one key: added time at the median",
            20,
            added.median if added is not None else None,
            "µs",
        )
        yield Target(
            f"leased on {base}, {setting.paced:,}/s of one key: added time at p99",
            80,
            worst.beyond(each, bare, setting.title).median if known else None,
            "µs",
        )
        yield Target(
            f"leased on {base}, {setting.paced:,}/s of one key: round trips for a request",
            0.02,
            trips.spread(each, setting.title).median if known else None,
        )


def _refused(results: Results) -> Iterator[Target]:
    title = results.stores.refused.title
    for base in _CALLS:
        each = one(LEASED, base)
        known = results.added.time_us.has(each, title)
        yield Target(
            f"refused locally on {base}: the whole time of an answer",
            15,
            results.added.time_us.spread(each, title).median if known else None,
            "µs",
        )
        yield Target(
            f"refused locally on {base}: script calls for a request; each caller is looked at once a second",
            0.02,
            results.added.scripts.spread(each, title).median if known else None,
        )


def _shares(results: Results) -> Iterator[Target]:
    for base, (server, leased, strict) in _SHARES.items():
        for name, bound in ((LEASED, leased), (STRICT, strict)):
            share = results.share(name, base, results.stores.setting(results.stores.tcp))
            yield Target(
                f"{name} on {base}, {server}, 3 limits: requests/s, of the bare app's",
                bound,
                None if share is None else share.median,
                at_least=True,
            )


def _exact(results: Results) -> Iterator[Target]:
    crept, killed = results.crept, results.killed
    yield Target(
        "cap of 10,000, 4 processes, 256 clients, leased: admitted before the first refusal",
        9_990,
        None if crept is None else crept.told.before_refusal,
        at_least=True,
    )
    yield Target("the same: admitted in all", 10_000, None if crept is None else crept.told.admitted)
    yield Target(
        "the same, with processes killed (SIGKILL): admitted in all",
        10_000,
        None if killed is None else killed.told.admitted,
    )
    found = results.bytes
    size = "" if found is None else f", {found.subjects:,} subjects"
    yield Target(f"Redis for a subject at rest with 3 limits{size}", 200, found and found.at_rest, "bytes")
