"""What the ledger tells of usage, as typed rows: what rating and reports stand on.

Rule 1: a report sees one moment of the ledger.
Rule 2: units are exact for any span, down to the microsecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select

from meter_mw.ledger.records import BUILT_IN
from meter_mw.ledger.tables import events, quantities

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from meter_mw.ledger.database import Database
    from meter_mw.ledger.spans import Span

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


def usage(database: Database, *, subject: str, period: Span, source: str | None = None) -> list[Used]:
    """Give what a subject has used in a period, by field and plan in that order; what came to 0 is left out.

    `source` leaves out what other services have recorded. Raises the errors of the database.
    """
    within = _within(subject, period, source)
    plan = func.coalesce(events.c.plan, "").label("plan")
    found: dict[tuple[str, str], int] = {}
    with database.reading() as connection:
        sums = [func.sum(events.c[name]) for name in BUILT_IN]
        for named, *units in connection.execute(select(plan, *sums).where(*within).group_by(plan)):
            found |= {(field, named): int(each) for field, each in zip(BUILT_IN, units, strict=True)}
        asked = (
            select(quantities.c.field, plan, func.sum(quantities.c.units))
            .join_from(events, quantities, quantities.c.event_id == events.c.id)
            .where(*within)
            .group_by(quantities.c.field, plan)
        )
        found |= {(field, named): int(units) for field, named, units in connection.execute(asked)}
    return [Used(field, units, named) for (field, named), units in sorted(found.items()) if units]


def samples(
    database: Database, *, subject: str, field: str, period: Span, source: str | None = None
) -> list[Sample]:
    """Give the five-minute sums of one field in a period, in order; those that came to 0 are left out.

    They are read from the events themselves, so the period has to lie within their retention.
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
        rows = connection.execute(asked.group_by(start).order_by(start)).all()
    return [Sample(start_us, int(units)) for start_us, units in rows if units]


def _within(subject: str, period: Span, source: str | None) -> tuple[ColumnElement[bool], ...]:
    within = (
        events.c.subject == subject,
        events.c.time_us >= period.start_us,
        events.c.time_us < period.end_us,
    )
    return within if source is None else (*within, events.c.source == source)
