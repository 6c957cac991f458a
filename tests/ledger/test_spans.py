"""Periods by their names, in any zone and from any anchor; spans in days, hours and what is left."""

from __future__ import annotations

from datetime import date
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.ledger.pieces import moments, pieces
from meter_mw.ledger.records import DAY_US, HOUR_US
from meter_mw.ledger.spans import Span, SpanError, period_at, period_named


@pytest.mark.parametrize(
    ("text", "zone", "anchor", "start", "end"),
    [
        ("2026-11", "UTC", None, "2026-11-01T00:00", "2026-12-01T00:00"),
        ("2026-11", "Europe/Paris", None, "2026-10-31T23:00", "2026-11-30T23:00"),
        ("2026-03", "Europe/Paris", None, "2026-02-28T23:00", "2026-03-31T22:00"),
        ("2026-11", "UTC", date(2026, 1, 21), "2026-11-21T00:00", "2026-12-21T00:00"),
        ("2026-02", "UTC", date(2026, 1, 31), "2026-02-28T00:00", "2026-03-31T00:00"),
        ("2026-11-21", "Asia/Kolkata", None, "2026-11-20T18:30", "2026-11-21T18:30"),
        ("2026-10-25", "Europe/Paris", None, "2026-10-24T22:00", "2026-10-25T23:00"),
        ("2026", "UTC", None, "2026-01-01T00:00", "2027-01-01T00:00"),
        ("2026", "UTC", date(2024, 2, 29), "2026-02-28T00:00", "2027-02-28T00:00"),
    ],
)
def test_a_period_by_its_name(text: str, zone: str, anchor: date | None, start: str, end: str) -> None:
    """It is the one that begins in what is named."""
    span = period_named(text, zone, anchor)
    assert (f"{span.start:%Y-%m-%dT%H:%M}", f"{span.end:%Y-%m-%dT%H:%M}") == (start, end)
    if len(text) == 7:
        assert period_at(span.start_us, zone, anchor) == span
        assert period_at(span.end_us - 1, zone, anchor) == span


@pytest.mark.parametrize("text", ["", "november", "2026-13", "2026-02-30", "26-11", "2026-1", "0000"])
def test_what_names_no_period_is_said(text: str) -> None:
    """The complaint says what was found and what was expected."""
    with pytest.raises(SpanError, match=r"found .*; expected a month, a day or a year such as 2026-11"):
        period_named(text)


def test_a_span_does_not_end_before_it_starts() -> None:
    """A frozen thing that cannot be wrong."""
    with pytest.raises(ValueError, match="from 2 to 1 µs ends before it starts"):
        Span(2, 1)


@given(
    st.lists(st.integers(-3 * DAY_US, 9 * DAY_US) | st.integers(-3, 9).map(lambda n: n * DAY_US), max_size=8)
)
def test_pieces_are_the_spans(bounds: list[int]) -> None:
    """Days, hours and the rest make up exactly the spans, whole hours and days as what they are."""
    cuts = sorted({*bounds})
    spans = [Span(start, end) for start, end in pairwise(cuts)]
    taken = pieces(spans)
    runs = sorted((*taken.days, *taken.hours, *taken.rest))
    assert sum(run.end_us - run.start_us for run in runs) == (cuts[-1] - cuts[0] if cuts else 0)
    assert all(one.end_us <= other.start_us for one, other in pairwise(runs))
    assert all(not run.start_us % DAY_US and not run.end_us % DAY_US for run in taken.days)
    assert all(not run.start_us % HOUR_US and not run.end_us % HOUR_US for run in taken.hours)
    assert all(run.start_us // HOUR_US == (run.end_us - 1) // HOUR_US for run in taken.rest)
    assert len(moments(taken.days, DAY_US)) * DAY_US == sum(run.end_us - run.start_us for run in taken.days)
