"""The days that a page shows: whole ones of UTC, as the ledger rolls them up, up to and with today. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.dashboard.wording import day
from meter_mw.ledger.records import DAY_US
from meter_mw.ledger.spans import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meter_mw.ledger.daily import DayRow

CHOICES = (7, 30, 90)
"""How many days a reader may ask for."""
USUAL = 30

OUTCOMES = (("served", "served"), ("client errors", "wrong"), ("server errors", "failed"))
"""What bars of days tell apart, from the bottom up, and the class of each in the style sheet."""


@dataclass(frozen=True, slots=True)
class Days:
    """Days up to, and with, today; fewer where the ledger keeps no more."""

    many: int
    starts_us: Sequence[int]

    @property
    def span(self) -> Span:
        """The time of all of them."""
        return Span(self.starts_us[0], self.starts_us[-1] + DAY_US)

    @property
    def labels(self) -> list[str]:
        """Their names."""
        return [day(each) for each in self.starts_us]


def start_of_day(moment_us: int) -> int:
    """Give when the day of UTC began that a moment is in."""
    return moment_us - moment_us % DAY_US


def days_asked(text: str | None) -> int:
    """Give how many days a reader asks for; the usual number where that is none of the choices."""
    return next((each for each in CHOICES if str(each) == text), USUAL)


def days(now_us: int, many: int, kept_us: int | None) -> Days:
    """Give the last days, as far as the ledger has all of them since `kept_us`."""
    today_us = start_of_day(now_us)
    starts = [today_us - back * DAY_US for back in reversed(range(many))]
    return Days(many, [each for each in starts if kept_us is None or each >= kept_us] or [today_us])


def counts(shown: Days, rows: Iterable[DayRow]) -> list[tuple[int, int, int]]:
    """Give what was served, and what were errors of clients and of the server, on each day."""
    found = dict.fromkeys(shown.starts_us, (0, 0, 0))
    for row in rows:
        served = row.answers - row.client_errors - row.server_errors
        told = (served, row.client_errors, row.server_errors)
        if row.day_us in found:
            a, b, c = found[row.day_us]
            found[row.day_us] = (a + told[0], b + told[1], c + told[2])
    return list(found.values())
