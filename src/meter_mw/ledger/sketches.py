"""Percentiles from counts by bucket: merged by addition, and never off by more than 2 %. Pure.

The buckets are those of DDSketch (Masson, Rim and Lee, VLDB 2019) without a bound on their number: bucket i
holds what is above g^(i-1) and up to g^i, and stands for 2 g^i / (g + 1), which is within ERROR of all of it.
"""

from __future__ import annotations

from math import ceil, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ERROR = 0.02
"""How far a percentile may be from the value that it stands for, as a share of that."""

ZERO = -1
"""The bucket of 0; 1 is in bucket 0."""

_GROWTH = (1 + ERROR) / (1 - ERROR)
_LOG = log(_GROWTH)


def bucket(value: int) -> int:
    """Give the bucket of a value, which is at least 0."""
    return ceil(log(value) / _LOG) if value else ZERO


def value_of(number: int) -> float:
    """Give the value that a bucket stands for."""
    return 2 * _GROWTH**number / (_GROWTH + 1) if number != ZERO else 0.0


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """Give the value that a share of all (0 to 1) do not exceed, or None where there are none.

    It is the one of rank floor(share * (n - 1)) from 0, to within ERROR.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"found the share {share}; expected one from 0 to 1")
    rank = int(share * (sum(counts.values()) - 1))
    for number in sorted(counts):
        rank -= counts[number]
        if rank < 0:
            return value_of(number)
    return None
