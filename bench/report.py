"""The figures as Markdown: a short table for the README, and all of them for docs/performance.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.admitted import HAMMERED
from bench.contenders import EVENTS
from bench.drive import WIDTH
from bench.machine import versions
from bench.residents import PER
from bench.results import PACE, WORKERS, bare_of
from bench.serving import CONNECTIONS, THREADS
from bench.targets import targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bench.contenders import Contender
    from bench.figures import Figures, Spread
    from bench.results import Results
    from bench.targets import Target

_TO = "\N{EN DASH}"
_NONE = "\N{EN DASH}"


def introduction(contenders: list[Contender], machine: str) -> str:
    """Say what all tables share."""
    silent = sorted({each.label for each in contenders if not (each.bare or each.fields or each.floor)})
    without = f"; {_and(silent)} send{'s' if len(silent) == 1 else ''} no limit fields" if silent else ""
    return (
        f"Measured {machine}.\n"
        "Everyone took turns in each round; "
        "a figure is the median of the rounds, with the least and the most.\n"
        "No limit was ever reached where that is not said, and each contender had shown before that its "
        "limits count.\n"
        "meter_mw counts bytes, journals each event and brings it to a file, and sends its fields throughout"
        f"{without}.\n\n"
        f"Versions: {versions([*contenders, *EVENTS])}."
    )


def summary(results: Results, contenders: list[Contender]) -> str:
    """Give the few figures that matter: Redis, 3 limits; nothing where that was not measured."""
    setting = results.stores.setting(results.stores.tcp)
    rows = [
        [
            each.title,
            _added(results.added.time_us, each, setting.title, plain=True),
            _added(results.added.cpu_us, each, setting.title, plain=True),
            _trips(results.added.trips, each, setting.title),
            _trips(results.added.trips, each, results.stores.paced.title),
            _share(results, each, plain=True),
            _passed(results, each),
        ]
        for each in contenders
        if not each.bare and each.has_server and results.added.time_us.has(each, setting.title)
    ]
    heads = ["Redis, 3 limits", "µs added", "CPU µs added", "round trips", f"at {PACE:,}/s of one key"]
    heads += ["requests/s, of the bare app's", f"admitted of {HAMMERED.limit:,}"]
    return _grid(heads, rows) if rows else ""


def sections(results: Results, contenders: list[Contender]) -> Iterator[str]:
    """Give the full tables, each with its title."""
    yield f"### Targets\n\n{target_table(targets(results))}"
    yield from _in_process(results, contenders)
    yield from _by_servers(results, contenders)
    if results.admitted:
        yield _limits_held(results)
    if results.events is not None:
        yield _events(results)
    if results.server_us or results.bytes is not None or results.resident:
        yield _memory(results)
    yield _took(results.seconds)


def target_table(asked: Iterable[Target]) -> str:
    """Lay out what was asked for beside what was reached."""
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        [
            each.what,
            f"{'≥' if each.at_least else '≤'} {_number(each.bound)} {each.unit}".rstrip(),
            _NONE if each.reached is None else f"{_number(each.reached)} {each.unit}".rstrip(),
            words[each.met],
        ]
        for each in asked
    ]
    return _grid(["target", "bound", "reached", "met"], rows)


def _in_process(results: Results, contenders: list[Contender]) -> Iterator[str]:
    added, refused = results.added, results.stores.refused.title
    titles = [title for title in _titles(added.time_us) if title != refused]
    if titles:
        time_us = _table(contenders, titles, "µs added", lambda *cell: _added(added.time_us, *cell))
        yield f"### Time added to a request, in process, one at a time\n\n{time_us}{_again(results)}"
        p99 = _table(contenders, titles, "µs added at p99", lambda *cell: _added(added.p99_us, *cell))
        yield (
            "### The same at p99\n\nThe p99 of a turn less the bare app's p99; the median of all turns.\n\n"
            + p99
        )
    crowds = _titles(added.cpu_us)
    if crowds:
        cpu_us = _table(contenders, crowds, "CPU µs added", lambda *cell: _added(added.cpu_us, *cell))
        yield (
            "### CPU time added to a request\n\nAll threads included (ASGI and asyncio: "
            f"{WIDTH} in flight; WSGI: one).\n\n{cpu_us}"
        )
    asked = _titles(added.trips)
    if asked:
        trips = _table(contenders, asked, "round trips / script calls", lambda *cell: _asked(results, *cell))
        yield f"### What Redis was asked for, for each request\n\nRead from its own INFO.\n\n{trips}"
    if refused in _titles(added.time_us):
        yield _refusals(results, contenders, refused)


def _refusals(results: Results, contenders: list[Contender], title: str) -> str:
    rows = [
        [
            each.title,
            _spread(results.added.time_us.spread(each, title)),
            _trips(results.added.trips, each, title),
        ]
        for each in contenders
        if not each.bare and results.added.time_us.has(each, title)
    ]
    heads = ["Redis, 3 limits, one of them used up", "µs of a refusal, in all", "round trips"]
    told = "Of one key that does not stop. Nothing is taken off: the app is not asked."
    return f"### A refusal\n\n{told}\n\n{_grid(heads, rows)}"


def _by_servers(results: Results, contenders: list[Contender]) -> Iterator[str]:
    served = results.served
    titles = _titles(served.per_second)
    if not titles:
        return
    table = _table(contenders, titles, "requests/s = share of bare", lambda *cell: _served(results, *cell))
    yield (
        f"### Requests per second\n\nuvicorn with {CONNECTIONS['asgi']} connections, gunicorn gthread with "
        f"{THREADS} threads a process and {CONNECTIONS['wsgi']} connections; one process unless it says "
        "more, on one core, and the load comes over raw asyncio protocols with keep-alive from another, "
        f"which was busy for {served.busiest:.0%} of the time at most.\n\n{table}{_amiss(results)}"
    )
    waits = _table(contenders, titles, "µs at p50 / p99", lambda *cell: _waits(results, *cell))
    yield f"### How long a request took there\n\n{waits}"


def _limits_held(results: Results) -> str:
    rows = [
        [
            f"{row.contender.title}, {row.store}",
            f"{row.limit:,}",
            f"{row.told.admitted:,}",
            _over(row.told.admitted, row.limit),
            f"{row.told.others:,}",
        ]
        for row in results.admitted
    ]
    table = _grid(["a limit shared by 4 processes", "limit", "admitted", "over", "other answers"], rows)
    return (
        f"### Over-admission\n\n{WORKERS} processes, {HAMMERED.clients} clients of one key, "
        f"{HAMMERED.requests:,} requests. In memory each process counts for itself.\n\n{table}"
    )


def _over(admitted: int, limit: int) -> str:
    return "0" if admitted == limit else f"**{admitted - limit:+,}**"


def _events(results: Results) -> str:
    added = results.events
    if added is None:
        raise ValueError("the events were not measured")
    title = next(iter(_titles(added.time_us)))
    rows = []
    for each in EVENTS:
        figures = (added.time_us, added.p99_us, added.cpu_us)
        rows.append([each.title, *(_added(which, each, title) for which in figures)])
    heads = ["a record of each request, posted to a local sink", "µs added", "at p99", "CPU µs added"]
    return f"### Events\n\nNo limits; the sink answers at once.\n\n{_grid(heads, rows)}"


def _memory(results: Results) -> str:
    rows = [
        [f"server time of an ADMIT, {number} limit{'s'[: number > 1]}", f"{taken:.1f} µs"]
        for number, taken in results.server_us.items()
    ]
    if results.bytes is not None:
        subjects = f"{results.bytes.subjects:,} subjects, 3 limits"
        rows.append([f"Redis for a subject at rest, {subjects}", f"{results.bytes.at_rest:.0f} bytes"])
        rows.append(["while its last request is remembered too", f"{results.bytes.remembered:.0f} bytes"])
    rows += [
        [f"process memory for {PER:,} subjects, {each.title}, {title}", f"{taken / 1e6:.1f} MB"]
        for (each, title), taken in results.resident.items()
    ]
    return f"### Memory, and Redis' own time\n\n{_grid(['what', 'how much'], rows)}"


def _took(seconds: dict[str, float]) -> str:
    told = ", ".join(f"{part} {taken:.0f} s" for part, taken in seconds.items())
    return f"How long the parts took: {told}; in all {sum(seconds.values()):.0f} s."


def _again(results: Results) -> str:
    """Tell of turns that do not show in the tables."""
    if not results.added.again:
        return ""
    told = ", ".join(f"{name} {number}" for name, number in results.added.again.items())
    return f"\n\nTurns taken again, as the store had been too slow for some of their requests: {told}."


def _amiss(results: Results) -> str:
    """Tell of answers that were not counted: their store had been too slow on this machine."""
    if not results.served.amiss:
        return ""
    told = ", ".join(f"{name} {share:.1%}" for name, share in results.served.amiss.items())
    return f"\n\nRefused, or decided without the store, in the worst round, and not counted: {told}."


def _titles(figures: Figures) -> list[str]:
    return list(dict.fromkeys(title for _, title in figures.rounds))


def _added(figures: Figures, each: Contender, title: str, *, plain: bool = False) -> str:
    if not figures.has(each, title):
        return _NONE
    bare = bare_of(each)
    alone = each.bare or bare is None
    spread = figures.spread(each, title) if alone or bare is None else figures.beyond(each, bare, title)
    return _us(spread.median) if plain else _spread(spread)


def _trips(figures: Figures, each: Contender, title: str) -> str:
    return f"{figures.spread(each, title).median:.2f}" if figures.has(each, title) else _NONE


def _asked(results: Results, each: Contender, title: str) -> str:
    trips = _trips(results.added.trips, each, title)
    return _NONE if trips == _NONE else f"{trips} / {_trips(results.added.scripts, each, title)}"


def _share(results: Results, each: Contender, *, plain: bool = False) -> str:
    setting = results.stores.setting(results.stores.tcp)
    share = results.share(each.name, each.base, setting)
    return _NONE if share is None else f"{share.median:.2f}" if plain else _ratio(share)


def _served(results: Results, each: Contender, title: str) -> str:
    figures, bare = results.served.per_second, bare_of(each)
    if not figures.has(each, title) or bare is None:
        return _NONE
    own = figures.spread(each, title)
    if each.bare:
        return f"{own.median:,.0f} ({own.least:,.0f}{_TO}{own.most:,.0f})"
    return f"{own.median:,.0f} = {_ratio(figures.share(each, bare, title))}"


def _waits(results: Results, each: Contender, title: str) -> str:
    if not results.served.p50_us.has(each, title):
        return _NONE
    middle, late = results.served.p50_us.spread(each, title), results.served.p99_us.spread(each, title)
    return f"{middle.median:,.0f} / {late.median:,.0f}"


def _passed(results: Results, each: Contender) -> str:
    row = results.passed(each)
    if row is None:
        return _NONE
    return f"{row.told.admitted:,}" if row.told.admitted == row.limit else f"**{row.told.admitted:,}**"


def _table(
    contenders: list[Contender], titles: list[str], what: str, cell: Callable[[Contender, str], str]
) -> str:
    rows = [[each.title, *(cell(each, title) for title in titles)] for each in contenders]
    return _grid([what, *titles], [row for row in rows if set(row[1:]) != {_NONE}])


def _grid(heads: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _spread(spread: Spread) -> str:
    digits = 0 if spread.median >= 100 else 1
    return f"{spread.median:.{digits}f} ({spread.least:.{digits}f}{_TO}{spread.most:.{digits}f})"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.least:.2f}{_TO}{spread.most:.2f})"


def _us(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1}f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
