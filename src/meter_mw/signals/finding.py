"""All signals of all subjects over a span of days, each once: on the first day that it can be told. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from meter_mw.policy.signals import Kind, SignalRules
from meter_mw.signals.crowd import common, with_holidays
from meter_mw.signals.firsts import first_use, taken_up
from meter_mw.signals.moves import drop, silence, spike
from meter_mw.signals.signal import Signal
from meter_mw.signals.troubles import common_errors, errors, pressed, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from meter_mw.signals.firsts import Uptake
    from meter_mw.signals.history import History
    from meter_mw.signals.moves import Found
    from meter_mw.signals.troubles import CapUse

QUIET = {
    Kind.DROP: 14,
    Kind.SILENCE: 1,
    Kind.SPIKE: 7,
    Kind.PRESSURE: 28,
    Kind.ERRORS: 7,
    Kind.FIRST_USE: 28,
    Kind.NEW_ROUTE: 28,
}
"""Days without a signal, after which the same one is told again; one that goes on is told once."""

LONGEST_QUIET = max(QUIET.values())

REFUSED = "refused"
"""What a pressure is about that is not of one cap."""


@dataclass(frozen=True)
class Evidence:
    """What signals are found in: days of subjects, how far their caps are used, and routes that are new.

    Days are numbers (`date.toordinal`): `since` is the first that the histories know of, `begun` the first
    that the ledger has anything of, and `served` says when each subject was first answered with 2xx.
    """

    histories: Sequence[History]
    since: int
    begun: int = 0
    served: Mapping[str, int] = field(default_factory=dict)
    caps: Mapping[str, Sequence[CapUse]] = field(default_factory=dict)
    uptakes: Sequence[Uptake] = ()


def signals(evidence: Evidence, first: date, last: date, rules: SignalRules) -> list[Signal]:
    """Give the signals of the days from `first` to `last`, in the order of days and subjects."""
    days = range(first.toordinal(), last.toordinal() + 1)
    looked_at = range(days.start - LONGEST_QUIET - 2 * rules.drop_days, days.stop)
    histories = with_holidays(evidence.histories, range(evidence.since, days.stop))
    crowd = common(histories, looked_at)
    wrong = common_errors(histories, looked_at)
    found: list[Signal] = []
    for history in histories:
        found += _of_subject(history, days, crowd, wrong)
        found += _of_limits(history, evidence.caps.get(history.subject, ()), days)
    found += _first_uses(evidence, days)
    found += _uptakes(evidence, days, rules)
    told = (each for each in found if each.kind not in rules.off)
    return sorted(told, key=lambda each: (each.day, each.subject, each.kind.value, each.about))


def _of_subject(
    history: History, days: range, crowd: Mapping[int, float], wrong: Mapping[int, float]
) -> Iterator[Signal]:
    def falls(day: int) -> Found | None:
        """Leave what is silent, or was in the days that are added up, to silence."""
        found = drop(history, day, crowd)
        added_up = range(day - history.rules.drop_days, day + 1)
        return None if found and any(silence(history, each, crowd) for each in added_up) else found

    looks: Mapping[Kind, Callable[[int], Found | None]] = {
        Kind.DROP: falls,
        Kind.SILENCE: lambda day: silence(history, day, crowd),
        Kind.SPIKE: lambda day: spike(history, day, crowd),
        Kind.ERRORS: lambda day: errors(history, day, wrong),
    }
    for kind, look in looks.items():
        for day, found in _onsets(look, days, QUIET[kind]):
            yield _signal(history.subject, kind, day, found)


def _of_limits(history: History, caps: Sequence[CapUse], days: range) -> Iterator[Signal]:
    quiet = QUIET[Kind.PRESSURE]
    for day, found in _onsets(partial(refused, history), days, quiet):
        yield _signal(history.subject, Kind.PRESSURE, day, found, REFUSED)
    for use in caps:
        for day, found in _onsets(partial(pressed, use, history.rules), days, quiet):
            yield _signal(history.subject, Kind.PRESSURE, day, found, use.limit)


def _first_uses(evidence: Evidence, days: range) -> Iterator[Signal]:
    calls = {each.subject: each for each in evidence.histories}
    for subject, day in evidence.served.items():
        if day in days and day > evidence.begun and subject in calls:
            yield _signal(subject, Kind.FIRST_USE, day, first_use(calls[subject], day))


def _uptakes(evidence: Evidence, days: range, rules: SignalRules) -> Iterator[Signal]:
    for uptake in evidence.uptakes:
        taken = taken_up(uptake, evidence.served.get(uptake.subject), rules)
        if taken is not None and taken[0] in days:
            yield _signal(uptake.subject, Kind.NEW_ROUTE, *taken, uptake.route)


def _onsets(look: Callable[[int], Found | None], days: range, quiet: int) -> Iterator[tuple[int, Found]]:
    """Give the days on which something is found that was not in the quiet days before."""
    last: int | None = None
    for day in range(days.start - quiet, days.stop):
        found = look(day)
        if found is None:
            continue
        if day in days and (last is None or day - last > quiet):
            yield day, found
        last = day


def _signal(subject: str, kind: Kind, day: int, found: Found, about: str = "") -> Signal:
    return Signal(subject, kind, date.fromordinal(day), found.score, found.evidence, about)
