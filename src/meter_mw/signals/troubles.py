"""What goes wrong for a subject: an unusual share of errors, and limits that are in its way. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import TYPE_CHECKING

from meter_mw.signals.crowd import LEAST
from meter_mw.signals.history import NORMAL
from meter_mw.signals.moves import Found
from meter_mw.signals.signal import score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.policy.signals import SignalRules
    from meter_mw.signals.history import History, Told

MONTH = 28
"""Days that are looked back to."""

_WEEK = 7
_LEAST_ERRORS = 10
"""Fewer errors, or refusals, are no sign of anything."""
_SURE = 20
"""From so many answers on a day tells a share."""
_LEAST_DAYS = 5
_LEAST_SHARE = 0.005
"""Chance is reckoned with this share of errors at least."""
_LEAST_SPREAD = 0.01


def errors(history: History, day: int, common: Mapping[int, float]) -> Found | None:
    """Say how large a part of a day's answers were errors, 429 left out; `common` is the part of most."""
    rules, told = history.rules, history.told(day)
    wrong = _errors(told)
    part = wrong / told.answers if told.answers else 0.0
    if told.answers < rules.least or wrong < _LEAST_ERRORS or part < rules.errors_share:
        return None
    past = _shares(history, day)
    if len(past) < _LEAST_DAYS:
        return None
    own = median(past)
    usual = max(own, common.get(day, 0.0))
    chance = sqrt(max(usual, _LEAST_SHARE) * (1 - usual) / told.answers)
    spread = max(NORMAL * median(abs(each - own) for each in past), chance, _LEAST_SPREAD)
    reached = (
        wrong / _LEAST_ERRORS,
        part / rules.errors_share,
        part / (rules.errors_times * usual) if usual else float(wrong),
        (part - usual) / spread / rules.deviations,
    )
    if min(reached) < 1:
        return None
    figures = {"answers": told.answers, "errors": wrong, "server_errors": told.server_errors}
    return Found(score(*reached), {**figures, "share": round(part, 4), "usual_share": round(usual, 4)})


def common_errors(histories: Sequence[History], days: range) -> dict[int, float]:
    """Give which part of answers were errors for most subjects on each day; 0 where too few can tell."""
    found = {}
    for day in days:
        told = [each.told(day) for each in histories]
        shares = [_errors(each) / each.answers for each in told if each.answers >= _SURE]
        found[day] = median(shares) if len(shares) >= LEAST else 0.0
    return found


def refused(history: History, day: int) -> Found | None:
    """Say how many requests of a week a limit stopped, or the app refused with 429."""
    if not _stopped(history.told(day)):
        return None
    week = [history.told(each) for each in range(day - _WEEK + 1, day + 1)]
    answers = sum(each.answers for each in week)
    stopped = sum(map(_stopped, week))
    part = stopped / answers if answers else 0.0
    reached = (part / history.rules.pressure_refused, stopped / _LEAST_ERRORS)
    if min(reached) < 1:
        return None
    return Found(score(*reached), {"answers": answers, "refused": stopped, "share": round(part, 4)})


@dataclass(frozen=True, slots=True)
class CapUse:
    """What part of a cap was used up at the end of each day (`date.toordinal`), in its period of then."""

    limit: str
    cap: int
    used: Mapping[int, int]

    def level(self, day: int) -> float:
        """Give the part."""
        return self.used.get(day, 0) / self.cap


def pressed(use: CapUse, rules: SignalRules, day: int) -> Found | None:
    """Say how long a subject has stood close to the end of a cap."""
    month = range(day - MONTH + 1, day + 1)
    above = sum(use.level(each) >= rules.pressure_level for each in month)
    reached = (above / MONTH / rules.pressure_time, use.level(day) / rules.pressure_level)
    if min(reached) < 1:
        return None
    figures = {"used": use.used.get(day, 0), "cap": use.cap, "level": round(use.level(day), 3)}
    return Found(score(*reached), {**figures, "days_above": above, "of_days": MONTH})


def _errors(told: Told) -> int:
    return told.client_errors - told.too_many + told.server_errors


def _stopped(told: Told) -> int:
    return max(told.too_many, told.limited)


def _shares(history: History, before: int) -> Sequence[float]:
    days = (history.told(day) for day in range(before - MONTH, before) if day not in history.holidays)
    return [_errors(each) / each.answers for each in days if each.answers >= _SURE]
