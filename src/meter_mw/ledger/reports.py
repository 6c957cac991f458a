"""What the ledger tells of usage, as typed rows: what rating and reports stand on.

Rule 1: a report sees one moment of the ledger.
Rule 2: units are exact for any span, down to the microsecond; those of different fields are never added.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select

from meter_mw.ledger.records import BUILT_IN
from meter_mw.ledger.retention import check_kept
from meter_mw.ledger.spans import Span
from meter_mw.ledger.summing import Only, sums
from meter_mw.ledger.tables import SERIES, events, quantities
from meter_mw.periods import Period, calendar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement

    from meter_mw.ledger.database import Database

SAMPLE_US = 300_000_000
"""Five minutes, by which bandwidth is sampled where a percentile of it is billed."""


class Used(NamedTuple):
    """What a subject has used of one field of events' data on one plan (empty where events name none).

    A meter that counts bytes has the field `request_bytes` or `response_bytes`, any other its own name.
    """

    field: str
    units: int
    plan: str


class Sample(NamedTuple):
    """Units of one field in the five minutes from `start_us` on (µs since 1970, whole multiples of them)."""

    start_us: int
    units: int


class Step(Enum):
    """What a report tells apart in time: days and hours as the clocks of a zone have them."""

    DAY = "day"
    HOUR = "hour"


class UsageRow(NamedTuple):
    """Units of one field, of whatever was asked to be told apart; what was not is None.

    `start` is when the day or hour begins, in UTC. An absent account, plan or route is an empty text.
    """

    start: datetime | None
    subject: str | None
    source: str | None
    account: str | None
    plan: str | None
    route: str | None
    field: str
    units: int


def usage(database: Database, *, subject: str, period: Span, source: str | None = None) -> list[Used]:
    """Give what a subject has used in a period, by field and plan in that order; what came to 0 is left out.

    `source` leaves out what other services have recorded. Raises Purged, and the errors of the database.
    """
    found: Counter[tuple[str, str]] = Counter()
    with database.reading() as connection:
        for each in sums(connection, [period], ("plan",), Only((subject,), source)):
            found[each.field, each.key[0]] += each.units
    return [Used(field, units, plan) for (field, plan), units in sorted(found.items()) if units]


def usage_by(
    database: Database,
    by: Sequence[str],
    period: Span,
    *,
    step: Step | None = None,
    zone: str = "UTC",
    subjects: Sequence[str] | None = None,
    source: str | None = None,
) -> list[UsageRow]:
    """Give usage by some of `subject`, `source`, `account`, `plan` and `route`, in the order of the columns.

    `step` tells days or hours of a zone apart. Left out is what came to 0, subjects beside `subjects`, and
    what other services than `source` have recorded. Raises Purged, and the errors of the database.
    """
    cuts = [period] if step is None else list(steps(period, step, zone))
    starts = [cut.start_us for cut in cuts]
    found: Counter[tuple[int, tuple[str, ...], str]] = Counter()
    with database.reading() as connection:
        for each in sums(connection, cuts, by, Only(subjects, source), timed=step is not None):
            index = bisect_right(starts, each.start_us) - 1 if step else 0
            found[index, each.key, each.field] += each.units
    rows = [
        UsageRow(
            cuts[index].start if step else None,
            **{name: key[by.index(name)] if name in by else None for name in SERIES},
            field=field,
            units=units,
        )
        for (index, key, field), units in found.items()
        if units
    ]
    return sorted(rows, key=_order)


def samples(
    database: Database, *, subject: str, field: str, period: Span, source: str | None = None
) -> list[Sample]:
    """Give the five-minute sums of one field in a period, in order; those that came to 0 are left out.

    They are read from the events themselves: raises Purged where those are kept no longer.
    """
    within = _within(subject, period, source)
    start = (events.c.time_us - events.c.time_us % SAMPLE_US).label("start")
    if field in BUILT_IN:
        asked = select(start, func.sum(events.c[field])).where(*within)
    else:
        asked = (
            select(start, func.sum(quantities.c.units))
            .join_from(events, quantities, quantities.c.event_id == events.c.id)
            .where(*within, quantities.c.field == field)
        )
    with database.reading() as connection:
        check_kept(connection, "events", period)
        rows = connection.execute(asked.group_by(start).order_by(start)).all()
    return [Sample(start_us, int(units)) for start_us, units in rows if units]


def steps(period: Span, step: Step, zone: str) -> Iterator[Span]:
    """Give the days or hours of a zone that a period touches, as far as they lie in it."""
    windows = calendar(Period[step.name], zone, None).windows
    start_us = period.start_us
    while start_us < period.end_us:
        end_us = min(windows(start_us)[2], period.end_us)
        yield Span(start_us, end_us)
        start_us = end_us


def _order(row: UsageRow) -> tuple[object, ...]:
    return tuple("" if each is None else each for each in row[:-1])


def _within(subject: str, period: Span, source: str | None) -> tuple[ColumnElement[bool], ...]:
    within = (
        events.c.subject == subject,
        events.c.time_us >= period.start_us,
        events.c.time_us < period.end_us,
    )
    return within if source is None else (*within, events.c.source == source)
