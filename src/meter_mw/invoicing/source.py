"""Where invoices have their usage from: the port, and the ledger behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from meter_mw.ledger.reports import Sample, Step, samples, usage_by
from meter_mw.ledger.totals import subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.ledger.database import Database
    from meter_mw.ledger.spans import Span


class DayUse(NamedTuple):
    """Units of one field that a subject used on one plan (empty if none is named) in a day of its zone."""

    day_us: int
    plan: str
    field: str
    units: int


class UsageSource(Protocol):
    """Tells of usage; both raise the errors of what is behind it."""

    def by_day(self, subject: str, span: Span, zone: str) -> Sequence[DayUse]:
        """Give what was used in a span, by the days of a zone."""

    def samples(self, subject: str, field: str, span: Span) -> Sequence[Sample]:
        """Give the five-minute sums of a field."""

    def subjects(self, span: Span) -> Sequence[str]:
        """Give who has used anything in the hours that a span touches."""


class LedgerUsage:
    """The usage of one service in a ledger."""

    def __init__(self, database: Database, source: str) -> None:
        self._database = database
        self._source = source

    def by_day(self, subject: str, span: Span, zone: str) -> Sequence[DayUse]:
        """Give what was used in a span, by the days of a zone."""
        rows = usage_by(
            self._database,
            ["plan"],
            span,
            step=Step.DAY,
            zone=zone,
            subjects=[subject],
            source=self._source,
        )
        return [
            DayUse(int(each.start.timestamp()) * 1_000_000, each.plan or "", each.field, each.units)
            for each in rows
            if each.start is not None
        ]

    def samples(self, subject: str, field: str, span: Span) -> Sequence[Sample]:
        """Give the five-minute sums of a field."""
        return samples(self._database, subject=subject, field=field, period=span, source=self._source)

    def subjects(self, span: Span) -> Sequence[str]:
        """Give who has used anything in the hours that a span touches."""
        with self._database.reading() as connection:
            return subjects(connection, self._source, span.start_us, span.end_us)
