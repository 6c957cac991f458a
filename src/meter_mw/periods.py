"""Calendar periods: where the windows of a cap begin and end, in any zone and from any anchor; pure."""

from __future__ import annotations

from bisect import bisect_right
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY = date(2001, 1, 1)  # also the first of a month and of a year
_SECOND_US = 1_000_000
_HOUR_US = 3_600 * _SECOND_US

Windows: TypeAlias = tuple[int, int, int, int]
"""Where the previous, the current and the next window open, and where the next one closes: µs since 1970."""


class Period(Enum):
    """A calendar period, with its nominal length in seconds (the `w` of a policy must not vary)."""

    SECOND = 1
    MINUTE = 60
    HOUR = 3_600
    DAY = 86_400
    WEEK = 604_800
    MONTH = 2_592_000
    YEAR = 31_536_000

    @property
    def word(self) -> str:
        """The period as the policy spells it."""
        return self.name.lower()


class Calendar:
    """The windows of one period in one zone from one anchor.

    Days and longer begin at local midnight: weeks on the anchor's weekday (without one, `week_start` days
    after Monday), months on its day (a 31st clamps to the month's end), years on its day and month. Where a
    clock change skips midnight the day begins at the first instant after the gap; where it repeats, at the
    first of the two. Hours begin where the zone's clock reads a full hour; minutes and seconds are UTC's.
    """

    __slots__ = ("_anchor", "_period", "_table", "_zone")

    def __init__(self, period: Period, zone: str, anchor: date | None, week_start: int = 0) -> None:
        self._period = period
        self._zone = ZoneInfo(zone)
        first = _MONDAY + timedelta(days=week_start) if period is Period.WEEK else _MONDAY
        self._anchor = anchor or first
        self._table: Windows = (0, 0, 0, 0)

    def windows(self, now_us: int) -> Windows:
        """Give the boundaries around `now_us`; the last answer is kept while it holds."""
        table = self._table
        if not table[1] <= now_us < table[2]:
            table = self._table = self._around(now_us)
        return table

    def _around(self, now_us: int) -> Windows:
        if self._period in (Period.SECOND, Period.MINUTE):
            length = self._period.value * _SECOND_US
            start = now_us - now_us % length
            return (start - length, start, start + length, start + 2 * length)
        if self._period is Period.HOUR:
            openings = sorted(set(self._hours_around(now_us)))
        else:
            index = self._index(self._local(now_us).date())
            openings = sorted({self._instant(self._opening(index + step)) for step in range(-4, 6)})
        here = bisect_right(openings, now_us) - 1
        return (openings[here - 1], openings[here], openings[here + 1], openings[here + 2])

    def _local(self, at_us: int) -> datetime:
        return (_EPOCH + timedelta(microseconds=at_us)).astimezone(self._zone)

    def _offset_us(self, at_us: int) -> int:
        offset = self._local(at_us).utcoffset() or timedelta()
        return offset // timedelta(microseconds=1)

    def _hours_around(self, now_us: int) -> Iterator[int]:
        """Every instant within some hours of now at which the zone's clock reads a full hour.

        Where a clock changes by half an hour, the hour around it lasts 90 minutes (Lord Howe) or 30
        (Caracas in 2016).
        """
        for offset in {self._offset_us(now_us + step * _HOUR_US) for step in range(-5, 6)}:
            first = now_us - (now_us + offset) % _HOUR_US
            for step in range(-5, 6):
                instant = first + step * _HOUR_US
                if (instant + self._offset_us(instant)) % _HOUR_US == 0:
                    yield instant

    def _index(self, day: date) -> int:
        if self._period is Period.DAY:
            return day.toordinal()
        if self._period is Period.WEEK:
            return (day.toordinal() - self._anchor.toordinal()) // 7
        if self._period is Period.MONTH:
            return day.year * 12 + day.month - 1
        return day.year

    def _opening(self, index: int) -> datetime:
        if self._period is Period.DAY:
            day = date.fromordinal(index)
        elif self._period is Period.WEEK:
            day = date.fromordinal(self._anchor.toordinal() + index * 7)
        elif self._period is Period.MONTH:
            year, month = divmod(index, 12)
            day = _clamped(year, month + 1, self._anchor.day)
        else:
            day = _clamped(index, self._anchor.month, self._anchor.day)
        return datetime(day.year, day.month, day.day)  # noqa: DTZ001 - a wall clock's reading, not an instant

    def _instant(self, wall: datetime) -> int:
        """Give the first instant at which the zone's clock reads `wall` or has passed it (PEP 495)."""
        before = wall.replace(tzinfo=self._zone, fold=0)
        after = wall.replace(tzinfo=self._zone, fold=1)
        early = _microseconds(after)
        late = _microseconds(before)
        if early >= late:
            return late
        while late - early > 1:
            middle = (early + late) // 2
            if self._local(middle).replace(tzinfo=None) < wall:
                early = middle
            else:
                late = middle
        return late


@lru_cache(maxsize=4096)
def calendar(period: Period, zone: str, anchor: date | None, week_start: int = 0) -> Calendar:
    """Give the one calendar of this period, zone, anchor and first day of the week (0 is Monday)."""
    return Calendar(period, zone, anchor, week_start)


def _clamped(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, monthrange(year, month)[1]))


def _microseconds(moment: datetime) -> int:
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
