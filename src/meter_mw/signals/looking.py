"""The signals of the customers of a policy, from the ledger."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw.ledger.daily import daily, extent, firsts, hours_of_day, kept_since, keys_of
from meter_mw.ledger.retention import Purged
from meter_mw.ledger.spans import Span
from meter_mw.policy.signals import Kind
from meter_mw.signals.caps import caller_of, cap_uses, day_of, start_of
from meter_mw.signals.finding import LONGEST_QUIET, Evidence, signals
from meter_mw.signals.firsts import TRIAL, Uptake
from meter_mw.signals.history import History, Told
from meter_mw.signals.leaks import Traces, looks
from meter_mw.signals.troubles import MONTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from meter_mw.ledger.daily import DayRow, First
    from meter_mw.ledger.database import Database
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.terms import KeyEntry
    from meter_mw.signals.signal import Signal
    from meter_mw.signals.troubles import CapUse

_FORERUN = 4 * 7
"""Days before those that days are compared with, in which these have something to be compared with."""


def look(
    database: Database,
    policy: Policy,
    entries: Mapping[str, KeyEntry],
    first: date,
    last: date,
) -> list[Signal]:
    """Give the signals of the days of UTC from `first` to `last`, which is to be over.

    `entries` are the subjects of the registry. Raises the errors of the ledger; where days were purged that
    would be compared with, less is told.
    """
    evidence = gathered(database, policy, entries, range(first.toordinal(), last.toordinal() + 1))
    found = signals(evidence, first, last, policy.signals)
    return [_seen(database, policy.source, each) if each.kind is Kind.SPIKE else each for each in found]


def gathered(database: Database, policy: Policy, entries: Mapping[str, KeyEntry], days: range) -> Evidence:
    """Give all that the signals of some days are found in. Raises the errors of the ledger."""
    rules, source = policy.signals, policy.source
    back = 7 * rules.weeks + LONGEST_QUIET + 2 * rules.drop_days + _FORERUN
    kept = kept_since(database, "days")
    whole = 0 if kept is None else day_of(kept) + 1
    since = max(days.start - back, whole)
    rows = daily(database, ("subject", "plan"), _span(since, days.stop), source=source)
    served = firsts(database, source=source)
    histories = [History(each, told, rules) for each, told in sorted(_told(rows).items())]
    plans = {row.key[0]: row.key[1] for row in rows}
    callers = [caller_of(policy, each, entries.get(each), plan) for each, plan in sorted(plans.items())]
    caps: Mapping[str, Sequence[CapUse]] = {}
    if Kind.PRESSURE not in rules.off:
        looked_at = range(max(since, days.start - 2 * MONTH), days.stop)
        caps = cap_uses(database, policy, callers, looked_at, since=whole)
    known = extent(database, source=source)
    return Evidence(
        histories,
        since,
        since if known is None else day_of(known[0]),
        _first_days(served),
        caps,
        _uptakes(database, source, served, days),
    )


def _told(rows: Sequence[DayRow]) -> dict[str, dict[int, Told]]:
    """Add up what became of the requests of each subject on each day, on whatever plan."""
    found: dict[str, dict[int, Told]] = defaultdict(dict)
    for row in rows:
        days, day = found[row.key[0]], day_of(row.day_us)
        more = Told(row.answers, row.client_errors, row.server_errors, row.too_many, row.limited)
        days[day] = Told(*(a + b for a, b in zip(days.get(day, Told()), more, strict=True)))
    return found


def _first_days(served: Sequence[First]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in served:
        found[each.subject] = min(found.get(each.subject, day_of(each.day_us)), day_of(each.day_us))
    return found


def _uptakes(database: Database, source: str, served: Sequence[First], days: range) -> list[Uptake]:
    """Give the routes that subjects were first served by not long before some days, or in them."""
    new = {
        (each.subject, each.route): day
        for each in served
        if (day := day_of(each.day_us)) in range(days.start - TRIAL, days.stop)
    }
    if not new:
        return []
    span = _span(days.start - TRIAL, days.stop)
    found: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    subjects = sorted({subject for subject, _ in new})
    for row in daily(database, ("subject", "route"), span, subjects=subjects, source=source):
        subject, route = row.key
        found[subject, route][day_of(row.day_us)] = row.successes
    return [Uptake(*key, day, found[key]) for key, day in sorted(new.items())]


def _seen(database: Database, source: str, spike: Signal) -> Signal:
    """Add what a spike looks like."""
    day = spike.day.toordinal()
    then = _traces(database, source, spike.subject, _span(day, day + 1))
    before = _traces(database, source, spike.subject, _span(day - MONTH, day))
    return replace(spike, evidence={**spike.evidence, **looks(then, before)})


def _traces(database: Database, source: str, subject: str, span: Span) -> Traces:
    try:
        keys = keys_of(database, subject, span, source=source)
    except Purged:
        keys = None
    try:
        hours = hours_of_day(database, subject, span, source=source)
    except Purged:
        hours = None
    try:
        rows = daily(database, ("route",), span, subjects=[subject], source=source)
    except Purged:
        rows = []
    routes: Counter[str] = Counter()
    for row in rows:
        routes[row.key[0]] += row.answers
    answers = sum(row.answers for row in rows)
    wrong = sum(row.client_errors for row in rows)
    return Traces(keys, hours, routes, wrong / answers if answers else 0.0)


def _span(first: int, stop: int) -> Span:
    return Span(start_of(first), start_of(stop))
