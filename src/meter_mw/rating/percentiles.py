"""Burstable billing: the rate of use that so many per cent of five-minute samples do not exceed. Pure."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

SAMPLE_S = 300
"""Seconds that a sample covers."""


def percentile(samples: Sequence[int], intervals: int, percent: Decimal) -> int:
    """Give the sample at a percentile, of so many intervals; those without a sample used nothing.

    The highest samples are left out, as many as make up the rest to 100 %, rounded down, and the next one
    counts: with 8,640 intervals (30 days) and 95 %, it is the 433rd highest.
    """
    left_out = intervals - ceil(intervals * Fraction(percent) / 100)
    ordered = sorted((each for each in samples if each > 0), reverse=True)
    return ordered[left_out] if left_out < len(ordered) else 0


def per_second(sample: int) -> Fraction:
    """Give a sample as units a second."""
    return Fraction(sample, SAMPLE_S)
