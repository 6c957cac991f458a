"""What the ledger tells of each day of UTC: who was answered how often, how it went, and by which keys.

Days come from the roll-ups of days, which are kept longest. Nothing here is for a bill.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, select

from meter_mw.ledger.records import DAY_US, HOUR_US
from meter_mw.ledger.retention import ALWAYS_US, check_kept, since
from meter_mw.ledger.summing import Only
from meter_mw.ledger.tables import events, usage_days, usage_hours
from meter_mw.model import REQUEST_EVENT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from meter_mw.ledger.database import Database
    from meter_mw.ledger.spans import Span

_MOST_ASKED = 500
"""Ids in one query."""


class DayRow(NamedTuple):
    """What became of requests in one day of UTC, of whatever was asked to be told apart.

    `key` has the values of what was asked for. `too_many` (429) are among the `client_errors`; `limited`
    counts what a limit stopped on its way.
    """

    day_us: int
    key: tuple[str, ...]
    answers: int
    successes: int
    client_errors: int
    server_errors: int
    too_many: int
    limited: int


class First(NamedTuple):
    """The first day of UTC, of those that the ledger keeps, on which a route gave a subject a 2xx."""

    subject: str
    route: str
    day_us: int


def daily(
    database: Database,
    by: Sequence[str],
    period: Span,
    *,
    subjects: Sequence[str] | None = None,
    source: str | None = None,
) -> list[DayRow]:
    """Give the days that begin in a period, by some of SERIES and in their order. Raises Purged."""
    table = usage_days.c
    keys = [table[name] for name in by]
    sums = (
        table.answers,
        table.status_2xx,
        table.status_4xx,
        table.status_5xx,
        table.status_429,
        table.limited,
    )
    asked = (
        select(table.day_us, *keys, *map(func.sum, sums))
        .where(table.day_us >= period.start_us, table.day_us < period.end_us)
        .where(*Only(subjects, source).of(usage_days))
        .group_by(table.day_us, *keys)
        .order_by(table.day_us, *keys)
    )
    with database.reading() as connection:
        check_kept(connection, "days", period)
        rows = connection.execute(asked).all()
    many = len(by)
    found = (DayRow(day_us, tuple(rest[:many]), *map(int, rest[many:])) for day_us, *rest in rows)
    return [row for row in found if row.answers or row.limited]


def firsts(database: Database, *, source: str | None = None) -> list[First]:
    """Give when each subject was first served by each route, by subject and route."""
    table = usage_days.c
    keys = (table.subject, table.route)
    asked = (
        select(*keys, func.min(table.day_us))
        .where(table.status_2xx > 0, *Only(None, source).of(usage_days))
        .group_by(*keys)
        .order_by(*keys)
    )
    with database.reading() as connection:
        return [First(*row) for row in connection.execute(asked)]


def kept_since(database: Database, stock: str) -> int | None:
    """Give since when the ledger has all of a stock, in µs since 1970; None where it has purged nothing."""
    with database.reading() as connection:
        since_us = since(connection, stock)
    return None if since_us == ALWAYS_US else since_us


def extent(database: Database, *, source: str | None = None) -> tuple[int, int] | None:
    """Give the first and the last day of UTC that the ledger has anything of."""
    day = usage_days.c.day_us
    asked = select(func.min(day), func.max(day)).where(*Only(None, source).of(usage_days))
    with database.reading() as connection:
        first, last = connection.execute(asked).one()
    return None if first is None else (int(first), int(last))


def keys_of(database: Database, subject: str, span: Span, *, source: str | None = None) -> Mapping[str, int]:
    """Give how many answers each key of a subject had, by pseudonym; "" stands for none.

    They are read from the events themselves: raises Purged where those are kept no longer.
    """
    name = func.coalesce(events.c.key, "")
    asked: Any = select(name, func.count()).where(
        events.c.subject == subject,
        events.c.type == REQUEST_EVENT,
        events.c.status.is_not(None),
        events.c.time_us >= span.start_us,
        events.c.time_us < span.end_us,
        *Only(None, source).of(events),
    )
    with database.reading() as connection:
        check_kept(connection, "events", span)
        return {key: int(count) for key, count in connection.execute(asked.group_by(name).order_by(name))}


def hours_of_day(
    database: Database, subject: str, span: Span, *, source: str | None = None
) -> Mapping[int, int]:
    """Give how many answers a subject had in each hour of the day (UTC, 0 to 23). Raises Purged."""
    table = usage_hours.c
    asked = (
        select(table.hour_us, func.sum(table.answers))
        .where(table.hour_us >= span.start_us, table.hour_us < span.end_us)
        .where(*Only((subject,), source).of(usage_hours))
        .group_by(table.hour_us)
    )
    found: Counter[int] = Counter()
    with database.reading() as connection:
        check_kept(connection, "hours", span)
        for hour_us, answers in connection.execute(asked):
            found[hour_us % DAY_US // HOUR_US] += int(answers)
    return {hour: answers for hour, answers in sorted(found.items()) if answers}


def recorded(database: Database, ids: Collection[str]) -> set[str]:
    """Give those of some ids whose events the ledger has."""
    listed = sorted(ids)
    found: set[str] = set()
    with database.reading() as connection:
        for first in range(0, len(listed), _MOST_ASKED):
            some = listed[first : first + _MOST_ASKED]
            found.update(connection.execute(select(events.c.id).where(events.c.id.in_(some))).scalars())
    return found
