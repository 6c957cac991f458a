"""Plots: shapes are as high as their figures, and say them to those who do not see them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.dashboard.plots import Part, Point, bars, burn_down, spark, top
from meter_mw.dashboard.wording import amount, away, length, share, size


@given(st.integers(0, 10**15))
def test_a_scale_ends_at_a_round_number_near_the_highest(most: int) -> None:
    """One digit and zeros, and at least half of it is used."""
    end = top(most)
    assert re.fullmatch(r"[1-9]0*", str(end))
    assert most <= end <= max(1, 2 * most)


@given(st.lists(st.tuples(*[st.integers(0, 10**9)] * 3), min_size=1, max_size=40))
def test_bars_stand_upon_each_other_and_in_the_picture(rows: list[tuple[int, int, int]]) -> None:
    """Each as high as its share of the scale; what is more than nothing can be seen."""
    parts = [Part(name, name, [row[at] for row in rows]) for at, name in enumerate(("one", "two", "three"))]
    drawn = bars([str(each) for each in range(len(rows))], parts, "Rows")
    scale = top(max(map(sum, rows)))
    for at, name in enumerate(("one", "two", "three")):
        heights = [
            float(each)
            for each in re.findall(
                rf'class="{name}" x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', drawn
            )
        ]
        counts = [row[at] for row in rows if row[at]]
        assert heights == pytest.approx([max(2, count / scale * 200) for count in counts], abs=0.01)


def test_a_bar_says_its_figures() -> None:
    """And what is in its name is text."""
    drawn = bars(["<Mon>"], [Part("served", "served", [1200]), Part("failed", "failed", [0])], '"A" & b')
    assert "<title>&lt;Mon&gt;: served 1,200</title>" in drawn
    assert 'aria-label="&#34;A&#34; &amp; b: 1 bars, the highest 1,200"' in drawn


def test_what_burns_down_is_drawn_from_the_left_top() -> None:
    """Beyond its cap it lies at the bottom."""
    drawn = burn_down([Point(0, 1), Point(0.5, -0.2)], [], "Cap", "nothing left")
    assert '<polyline class="edge" points="0.0,0.0 500.0,200.0"/>' in drawn
    assert "pace" not in drawn


def test_a_spark_of_nothing_is_flat() -> None:
    """One day, or no call, is no division by nothing."""
    for counts in ([], [0], [0, 0, 0], [5]):
        assert "nan" not in spark(counts, "x")
    assert 'points="0.0,23.0 120.0,1.0"' in spark([0, 4], "x")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (size(0), "0 B"),
        (size(999), "999 B"),
        (size(1000), "1.0 kB"),
        (size(999_960), "1.0 MB"),
        (size(5 * 10**18), "5,000.0 PB"),
        (amount(1_500_000, "response_bytes"), "1.5 MB"),
        (amount(1_500_000, "tokens"), "1,500,000"),
        (share(0), "0.0 %"),
        (share(0.0001), "< 0.1 %"),
        (share(0.0314), "3.1 %"),
        (length(None), "-"),
        (length(850), "850 µs"),
        (length(12_400), "12 ms"),
        (length(1_440_000), "1.4 s"),
        (away(90_000_000), "1 minute"),
        (away(3 * 86_400_000_000 + 5), "3 days"),
        (away(999_999), "less than a second"),
    ],
)
def test_how_figures_are_written(said: str, words: str) -> None:
    """In units that a person reads."""
    assert said == words
