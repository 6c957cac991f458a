"""Plots that a person reads at a glance, as inline SVG: bars of days, the burn-down of a cap, a spark. Pure.

Rule 1: a plot has no words but a name and a description for those who hear it; labels are HTML around it, so
        they keep their size on every screen, and the figures are in a table beside it.
Rule 2: shapes have classes and no style of their own: the page's style sheet is all that the browser takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH, _HEIGHT = 1000, 200
_GAP = 0.15
"""The part of a bar's place that is left free."""
_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24
_FEWEST_PX = 2
"""The least height of something that is more than nothing."""
_ROUND = (1, 2, 3, 4, 5, 6, 8, 10)


class Part(NamedTuple):
    """A part of each bar, from the bottom up: what it is, its class in the style sheet, and its counts."""

    name: str
    look: str
    counts: Sequence[int]


class Point(NamedTuple):
    """A point of a line: parts of one from the left, and of the top."""

    across: float
    height: float


def top(most: float) -> int:
    """Give the round number that a scale ends with: one digit, and zeros."""
    scale = 1
    while True:
        for step in _ROUND:
            if most <= step * scale:
                return step * scale
        scale *= 10


def bars(labels: Sequence[str], parts: Sequence[Part], name: str) -> Markup:
    """Draw a bar for each label, of parts one upon the other; the scale ends at `top` of the highest."""
    sums = [sum(counts) for counts in zip(*(part.counts for part in parts), strict=True)]
    most = top(max(sums, default=0))
    place = _WIDTH / max(1, len(labels))
    shapes = Markup("")
    for index, label in enumerate(labels):
        told = ", ".join(f"{part.name} {part.counts[index]:,}" for part in parts if part.counts[index])
        shapes += Markup("<g><title>{}: {}</title>").format(label, told or "nothing")
        shapes += _hover(index * place, place)
        floor = float(_HEIGHT)
        for part in parts:
            if count := part.counts[index]:
                height = max(_FEWEST_PX, count / most * _HEIGHT)
                floor -= height
                shapes += _rect(
                    (index + _GAP / 2) * place, max(0.0, floor), place * (1 - _GAP), height, part.look
                )
        shapes += Markup("</g>")
    said = f"{len(labels)} bars, the highest {max(sums, default=0):,}"
    return _picture(shapes, f"{name}: {said}", _WIDTH, _HEIGHT, "plot")


def burn_down(left: Sequence[Point], pace: Sequence[Point], name: str, said: str) -> Markup:
    """Draw what is left of a cap in its period, beside what an even use of it would leave.

    `left` goes down from the first instant to the present, and `pace` on from there.
    """
    even = (Point(0, 1), Point(1, 0))
    shapes = Markup('<line class="base" x1="0" y1="{0}" x2="{1}" y2="{0}"/>').format(_HEIGHT, _WIDTH)
    shapes += _line(even, "even")
    if left:
        below = (*left, Point(left[-1].across, 0), Point(left[0].across, 0))
        shapes += Markup('<polygon class="left" points="{}"/>').format(_points(below))
        shapes += _line(left, "edge")
    shapes += _line(pace, "pace") if pace else ""
    return _picture(shapes, f"{name}: {said}", _WIDTH, _HEIGHT, "plot")


def spark(counts: Sequence[int], name: str) -> Markup:
    """Draw counts as a line without a scale, small enough for a row of a table."""
    most = max(counts, default=0) or 1
    last = max(1, len(counts) - 1)
    points = " ".join(
        f"{index / last * _SPARK_WIDTH:.1f},{_SPARK_HEIGHT - 1 - count / most * (_SPARK_HEIGHT - 2):.1f}"
        for index, count in enumerate(counts)
    )
    shape = Markup('<polyline class="edge" points="{}"/>').format(points)
    said = f"from {counts[0]:,} to {counts[-1]:,}, at most {max(counts):,}" if counts else "nothing"
    return _picture(shape, f"{name}: {said}", _SPARK_WIDTH, _SPARK_HEIGHT, "spark")


def _picture(shapes: Markup, label: str, width: int, height: int, look: str) -> Markup:
    return Markup(
        '<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">{}</svg>'
    ).format(look, label, width, height, shapes)


def _rect(x: float, y: float, width: float, height: float, look: str) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        look, *(f"{each:.2f}" for each in (x, y, width, height))
    )


def _hover(x: float, width: float) -> Markup:
    """Give the whole height of a bar's place its words for the mouse."""
    return _rect(x, 0, width, _HEIGHT, "place")


def _line(points: Sequence[Point], look: str) -> Markup:
    return Markup('<polyline class="{}" points="{}"/>').format(look, _points(points))


def _points(points: Sequence[Point]) -> str:
    return " ".join(_placed(points))


def _placed(points: Sequence[Point]) -> Iterator[str]:
    for each in points:
        across, height = (min(1.0, max(0.0, part)) for part in each)
        yield f"{across * _WIDTH:.1f},{(1 - height) * _HEIGHT:.1f}"
