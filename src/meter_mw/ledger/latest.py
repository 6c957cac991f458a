"""The newest events of a subject, one by one, as the ledger has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select

from meter_mw.ledger.summing import Only
from meter_mw.ledger.tables import events

if TYPE_CHECKING:
    from meter_mw.ledger.database import Database


class Latest(NamedTuple):
    """An event; `status` and `duration_us` are None where it is not of an answer, absent texts are empty."""

    time_us: int
    id: str
    type: str
    method: str
    route: str
    status: int | None
    plan: str
    key: str
    requests: int
    request_bytes: int
    response_bytes: int
    duration_us: int | None


_TEXTS = ("method", "route", "plan", "key")


def latest(
    database: Database, subject: str, most: int, *, before_us: int | None = None, source: str | None = None
) -> list[Latest]:
    """Give a subject's newest events, the newest first, up to `most`; those before a moment, if one is told.

    What was purged is not among them. Raises the errors of the database.
    """
    columns = [
        func.coalesce(events.c[name], "").label(name) if name in _TEXTS else events.c[name]
        for name in Latest._fields
    ]
    asked = (
        select(*columns)
        .where(events.c.subject == subject, *Only(None, source).of(events))
        .order_by(events.c.time_us.desc(), events.c.id.desc())
        .limit(most)
    )
    if before_us is not None:
        asked = asked.where(events.c.time_us < before_us)
    with database.reading() as connection:
        return [Latest(*row) for row in connection.execute(asked)]
