"""Spans of time as the ledger has summed them up: whole days, whole hours, and what is left. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.ledger.records import DAY_US, HOUR_US
from meter_mw.ledger.spans import Span

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Pieces:
    """Runs of whole days, runs of whole hours, and what is left of each span within an hour."""

    days: tuple[Span, ...]
    hours: tuple[Span, ...]
    rest: tuple[Span, ...]


def pieces(spans: Iterable[Span]) -> Pieces:
    """Take spans apart, which are in order and do not overlap; runs of days or hours that meet are one."""
    days: list[Span] = []
    hours: list[Span] = []
    rest: list[Span] = []
    for span in spans:
        first, last = _up(span.start_us, HOUR_US), _down(span.end_us, HOUR_US)
        if first > last:
            rest.append(span)
            continue
        first_day, last_day = _up(first, DAY_US), _down(last, DAY_US)
        if first_day >= last_day:
            first_day = last_day = last
        rest += [Span(span.start_us, first)] if span.start_us < first else []
        _append(hours, first, first_day)
        _append(days, first_day, last_day)
        _append(hours, last_day, last)
        rest += [Span(last, span.end_us)] if last < span.end_us else []
    return Pieces(tuple(days), tuple(hours), tuple(rest))


def moments(runs: Iterable[Span], length_us: int) -> list[int]:
    """Give when each day or hour of some runs begins."""
    return [moment for run in runs for moment in range(run.start_us, run.end_us, length_us)]


def _append(runs: list[Span], start_us: int, end_us: int) -> None:
    if start_us >= end_us:
        return
    if runs and runs[-1].end_us == start_us:
        start_us = runs.pop().start_us
    runs.append(Span(start_us, end_us))


def _up(moment_us: int, length_us: int) -> int:
    return -(-moment_us // length_us) * length_us


def _down(moment_us: int, length_us: int) -> int:
    return moment_us // length_us * length_us
