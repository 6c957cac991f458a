"""Calendar periods tile time, in every zone, and begin where a calendar on the wall says."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import TypeAlias
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter_mw.periods import Calendar, Period, Windows, calendar

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US

ZONES = (
    "UTC",
    "Europe/Paris",
    "Europe/London",
    "Europe/Lisbon",
    "America/New_York",
    "America/St_Johns",  # changed at 00:01 until 2011
    "America/Sao_Paulo",  # gaps at 00:00 until 2018
    "America/Havana",  # gaps at 00:00
    "America/Santiago",  # gaps at 24:00
    "America/Caracas",  # moved by half an hour, twice
    "America/Asuncion",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",  # gaps at 00:00
    "Asia/Kathmandu",  # +05:45
    "Asia/Kolkata",  # +05:30
    "Asia/Pyongyang",  # moved by half an hour, twice
    "Asia/Tehran",
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Chatham",  # +12:45, +13:45
    "Antarctica/Troll",  # changes by two hours
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FROM_2000_US, TO_2100_US = 946_684_800 * SECOND_US, 4_102_444_800 * SECOND_US

anchors = st.none() | st.dates(date(1996, 1, 1), date(2030, 12, 31)) | st.sampled_from([date(2024, 2, 29)])


@cache
def changes(zone: str) -> list[int]:
    """Find the instants from 2000 to 2100 at which the zone's distance from UTC changes."""
    place, found = ZoneInfo(zone), []

    def offset(at_us: int) -> timedelta | None:
        return (_EPOCH + timedelta(microseconds=at_us)).astimezone(place).utcoffset()

    for week_us in range(FROM_2000_US, TO_2100_US, 7 * DAY_US):
        early, late = week_us, week_us + 7 * DAY_US
        if offset(early) != offset(late):
            while late - early > 1:
                middle = (early + late) // 2
                early, late = (middle, late) if offset(middle) == offset(early) else (early, middle)
            found.append(late)
    return found


@st.composite
def instants(draw: st.DrawFn, zone: str) -> int:
    """Draw an instant from 2000 to 2100: any, or one within a day and a half of a change of the clocks."""
    if changes(zone) and draw(st.booleans()):
        return draw(st.sampled_from(changes(zone))) + draw(
            st.integers(-1, 1) | st.integers(-36 * HOUR_US, 36 * HOUR_US)
        )
    return draw(st.integers(FROM_2000_US, TO_2100_US))


@st.composite
def moments(draw: st.DrawFn, *periods: Period) -> tuple[Calendar, str, date | None, int]:
    """Draw a calendar of one of the periods, with its zone and anchor, and a now."""
    period = draw(st.sampled_from(periods or tuple(Period)))
    zone, anchor = draw(st.sampled_from(ZONES)), draw(anchors)
    return calendar(period, zone, anchor), zone, anchor, draw(instants(zone))


Moment: TypeAlias = "tuple[Calendar, str, date | None, int]"


def us(text: str) -> int:
    """Read an instant: ISO 8601, in UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def written(at_us: int) -> str:
    """Write an instant in UTC."""
    return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M")


def window(period: Period, zone: str, at: str, anchor: date | None = None) -> tuple[str, str]:
    """Give the opening and the closing of the window that contains an instant, in UTC."""
    _, opening, closing, _ = Calendar(period, zone, anchor).windows(us(at))
    return written(opening), written(closing)


def clock_time(zone: str, at_us: int) -> datetime:
    """Give what a clock in the zone reads."""
    return (_EPOCH + timedelta(microseconds=at_us)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


@given(moments())
def test_windows_increase_and_contain_now(moment: Moment) -> None:
    """The four boundaries rise, and now lies between the second and the third."""
    cal, _, _, now_us = moment
    before, opening, closing, after = cal.windows(now_us)
    assert before < opening <= now_us < closing < after


@given(moments())
def test_neighbours_agree(moment: Moment) -> None:
    """Asked from the next window, from the previous one, or from an edge, the boundaries are the same."""
    cal, _, _, now_us = moment
    before, opening, closing, after = cal.windows(now_us)
    assert cal.windows(opening) == (before, opening, closing, after)
    assert cal.windows(closing - 1) == (before, opening, closing, after)
    assert cal.windows(closing)[:3] == (opening, closing, after)
    assert cal.windows(after - 1)[:3] == (opening, closing, after)
    assert cal.windows(before)[1:] == (before, opening, closing)
    assert cal.windows(opening - 1)[1:] == (before, opening, closing)


@settings(max_examples=40)
@given(moments(), st.integers(2, 30))
def test_windows_tile_time(moment: Moment, count: int) -> None:
    """Walked from window to window, each begins where the last one ended."""
    cal, _, _, now_us = moment
    start_us = now_us
    for _ in range(count):
        table = cal.windows(now_us)
        now_us = table[2]
    for _ in range(count):
        assert cal.windows(now_us - 1)[2] == now_us
        now_us = cal.windows(now_us - 1)[1]
    assert now_us <= start_us < cal.windows(now_us)[2]


@given(moments(Period.DAY))
def test_a_day_begins_when_the_date_is_first_reached(moment: Moment) -> None:
    """At its opening the clock reads the new date, or has passed it; the microsecond before, it did not."""
    cal, zone, _, now_us = moment
    _, opening, _, _ = cal.windows(now_us)
    day = clock_time(zone, opening).date()
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - what the wall clock reads
    assert clock_time(zone, opening) - midnight < timedelta(hours=3)
    assert clock_time(zone, opening - 1) < midnight


@given(moments(Period.HOUR))
def test_an_hour_begins_on_the_full_hour_of_the_zone(moment: Moment) -> None:
    """Where an hour opens the zone's clock reads :00, and it reads :00 nowhere else inside."""
    cal, zone, _, now_us = moment
    _, opening, closing, _ = cal.windows(now_us)
    assert clock_time(zone, opening).minute == clock_time(zone, opening).second == 0
    minutes = [clock_time(zone, at).minute for at in range(opening + 60 * SECOND_US, closing, 60 * SECOND_US)]
    assert 0 not in minutes


@given(moments(Period.MONTH, Period.YEAR))
def test_months_and_years_begin_on_the_anchor(moment: Moment) -> None:
    """They begin on the day of the anchor, or on the last of the month where it has no such day."""
    cal, zone, anchor, now_us = moment
    _, opening, closing, _ = cal.windows(now_us)
    day = clock_time(zone, opening).date()
    wanted = anchor or date(2001, 1, 1)
    if zone != "Pacific/Apia" or day != date(2011, 12, 31):
        assert day.day == wanted.day or (day.day < wanted.day and (day + timedelta(days=1)).day == 1)
    assert closing - opening < 32 * DAY_US or day.month == wanted.month


@given(moments(Period.WEEK))
def test_weeks_begin_on_the_weekday_of_the_anchor(moment: Moment) -> None:
    """They begin on the weekday of the anchor, on Monday without one."""
    cal, zone, anchor, now_us = moment
    _, opening, _, _ = cal.windows(now_us)
    day = clock_time(zone, opening).date()
    if zone != "Pacific/Apia" or day != date(2011, 12, 31):
        assert day.weekday() == (0 if anchor is None else anchor.weekday())


@pytest.mark.parametrize(
    ("zone", "at", "opening", "closing", "hours"),
    [
        ("UTC", "2026-03-29T12:00", "2026-03-29T00:00", "2026-03-30T00:00", 24),
        ("Europe/Paris", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00", 23),
        ("Europe/Paris", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00", 25),
        ("Europe/Paris", "2026-07-14T12:00", "2026-07-13T22:00", "2026-07-14T22:00", 24),
        ("Australia/Lord_Howe", "2021-10-03T00:00", "2021-10-02T13:30", "2021-10-03T13:00", 23.5),
        ("Australia/Lord_Howe", "2021-04-04T00:00", "2021-04-03T13:00", "2021-04-04T13:30", 24.5),
        ("Asia/Kathmandu", "2026-01-01T00:00", "2025-12-31T18:15", "2026-01-01T18:15", 24),
        # The gap is at midnight: the day begins at 01:00 on the wall.
        ("America/Havana", "2026-03-08T12:00", "2026-03-08T05:00", "2026-03-09T04:00", 23),
        ("Asia/Beirut", "2022-03-27T12:00", "2022-03-26T22:00", "2022-03-27T21:00", 23),
        ("America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T03:00", "2018-11-05T02:00", 23),
        # Midnight comes twice: the day begins at the first.
        ("America/Havana", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00", 25),
        # 00:00 of the 18th is put back to 23:00 of the 17th, which lasts 25 hours.
        ("America/Sao_Paulo", "2018-02-17T12:00", "2018-02-17T02:00", "2018-02-18T03:00", 25),
        ("America/Sao_Paulo", "2018-02-18T02:30", "2018-02-17T02:00", "2018-02-18T03:00", 25),
        # 00:01 was put back to 23:01: a minute into the 7th it was the 6th again, and stays the 7th's.
        ("America/St_Johns", "2010-11-07T02:30", "2010-11-07T02:30", "2010-11-08T03:30", 25),
        ("America/St_Johns", "2010-11-07T02:45", "2010-11-07T02:30", "2010-11-08T03:30", 25),
        # The gap is around midnight, from 23:30 to 00:30: the day begins half an hour late.
        ("America/Toronto", "1919-03-31T12:00", "1919-03-31T04:30", "1919-04-01T04:00", 23.5),
        # 29 December is followed by 31 December.
        ("Pacific/Apia", "2011-12-30T09:59:59.999999", "2011-12-29T10:00", "2011-12-30T10:00", 24),
        ("Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00", 24),
    ],
)
def test_days(zone: str, at: str, opening: str, closing: str, hours: float) -> None:
    """Days are as long as their zone makes them, and begin where it begins them."""
    assert window(Period.DAY, zone, at) == (opening, closing)
    assert (us(closing) - us(opening)) / HOUR_US == hours


def test_a_skipped_day_has_no_window() -> None:
    """Apia's 29 and 31 December 2011 are neighbours: the 30th leaves no empty window between them."""
    table = Calendar(Period.DAY, "Pacific/Apia", None).windows(us("2011-12-30T12:00"))
    assert [written(each) for each in table] == [
        "2011-12-29T10:00",
        "2011-12-30T10:00",
        "2011-12-31T10:00",
        "2012-01-01T10:00",
    ]


@pytest.mark.parametrize(
    ("anchor", "at", "opening", "closing"),
    [
        (None, "2026-02-10T00:00", "2026-02-01T00:00", "2026-03-01T00:00"),
        (date(2025, 6, 29), "2026-02-28T00:00", "2026-02-28T00:00", "2026-03-29T00:00"),
        (date(2025, 6, 30), "2026-02-28T00:00", "2026-02-28T00:00", "2026-03-30T00:00"),
        (date(2025, 1, 31), "2026-02-27T23:59:59.999999", "2026-01-31T00:00", "2026-02-28T00:00"),
        (date(2025, 1, 31), "2026-02-28T00:00", "2026-02-28T00:00", "2026-03-31T00:00"),
        (date(2025, 1, 31), "2026-04-15T00:00", "2026-03-31T00:00", "2026-04-30T00:00"),
        (date(2025, 1, 31), "2028-02-29T00:00", "2028-02-29T00:00", "2028-03-31T00:00"),
        (date(2025, 1, 31), "2100-02-28T00:00", "2100-02-28T00:00", "2100-03-31T00:00"),
        (date(2025, 1, 15), "2026-01-01T00:00", "2025-12-15T00:00", "2026-01-15T00:00"),
    ],
)
def test_months(anchor: date | None, at: str, opening: str, closing: str) -> None:
    """A month begins on its anchor's day; a 29th, 30th or 31st clamps, and does not stay clamped."""
    assert window(Period.MONTH, "UTC", at, anchor) == (opening, closing)


@pytest.mark.parametrize(
    ("anchor", "at", "opening", "closing"),
    [
        (None, "2026-06-01T00:00", "2026-01-01T00:00", "2027-01-01T00:00"),
        (date(2024, 2, 29), "2027-06-01T00:00", "2027-02-28T00:00", "2028-02-29T00:00"),
        (date(2024, 2, 29), "2028-06-01T00:00", "2028-02-29T00:00", "2029-02-28T00:00"),
        (date(2024, 2, 29), "2100-06-01T00:00", "2100-02-28T00:00", "2101-02-28T00:00"),
        (date(2020, 7, 1), "2026-06-30T00:00", "2025-07-01T00:00", "2026-07-01T00:00"),
    ],
)
def test_years(anchor: date | None, at: str, opening: str, closing: str) -> None:
    """A year begins on its anchor's day; one of 29 February on the 28th where there is no 29th."""
    assert window(Period.YEAR, "UTC", at, anchor) == (opening, closing)


ORDINARY = (
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
)
"""Zones whose clocks change at night, but never at midnight, from 2000 on."""


def midnight(zone: str, year: int, month: int, day: int) -> int:
    """Give the instant at which a day begins, or the last one of its month if it has no such day."""
    months, month = divmod(month - 1, 12)
    last = monthrange(year + months, month + 1)[1]
    begins = datetime(year + months, month + 1, min(day, last), tzinfo=ZoneInfo(zone))
    return (begins - _EPOCH) // timedelta(microseconds=1)


@given(
    st.sampled_from(ORDINARY),
    st.dates(date(2000, 1, 1), date(2030, 12, 31))
    | st.sampled_from([date(2025, 1, n) for n in (29, 30, 31)]),
    st.integers(2001, 2098),
    st.integers(1, 12),
    st.floats(0, 1, exclude_max=True),
)
def test_months_from_any_anchor(zone: str, anchor: date, year: int, month: int, part: float) -> None:
    """From the anchor's day of a month, or its end, to that of the next, whatever the clocks do between."""
    boundaries = tuple(midnight(zone, year, month + step, anchor.day) for step in (-1, 0, 1, 2))
    now_us = boundaries[1] + int(part * (boundaries[2] - boundaries[1]))
    assert Calendar(Period.MONTH, zone, anchor).windows(now_us) == boundaries


@given(
    st.sampled_from(ORDINARY),
    st.dates(date(2000, 1, 1), date(2030, 12, 31)) | st.just(date(2024, 2, 29)),
    st.integers(2001, 2097),
    st.floats(0, 1, exclude_max=True),
)
def test_years_from_any_anchor(zone: str, anchor: date, year: int, part: float) -> None:
    """From the anchor's day of a year to that of the next; 29 February is the 28th in most years."""
    boundaries = tuple(midnight(zone, year + step, anchor.month, anchor.day) for step in (-1, 0, 1, 2))
    now_us = boundaries[1] + int(part * (boundaries[2] - boundaries[1]))
    assert Calendar(Period.YEAR, zone, anchor).windows(now_us) == boundaries


@pytest.mark.parametrize(
    ("zone", "hours"),
    [
        ("Europe/Paris", {23, 25}),
        ("America/New_York", {23, 25}),
        ("Pacific/Chatham", {23, 25}),
        ("Australia/Lord_Howe", {23.5, 24.5}),
        ("Antarctica/Troll", {22, 26}),
        ("America/Havana", {23, 25}),
        ("Asia/Beirut", {23, 25}),
    ],
)
def test_days_on_which_clocks_change(zone: str, hours: set[float]) -> None:
    """They are longer or shorter by what the clock was moved, and their neighbours are not."""
    cal, found = Calendar(Period.DAY, zone, None), set()
    for change in changes(zone):
        if change > us("2008-01-01T00:00"):
            before, opening, closing, after = cal.windows(change)
            found.add((closing - opening) / HOUR_US)
            assert opening - before == after - closing == DAY_US
    assert found == hours


@pytest.mark.parametrize(
    ("anchor", "opening", "closing"),
    [
        (None, "2026-11-16T00:00", "2026-11-23T00:00"),
        (date(2026, 1, 3), "2026-11-21T00:00", "2026-11-28T00:00"),
        (date(2030, 1, 1), "2026-11-17T00:00", "2026-11-24T00:00"),
    ],
)
def test_weeks(anchor: date | None, opening: str, closing: str) -> None:
    """21 November 2026, a Saturday, is in the week from its Monday, or from the weekday of an anchor."""
    assert window(Period.WEEK, "UTC", "2026-11-21T12:00", anchor) == (opening, closing)


@given(st.sampled_from(ZONES), st.integers(0, 6), anchors, st.data())
def test_weeks_begin_on_the_day_that_weeks_begin(
    zone: str, week_start: int, anchor: date | None, data: st.DataObject
) -> None:
    """Without an anchor they begin so many days after Monday; with one, on its weekday all the same."""
    now_us = data.draw(instants(zone))
    before, opening, closing, after = calendar(Period.WEEK, zone, anchor, week_start).windows(now_us)
    assert before < opening <= now_us < closing < after
    wanted = week_start if anchor is None else anchor.weekday()
    for each in (before, opening, closing, after):
        day = clock_time(zone, each).date()
        if zone != "Pacific/Apia" or day != date(2011, 12, 31):
            assert day.weekday() == wanted
    assert abs(closing - opening - 7 * DAY_US) <= 26 * HOUR_US


@pytest.mark.parametrize(
    ("week_start", "opening"),
    list(enumerate(("11-16", "11-17", "11-18", "11-19", "11-20", "11-21", "11-15"))),
)
def test_the_first_day_of_the_week(week_start: int, opening: str) -> None:
    """21 November 2026, a Saturday, is in the week from that day on which weeks begin."""
    cal = Calendar(Period.WEEK, "Europe/Paris", None, week_start)
    table = cal.windows(us("2026-11-21T12:00+01:00"))
    assert table[1] == us(f"2026-{opening}T00:00+01:00")
    assert [later - earlier for earlier, later in pairwise(table)] == [7 * DAY_US] * 3


@given(moments(*(each for each in Period if each is not Period.WEEK)), st.integers(0, 6))
def test_only_weeks_begin_with_the_week(moment: Moment, week_start: int) -> None:
    """The first day of the week moves no other period."""
    cal, zone, anchor, now_us = moment
    assert calendar(cal._period, zone, anchor, week_start).windows(now_us) == cal.windows(now_us)


@pytest.mark.parametrize(
    ("zone", "at", "opening", "closing"),
    [
        ("UTC", "2026-01-01T00:59:59.999999", "2026-01-01T00:00", "2026-01-01T01:00"),
        ("Asia/Kathmandu", "2026-01-01T00:00", "2025-12-31T23:15", "2026-01-01T00:15"),
        ("Asia/Kolkata", "2026-01-01T00:00", "2025-12-31T23:30", "2026-01-01T00:30"),
        ("Pacific/Chatham", "2026-01-01T00:00", "2025-12-31T23:15", "2026-01-01T00:15"),
        ("Europe/Paris", "2026-03-29T01:00", "2026-03-29T01:00", "2026-03-29T02:00"),
        ("Europe/Paris", "2026-10-25T01:30", "2026-10-25T01:00", "2026-10-25T02:00"),
        # 02:00 becomes 02:30, and 02:00 becomes 01:30: the hour around the change lasts 90 minutes.
        ("Australia/Lord_Howe", "2021-10-02T15:45", "2021-10-02T14:30", "2021-10-02T16:00"),
        ("Australia/Lord_Howe", "2021-04-03T15:15", "2021-04-03T14:00", "2021-04-03T15:30"),
        ("Australia/Lord_Howe", "2021-04-03T15:30", "2021-04-03T15:30", "2021-04-03T16:30"),
        # 02:30 became 03:00: the hour before it lasted 30 minutes.
        ("America/Caracas", "2016-05-01T06:45", "2016-05-01T06:30", "2016-05-01T07:00"),
        # 03:00 became 02:30: the hour lasted 90 minutes.
        ("America/Caracas", "2007-12-09T07:15", "2007-12-09T06:00", "2007-12-09T07:30"),
        ("Asia/Pyongyang", "2018-05-04T14:45", "2018-05-04T14:30", "2018-05-04T15:00"),
        ("Antarctica/Troll", "2026-03-29T01:30", "2026-03-29T01:00", "2026-03-29T02:00"),
    ],
)
def test_hours(zone: str, at: str, opening: str, closing: str) -> None:
    """Hours begin where the zone's clock reads a full hour, whatever the zone's distance from UTC."""
    assert window(Period.HOUR, zone, at) == (opening, closing)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
@pytest.mark.parametrize("length", [Period.SECOND, Period.MINUTE])
def test_seconds_and_minutes_are_those_of_utc(length: Period, zone: str) -> None:
    """They are whole since 1970 in every zone."""
    now_us = us("2026-01-01T00:00:59.999999")
    length_us = length.value * SECOND_US
    start = now_us // length_us * length_us
    expected: Windows = (start - length_us, start, start + length_us, start + 2 * length_us)
    assert Calendar(length, zone, None).windows(now_us) == expected


@pytest.mark.parametrize("period", [Period.DAY, Period.MONTH, Period.YEAR])
def test_the_last_microsecond_belongs_to_the_old_window(period: Period) -> None:
    """At 23:59:59.999999 of 31 December the old window counts, one microsecond later the new one."""
    cal = Calendar(period, "Europe/Paris", None)
    midnight_us = us("2026-12-31T23:00")
    assert cal.windows(midnight_us - 1)[2] == midnight_us
    assert cal.windows(midnight_us)[1] == midnight_us
    assert cal.windows(midnight_us - 1)[2] == midnight_us


@pytest.mark.parametrize(
    ("period", "zone", "anchor", "start", "end"),
    [
        (Period.DAY, "Australia/Lord_Howe", None, "2020-01-01T00:00", "2022-12-31T00:00"),
        (Period.DAY, "America/Havana", None, "2025-01-01T00:00", "2027-12-31T00:00"),
        (Period.HOUR, "Australia/Lord_Howe", None, "2021-04-01T00:00", "2021-04-07T00:00"),
        (Period.HOUR, "Asia/Pyongyang", None, "2015-08-13T00:00", "2015-08-17T00:00"),
        (Period.WEEK, "Pacific/Apia", date(2011, 12, 30), "2011-11-01T00:00", "2012-03-01T00:00"),
        (Period.MONTH, "America/Sao_Paulo", date(2020, 1, 31), "2000-01-01T00:00", "2100-01-01T00:00"),
        (Period.YEAR, "Asia/Beirut", date(2024, 2, 29), "2000-01-01T00:00", "2100-01-01T00:00"),
    ],
)
def test_every_window_of_a_stretch(
    period: Period, zone: str, anchor: date | None, start: str, end: str
) -> None:
    """Walked through years of clock changes, no window is skipped, empty, or more than twice its length."""
    cal = Calendar(period, zone, anchor)
    openings = [cal.windows(us(start))[1]]
    while openings[-1] < us(end):
        table = cal.windows(openings[-1])
        assert table[1] == openings[-1]
        openings.append(table[2])
    lengths = {(later - earlier) / SECOND_US / period.value for earlier, later in pairwise(openings)}
    assert min(lengths) > 0
    assert max(lengths) < 2


def test_the_words_and_lengths_of_periods() -> None:
    """They are those of the policy file and of the limit fields."""
    assert {period.word: period.value for period in Period} == {
        "second": 1,
        "minute": 60,
        "hour": 3_600,
        "day": 86_400,
        "week": 7 * 86_400,
        "month": 30 * 86_400,
        "year": 365 * 86_400,
    }


def test_one_calendar_serves_all_who_share_it() -> None:
    """The same period, zone and anchor are one calendar, whose last table is at hand."""
    assert calendar(Period.DAY, "UTC", None) is calendar(Period.DAY, "UTC", None)
    assert calendar(Period.DAY, "UTC", None) is not calendar(Period.DAY, "Europe/Paris", None)
