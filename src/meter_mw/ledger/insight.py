"""What the ledger tells of answers: how many failed, were slow or large, for whom and on which routes.

Rule 1: hours of UTC are counted whole: those that begin in a period. Nothing here is for a bill.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import case, distinct, func, select

from meter_mw.ledger.pieces import pieces
from meter_mw.ledger.recent import Busy, ordered
from meter_mw.ledger.records import DAY_US, HOUR_US
from meter_mw.ledger.retention import check_kept
from meter_mw.ledger.rolling import MEASURES
from meter_mw.ledger.sketches import quantile
from meter_mw.ledger.spans import Span
from meter_mw.ledger.summing import Only, check_names, within
from meter_mw.ledger.tables import (
    SUMS,
    events,
    limited_hours,
    sketch_days,
    sketch_hours,
    usage_days,
    usage_hours,
)
from meter_mw.model import REQUEST_EVENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.ledger.database import Database


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of requests; `answers` are all that have a status, `too_many` those of 429.

    `limited` counts those that a limit stopped on their way. Requests that were refused at once are no
    events, and in no ledger.
    """

    key: Mapping[str, str]
    answers: int
    successes: int
    redirects: int
    client_errors: int
    server_errors: int
    too_many: int
    limited: int
    duration_us: int
    """The sum over all answers."""

    def share(self, count: int) -> float:
        """Give a count as a share of all answers; 0 where there are none."""
        return count / self.answers if self.answers else 0.0


class Reach(NamedTuple):
    """How many subjects a route was answered to on one day of UTC, which begins at `start_us`."""

    start_us: int
    route: str
    subjects: int


class Sketch(NamedTuple):
    """How one measure of a route's answers is distributed."""

    route: str
    measure: str
    counts: Mapping[int, int]

    def quantile(self, share: float) -> float | None:
        """Give the value that a share of all do not exceed, to within 2 %; None where there are none."""
        return quantile(self.counts, share)


def outcomes(
    database: Database,
    by: Sequence[str],
    period: Span,
    *,
    subjects: Sequence[str] | None = None,
    source: str | None = None,
) -> list[Outcomes]:
    """Give what became of requests, by some of SERIES and in their order. Raises Purged."""
    check_names(by)
    only = Only(subjects, source)
    taken = pieces([hours_of(period)])
    levels = (("days", usage_days, taken.days, DAY_US), ("hours", usage_hours, taken.hours, HOUR_US))
    found: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * len(SUMS))
    with database.reading() as connection:
        for grain, table, runs, length_us in levels:
            if not runs:
                continue
            check_kept(connection, grain, runs[0])
            keys = [table.c[name] for name in by]
            moment = next(iter(table.primary_key))
            asked = (
                select(*keys, *(func.sum(table.c[name]) for name in SUMS))
                .where(only.at(moment, runs, length_us), *only.of(table))
                .group_by(*keys)
            )
            for row in connection.execute(asked):
                told = found[tuple(row[: len(by)])]
                told[:] = [a + int(b or 0) for a, b in zip(told, row[len(by) :], strict=True)]
    return [
        _outcomes(dict(zip(by, key, strict=True)), sums)
        for key, each in sorted(found.items())
        if (sums := dict(zip(SUMS, each, strict=True)))["answers"] or sums["limited"]
    ]


def limited_by(
    database: Database, by: Sequence[str], period: Span, *, source: str | None = None
) -> dict[tuple[str, ...], int]:
    """Give how many requests each limit stopped on their way, by some of SERIES and, last, its name."""
    check_names(by)
    keys = [limited_hours.c[name] for name in (*by, "limited_by")]
    asked = select(*keys, func.sum(limited_hours.c.events)).where(
        within(limited_hours.c.hour_us, [period]), *Only(source=source).of(limited_hours)
    )
    with database.reading() as connection:
        check_kept(connection, "hours", period)
        rows = connection.execute(asked.group_by(*keys).order_by(*keys)).all()
    return {tuple(key): int(units) for *key, units in rows}


def sketches(
    database: Database, period: Span, *, measures: Sequence[str] = MEASURES, source: str | None = None
) -> list[Sketch]:
    """Give how durations and sizes are distributed, by route; the counts of two sketches may be added."""
    taken = pieces([hours_of(period)])
    levels = (("days", sketch_days, taken.days), ("hours", sketch_hours, taken.hours))
    only = Only(source=source)
    found: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    with database.reading() as connection:
        for grain, table, runs in levels:
            if not runs:
                continue
            check_kept(connection, grain, runs[0])
            moment, keys = next(iter(table.primary_key)), (table.c.route, table.c.measure, table.c.bucket)
            where = (within(moment, runs), table.c.measure.in_(measures), *only.of(table))
            asked = select(*keys, func.sum(table.c.answers)).where(*where).group_by(*keys)
            for route, measure, bucket, answers in connection.execute(asked):
                found[route, measure][bucket] += int(answers)
    return [Sketch(*key, counts) for key, counts in sorted(found.items())]


def reach(database: Database, period: Span, *, source: str | None = None) -> list[Reach]:
    """Give how many subjects each route was answered to, by the days of UTC that begin in a period."""
    table = usage_days.c
    where = [table.day_us >= period.start_us, table.day_us < period.end_us, table.answers > 0]
    where += [table.source == source] if source is not None else []
    asked = (
        select(table.day_us, table.route, func.count(distinct(table.subject)))
        .where(*where)
        .group_by(table.day_us, table.route)
        .order_by(table.day_us, table.route)
    )
    with database.reading() as connection:
        check_kept(connection, "days", period)
        return [Reach(*row) for row in connection.execute(asked)]


def busiest_now(database: Database, by: str, span: Span, *, source: str | None = None) -> list[Busy]:
    """Give what a ledger has of a span, the busiest first."""
    name = func.coalesce(events.c[by], "")
    failed = case((events.c.status >= 400, 1), else_=0)
    sums: list[Any] = [func.sum(events.c[each]) for each in ("request_bytes", "response_bytes")]
    sums += [func.sum(failed), func.sum(func.coalesce(events.c.duration_us, 0))]
    asked = select(name, func.count(), *sums).where(
        events.c.type == REQUEST_EVENT,
        events.c.status.is_not(None),
        events.c.time_us >= span.start_us,
        events.c.time_us < span.end_us,
        *([] if source is None else [events.c.source == source]),
    )
    with database.reading() as connection:
        rows = connection.execute(asked.group_by(name))
        return ordered(Busy(row[0], *map(int, row[1:])) for row in rows)


def hours_of(period: Span) -> Span:
    """Give the hours of UTC that begin in a period."""
    return Span(*(-(-moment // HOUR_US) * HOUR_US for moment in (period.start_us, period.end_us)))


def _outcomes(key: Mapping[str, str], told: Mapping[str, int]) -> Outcomes:
    return Outcomes(
        key,
        told["answers"],
        told["status_2xx"],
        told["status_3xx"],
        told["status_4xx"],
        told["status_5xx"],
        told["status_429"],
        told["limited"],
        told["duration_us"],
    )
