"""Spans of time that reports and invoices are about: calendar periods of a zone, from an anchor. Pure."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from meter_mw.model import MeterError
from meter_mw.periods import Period, calendar

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NAMED = re.compile(r"(?P<year>\d{4})(?:-(?P<month>\d{2})(?:-(?P<day>\d{2}))?)?", re.ASCII)


class SpanError(MeterError):
    """A text that names no period; says what was found and what was expected."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The time from `start_us` up to, and not including, `end_us`: µs since 1970 in UTC."""

    start_us: int
    end_us: int

    def __post_init__(self) -> None:
        """Refuse a span that ends before it starts."""
        if self.end_us < self.start_us:
            raise ValueError(f"a span from {self.start_us} to {self.end_us} µs ends before it starts")

    @property
    def start(self) -> datetime:
        """The start, in UTC."""
        return _EPOCH + self.start_us * _MICROSECOND

    @property
    def end(self) -> datetime:
        """The end, in UTC."""
        return _EPOCH + self.end_us * _MICROSECOND


def period_named(text: str, zone: str = "UTC", anchor: date | None = None) -> Span:
    """Give the month (`2026-11`), the day (`2026-11-21`) or the year (`2026`) of a zone.

    Months and years are those that begin, from the anchor, in the one named: with an anchor on the 21st,
    `2026-11` ends on 21 December. Raises SpanError.
    """
    match = _NAMED.fullmatch(text)
    if match is None:
        raise _unnamed(text)
    year, month, day = (int(each) if each else None for each in match.group("year", "month", "day"))
    try:
        kind, opens = _opening(year or 0, month, day, anchor)
        midday = datetime.combine(opens, time(12), ZoneInfo(zone))
        _, start_us, end_us, _ = calendar(kind, zone, anchor).windows((midday - _EPOCH) // _MICROSECOND)
    except (ValueError, OverflowError):
        raise _unnamed(text) from None
    return Span(start_us, end_us)


def period_at(now_us: int, zone: str = "UTC", anchor: date | None = None) -> Span:
    """Give the month that a moment is in, in µs since 1970."""
    _, start_us, end_us, _ = calendar(Period.MONTH, zone, anchor).windows(now_us)
    return Span(start_us, end_us)


def _opening(year: int, month: int | None, day: int | None, anchor: date | None) -> tuple[Period, date]:
    """Give which calendar is meant, and the day on which the period begins."""
    if month is None:
        month = anchor.month if anchor else 1
        return Period.YEAR, _clamped(year, month, anchor)
    if day is None:
        return Period.MONTH, _clamped(year, month, anchor)
    return Period.DAY, date(year, month, day)


def _clamped(year: int, month: int, anchor: date | None) -> date:
    return date(year, month, min(anchor.day if anchor else 1, monthrange(year, month)[1]))


def _unnamed(text: str) -> SpanError:
    expected = "a month, a day or a year such as 2026-11, 2026-11-21 or 2026"
    return SpanError(f"found {text[:40]!r}; expected {expected}")
