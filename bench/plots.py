"""The figures as pictures (PNG): readable at a glance, and by those who do not see all colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.contenders import FLOOR, LEASED, OURS, STRICT

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.contenders import Contender
    from bench.results import Results
    from bench.workload import Setting

OURS_COLOUR, RIVAL_COLOUR, FLOOR_COLOUR = "#0072B2", "#E69F00", "#999999"
"""Of the palette by Okabe and Ito, which every kind of sight tells apart."""

_NUMBERS = (1, 3, 8)


def draw(results: Results, contenders: list[Contender], folder: Path) -> list[Path]:
    """Write every picture that there are figures for; give their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        _added(results, contenders, folder / "added-time.png"),
        _shares(results, contenders, folder / "requests-per-second.png"),
        _by_limits(results, contenders, folder / "by-limits.png"),
    ]
    return [each for each in drawn if each is not None]


def _added(results: Results, contenders: list[Contender], path: Path) -> Path | None:
    setting = results.stores.setting(results.stores.tcp)
    rows = []
    for each in contenders:
        found = None if each.bare else results.beyond(each.name, each.base, setting)
        if found is not None:
            rows.append((each, found.median))
    title = (
        "Time that a limiter adds to a request (median)\nin process, Redis over TCP, 3 limits; less is better"
    )
    return _bars(rows, path, title, "µs added to a request, and times the least of meter_mw")


def _shares(results: Results, contenders: list[Contender], path: Path) -> Path | None:
    setting = results.stores.setting(results.stores.tcp)
    rows = []
    for each in contenders:
        found = None if each.bare else each.has_server and results.share(each.name, each.base, setting)
        if found:
            rows.append((each, found.median))
    title = "Requests per second that are left\nRedis over TCP, 3 limits, one process; more is better"
    return _bars(rows, path, title, "share of the bare app's requests per second", shares=True)


def _bars(
    rows: list[tuple[Contender, float]], path: Path, title: str, unit: str, *, shares: bool = False
) -> Path | None:
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: row[1], reverse=not shares)
    figure = Figure(figsize=(8, 0.3 * len(rows) + 1.4))
    axes = figure.add_subplot()
    names = [each.title.replace("*", "") for each, _ in rows]
    values = [value for _, value in rows]
    axes.barh(names, values, color=[_colour(each) for each, _ in rows])
    least = min((value for each, value in rows if each.ours), default=min(values))
    for place, value in enumerate(values):
        label = f" {value:.2f}" if shares else f" {value:,.0f} µs, {value / least:.1f}×"
        axes.text(value, place, label, va="center", fontsize=8)
    axes.set_xlim(0, max(values) * 1.2)
    kinds = {"meter_mw": OURS_COLOUR, "other packages": RIVAL_COLOUR, "one EVALSHA, the floor": FLOOR_COLOUR}
    axes.legend([Patch(color=colour) for colour in kinds.values()], kinds, fontsize=8, frameon=False)
    return _save(figure, axes, path, title, unit)


def _by_limits(results: Results, contenders: list[Contender], path: Path) -> Path | None:
    lines = {
        each: points
        for each in contenders
        if not each.bare and each.base == "Starlette" and len(points := _points(results, each)) > 1
    }
    if not lines:
        return None
    figure = Figure(figsize=(8, 4.5))
    axes = figure.add_subplot()
    for each, points in lines.items():
        style = {STRICT: "-", LEASED: "--", FLOOR: ":"}.get(each.name, "-.")
        axes.plot(*zip(*points, strict=True), style, marker="o", color=_colour(each))
    axes.set_xticks(_NUMBERS)
    axes.set_xlim(0.5, _NUMBERS[-1] + 4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("µs added to a request", fontsize=9)
    ends = {each.title.replace("*", ""): points[-1] for each, points in lines.items()}
    step = axes.get_ylim()[1] / 22
    for name, height in _apart({name: end[1] for name, end in ends.items()}, step).items():
        label = f"{name}: {ends[name][1]:,.0f} µs"
        axes.annotate(label, ends[name], (ends[name][0] + 0.2, height), fontsize=8, va="center")
    title = "Time that limits add to a request (median)\nin process, Redis over TCP; less is better"
    return _save(figure, axes, path, title, "limits of a request")


def _points(results: Results, each: Contender) -> list[tuple[int, float]]:
    """Give what a contender adds with each number of limits that it was measured with."""
    found = [(number, results.beyond(each.name, each.base, _limits(results, number))) for number in _NUMBERS]
    return [(number, spread.median) for number, spread in found if spread is not None]


def _apart(heights: dict[str, float], least: float) -> dict[str, float]:
    """Give heights for labels that are at least so far from each other, from the lowest up."""
    placed: dict[str, float] = {}
    floor = 0.0
    for name, height in sorted(heights.items(), key=lambda each: each[1]):
        placed[name] = max(height, floor)
        floor = placed[name] + least
    return placed


def _limits(results: Results, number: int) -> Setting:
    return results.stores.setting(results.stores.tcp, number)


def _colour(each: Contender) -> str:
    return OURS_COLOUR if each.name in OURS else FLOOR_COLOUR if each.floor else RIVAL_COLOUR


def _save(figure: Figure, axes: Axes, path: Path, title: str, unit: str) -> Path:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(unit, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": None})
    return path
