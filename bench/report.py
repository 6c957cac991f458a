"""The figures as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.drive import WIDTH
from bench.machine import versions
from bench.servers import CONNECTIONS, THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.contenders import Contender
    from bench.figures import Figures, Spread
    from bench.inprocess import Added
    from bench.servers import Served


_TO = "\N{EN DASH}"


def introduction(contenders: list[Contender], machine: str) -> str:
    """Say what all tables share."""
    silent = sorted({each.name for each in contenders if not (each.bare or each.fields)})
    without = f"; {_and(silent)} send{'s' if len(silent) == 1 else ''} no limit fields" if silent else ""
    return (
        f"Measured {machine}.\n"
        "Everyone took turns in each round; "
        "a figure is the median of the rounds, with the least and the most.\n"
        "No limit was ever reached, and each contender had shown before that its limits count.\n"
        "meter_mw counts bytes, journals each event and brings it to a file, and sends its fields throughout"
        f"{without}.\n\n"
        f"Versions: {versions(contenders)}."
    )


def added(contenders: list[Contender], titles: list[str], figures: Added) -> str:
    """Lay out the time and the CPU time that a meter adds in process."""
    time_us = _table(
        contenders,
        titles,
        "µs added to a request",
        lambda each, bare, title: _us(_of(figures.time_us, each, bare, title)),
    )
    cpu_us = _table(
        contenders,
        titles,
        "CPU µs added to a request",
        lambda each, bare, title: _us(_of(figures.cpu_us, each, bare, title)),
    )
    return (
        f"Time added to a request in process, one at a time:\n\n{time_us}\n\n"
        f"CPU time added to a request, all threads included (ASGI: {WIDTH} in flight; WSGI: one):\n\n{cpu_us}"
        + _again(figures)
    )


def _again(figures: Added) -> str:
    """Tell of turns that do not show in the tables."""
    if not figures.again:
        return ""
    told = ", ".join(f"{name} {number}" for name, number in figures.again.items())
    return f"\n\nTurns taken again, as the store had been too slow for some of their requests: {told}."


def _of(figures: Figures, each: Contender, bare: Contender, title: str) -> Spread:
    return figures.spread(bare, title) if each.bare else figures.beyond(each, bare, title)


def served(contenders: list[Contender], titles: list[str], figures: Served) -> str:
    """Lay out requests per second, absolute and as a share of the bare app."""

    def cell(each: Contender, bare: Contender, title: str) -> str:
        absolute = figures.per_second.spread(each, title)
        if each.bare:
            return f"{absolute.median:,.0f} ({absolute.least:,.0f}{_TO}{absolute.most:,.0f})"
        share = figures.per_second.share(each, bare, title)
        return f"{absolute.median:,.0f} = {share.median:.2f} ({share.least:.2f}{_TO}{share.most:.2f})"

    table = _table(contenders, titles, "requests/s = share of bare", cell)
    return (
        f"Requests per second, and the share of the bare app in the same round: uvicorn with one worker and "
        f"{CONNECTIONS['asgi']} connections, gunicorn gthread with one worker, {THREADS} threads and "
        f"{CONNECTIONS['wsgi']} connections.\n"
        "The load comes over raw asyncio protocols with keep-alive from another core, which was busy for "
        f"{figures.busiest:.0%} of the time at most.\n\n{table}{_amiss(figures)}"
    )


def _amiss(figures: Served) -> str:
    """Tell of answers that were not counted: their store had been too slow on this machine."""
    if not figures.amiss:
        return ""
    told = ", ".join(f"{name} {share:.1%}" for name, share in figures.amiss.items())
    return f"\n\nRefused, or decided without the store, in the worst round, and not counted: {told}."


def _table(
    contenders: list[Contender],
    titles: list[str],
    what: str,
    cell: Callable[[Contender, Contender, str], str],
) -> str:
    bare = {each.base: each for each in contenders if each.bare}
    rows = [f"| {what} | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    for each in contenders:
        cells = (cell(each, bare[each.base], title) for title in titles)
        rows.append(f"| {each.title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _us(spread: Spread) -> str:
    digits = 0 if spread.median >= 100 else 1
    return f"{spread.median:.{digits}f} ({spread.least:.{digits}f}{_TO}{spread.most:.{digits}f})"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
