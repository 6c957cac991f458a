"""Percentiles are within their error, whatever is counted and however it is merged."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.ledger.sketches import ERROR, ZERO, bucket, quantile, value_of

VALUES = st.lists(st.integers(0, 2**52), min_size=1, max_size=60)


@given(VALUES, st.floats(0, 1))
def test_a_percentile_is_within_its_error(values: list[int], share: float) -> None:
    """What is told is within 2 % of the value of that rank."""
    exact = sorted(values)[int(share * (len(values) - 1))]
    told = quantile(Counter(map(bucket, values)), share)
    assert told is not None
    assert abs(told - exact) <= ERROR * exact * (1 + 1e-9)


@given(VALUES, VALUES, st.floats(0, 1))
def test_sketches_of_two_processes_are_added(ours: list[int], theirs: list[int], share: float) -> None:
    """The sum of two sketches is the sketch of all."""
    merged = Counter(map(bucket, ours)) + Counter(map(bucket, theirs))
    assert merged == Counter(map(bucket, ours + theirs))
    assert quantile(merged, share) == quantile(Counter(map(bucket, theirs + ours)), share)


@given(st.integers(1, 2**52), st.integers(1, 2**52))
def test_buckets_are_in_the_order_of_values(one: int, other: int) -> None:
    """A greater value is in no lesser bucket, and 0 is below them all."""
    assert (bucket(one) <= bucket(other)) == (one <= other) or bucket(one) == bucket(other)
    assert ZERO < bucket(one)


def test_what_nothing_was_counted_of_has_no_percentile() -> None:
    """None is not 0; and a share is at most the whole."""
    assert quantile({}, 0.5) is None
    assert quantile({ZERO: 3}, 0.99) == value_of(ZERO) == 0
    with pytest.raises(ValueError, match="found the share 99; expected one from 0 to 1"):
        quantile({0: 1}, 99)
