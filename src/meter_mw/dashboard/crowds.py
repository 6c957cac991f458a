"""The customers' page: who uses the API how much, who fails, and who is listed and has not come."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.dashboard.periods import counts, days
from meter_mw.ledger.daily import daily, kept_since
from meter_mw.ledger.insight import outcomes
from meter_mw.ledger.reports import usage_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.dashboard.periods import Days
    from meter_mw.dashboard.sources import Sources
    from meter_mw.ledger.daily import DayRow
    from meter_mw.ledger.insight import Outcomes

MOST = 50
"""Customers on a page."""

SORTS = {
    "requests": "Requests",
    "errors": "Errors",
    "limited": "Stopped by limits",
    "subject": "Name",
}
"""What customers may be sorted by, and how it is called."""


class Row(NamedTuple):
    """A customer; `told` is None for one that was answered nothing. `by_day` are answers."""

    subject: str
    plan: str
    told: Outcomes | None
    response_bytes: int
    by_day: Sequence[int]


@dataclass(frozen=True, slots=True)
class Crowd:
    """What the customers' page shows: one sheet of those whose name has `words` in it."""

    days: Days
    rows: Sequence[Row]
    found: int
    sheet: int
    sheets: int
    words: str
    sort: str


def crowd(sources: Sources, many: int, words: str, sort: str, sheet: int) -> Crowd:
    """Give a sheet of customers. Raises NoLedger, and the errors of the ledger."""
    policy = sources.policy
    listed = {each.subject: each.plan or "default" for each in policy.keys.values()}
    entries = sources.entries() or {}
    plans = {**{name: each.plan or "default" for name, each in entries.items()}, **listed}
    with sources.ledger() as database:
        shown = days(sources.now_us, many, kept_since(database, "days"))
        told = {
            each.key["subject"]: each
            for each in outcomes(database, ["subject"], shown.span, source=policy.source)
        }
        names = [each for each in {*plans, *told} if words.lower() in each.lower()]
        names.sort(key=lambda each: _place(each, told.get(each), sort))
        sheets = max(1, -(-len(names) // MOST))
        sheet = min(max(1, sheet), sheets)
        chosen = names[(sheet - 1) * MOST : sheet * MOST]
        rows = daily(database, ("subject", "plan"), shown.span, subjects=chosen, source=policy.source)
        sent = {
            each.subject: each.units
            for each in usage_by(database, ("subject",), shown.span, subjects=chosen, source=policy.source)
            if each.field == "response_bytes"
        }
    by_subject: dict[str, list[DayRow]] = defaultdict(list)
    for row in rows:
        by_subject[row.key[0]].append(row)
    return Crowd(
        shown,
        [
            Row(
                each,
                plans.get(each) or _last_plan(by_subject[each]),
                told.get(each),
                sent.get(each, 0),
                [sum(day) for day in counts(shown, by_subject[each])],
            )
            for each in chosen
        ],
        len(names),
        sheet,
        sheets,
        words,
        sort,
    )


def last_plans(rows: Sequence[DayRow]) -> Mapping[str, str]:
    """Give the plan that each subject was on at last; the rows are by subject and plan, in order of days."""
    return {row.key[0]: row.key[1] for row in rows}


def _last_plan(rows: Sequence[DayRow]) -> str:
    return rows[-1].key[1] if rows else ""


def _place(name: str, told: Outcomes | None, sort: str) -> tuple[float, str]:
    if told is None or sort == "subject":
        return (1.0 if told is None and sort != "subject" else 0.0), name
    measured = {
        "errors": told.client_errors + told.server_errors,
        "limited": told.limited + told.too_many,
    }.get(sort, told.answers)
    return -float(measured), name
