"""Signals, and thresholds of bills, as events: their ids are of what is told, so it counts once. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from meter_mw.model import BILLING_THRESHOLD_EVENT, SIGNAL_EVENT, SubjectId, UsageEvent
from meter_mw.policy.terms import digest_of
from meter_mw.signals.caps import day_of, start_of
from meter_mw.signals.finding import QUIET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.periods import Period
    from meter_mw.policy.policy import Policy
    from meter_mw.rating.thresholds import Reached
    from meter_mw.rating.usage import BillingPeriod
    from meter_mw.signals.signal import Figure, Signal


@dataclass(frozen=True, slots=True)
class Announcement:
    """A threshold that the bill of a subject has reached in a period, on a plan."""

    subject: str
    plan: str
    kind: Period
    period: BillingPeriod
    reached: Reached


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told of a subject: a signal, or a threshold of its bill, and the event that says so.

    `alike` are the ids of events that would say the same, one of which is enough: usage that arrives late, or
    other thresholds, may have a signal told on another day than it was.
    """

    day: date
    subject: str
    kind: str
    about: str
    score: float | None
    evidence: Mapping[str, Figure]
    event: UsageEvent
    alike: frozenset[str]


BILL = "bill"
"""The kind of a notice of a bill."""


def of_signal(policy: Policy, signal: Signal) -> Notice:
    """Give the notice of a signal. Its id is of the subject, kind, day and what it is about."""
    kind, quiet = signal.kind.value, QUIET[signal.kind]
    data: dict[str, object] = {"day": signal.day.isoformat(), "score": signal.score}
    if signal.about:
        data["about"] = signal.about
    data |= {"evidence": dict(signal.evidence), "policy": policy.digest}
    ended_us = start_of(signal.day.toordinal() + 1)
    event = UsageEvent(
        _id(policy, signal, signal.day),
        policy.source,
        SubjectId(signal.subject),
        ended_us,
        data,
        SIGNAL_EVENT.format(kind),
    )
    near = (signal.day + timedelta(days=away) for away in range(-quiet, quiet + 1))
    alike = frozenset(_id(policy, signal, day) for day in near)
    return Notice(signal.day, signal.subject, kind, signal.about, signal.score, signal.evidence, event, alike)


def _id(policy: Policy, signal: Signal, day: date) -> str:
    parts = (policy.source, signal.subject, signal.kind.value, day.isoformat(), signal.about)
    return f"signal-{digest_of(*parts, size=16)}"


def of_bill(policy: Policy, announcement: Announcement, now_us: int) -> Notice:
    """Give the notice of a threshold of a bill. Its id is the same in all of the period.

    Amounts of money are texts, as JSON's numbers are floats to most readers.
    """
    reached, period = announcement.reached, announcement.period
    figures: dict[str, Figure] = {"threshold": _plain(reached.threshold), "found": _plain(reached.found)}
    if reached.currency is not None:
        figures["currency"] = reached.currency
    figures |= {
        "period": announcement.kind.word,
        "since": period.start.isoformat(),
        "until": period.end.isoformat(),
    }
    data: dict[str, object] = {
        "of": reached.of,
        **figures,
        "plan": announcement.plan,
        "policy": policy.digest,
    }
    subject = SubjectId(announcement.subject)
    name = f"billing-threshold-{reached.id}"
    event = UsageEvent(name, policy.source, subject, now_us, data, BILLING_THRESHOLD_EVENT)
    day = date.fromordinal(day_of(now_us))
    return Notice(day, announcement.subject, BILL, reached.of, None, figures, event, frozenset([name]))


def _plain(amount: Decimal | int) -> str | int:
    return f"{amount:f}" if isinstance(amount, Decimal) else amount
