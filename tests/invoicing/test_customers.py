"""Which period a name means, for whom."""

from __future__ import annotations

from datetime import date

import pytest

from invoicing.scenes import SECRET, us
from meter_mw.invoicing.customers import Customer, customer
from meter_mw.ledger.spans import SpanError
from meter_mw.periods import Period
from meter_mw.policy.loader import load
from meter_mw.policy.terms import KeyEntry

PARIS = Customer("acme", "pro", "Europe/Paris", date(2026, 1, 31))


@pytest.mark.parametrize(
    ("who", "name", "kind", "start", "end"),
    [
        (Customer("a", "pro", "UTC"), "2026-11", Period.MONTH, "2026-11-01", "2026-12-01"),
        (Customer("a", "pro", "UTC"), "2026", Period.YEAR, "2026-01-01", "2027-01-01"),
        (Customer("a", "pro", "UTC"), "2026-11-21", Period.DAY, "2026-11-21", "2026-11-22"),
        (Customer("a", "pro", "UTC"), "2026-W47", Period.WEEK, "2026-11-16", "2026-11-23"),
        (Customer("a", "pro", "UTC", week_start=6), "2026-W47", Period.WEEK, "2026-11-22", "2026-11-29"),
        (PARIS, "2026-02", Period.MONTH, "2026-02-28", "2026-03-31"),
        (PARIS, "2026-03", Period.MONTH, "2026-03-31", "2026-04-30"),
        (PARIS, "2026", Period.YEAR, "2026-01-31", "2027-01-31"),
        (PARIS, "2026-W47", Period.WEEK, "2026-11-21", "2026-11-28"),
    ],
)
def test_a_name_is_the_period_that_begins_then(
    who: Customer, name: str, kind: Period, start: str, end: str
) -> None:
    found, span = who.named(name)
    period = who.billing(span)
    assert (found, period.start.isoformat(), period.end.isoformat()) == (kind, start, end)


@pytest.mark.parametrize("name", ["2026-13", "2026-W54", "last month", "26-11"])
def test_what_names_no_period_is_said(name: str) -> None:
    with pytest.raises(SpanError, match=f"found '{name}'; expected a"):
        PARIS.named(name)


def test_a_period_begins_at_midnight_of_the_zone() -> None:
    """31 March in Paris begins at 22:00 UTC of the 30th, as clocks are an hour further in summer."""
    _, span = PARIS.named("2026-03")
    assert span.start_us == us(date(2026, 3, 30), 22)
    assert PARIS.before(Period.MONTH, span) == PARIS.named("2026-02")[1]


def test_terms_are_the_policys_or_the_registrys_or_the_default() -> None:
    keys = [{"key": "k", "subject": "acme", "plan": "pro", "anchor": "2026-01-31"}]
    policy = load(
        {"version": 1, "service": "shop", "plans": {"pro": {"timezone": "Asia/Tokyo"}}, "keys": keys}, SECRET
    )
    assert customer(policy, "acme") == Customer("acme", "pro", "Asia/Tokyo", date(2026, 1, 31))
    assert customer(policy, "globex", KeyEntry("globex", "pro")) == Customer("globex", "pro", "Asia/Tokyo")
    assert customer(policy, "initech") == Customer("initech", "default", "UTC")
