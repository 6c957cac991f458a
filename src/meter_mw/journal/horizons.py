"""Horizons: how long a destination surely knows an id again, so that a second copy is harmless."""

from __future__ import annotations

LONGEST_MARGIN = 3600.0
"""The seconds before a destination forgets an id at which that is not relied on; half of a short horizon."""


def has_passed(horizon: float | None, sent: float, now: float) -> bool:
    """Whether an id that was sent at a moment may be forgotten; all in seconds. Never where horizon is None.

    Of an id that is known for 24 hours, 23 hours after it was sent. A moment that is farther ahead than the
    margin is of a clock that was set back since: nobody knows how long ago it was.
    """
    if horizon is None:
        return False
    margin = min(LONGEST_MARGIN, horizon / 2)
    return not sent - margin <= now < sent + horizon - margin
