"""What the end of a period may bring: by weekday, by all days, or not at all, and always with a range."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invoicing.scenes import ACME, PRO, TEAM, Facts, billing, shop
from meter_mw.invoicing.previews import Preview, preview
from meter_mw.invoicing.projecting import Bound, Method, Projection

if TYPE_CHECKING:
    from meter_mw.policy.policy import Policy

PER_UNIT = {"currency": "USD", "charges": [{"meter": "requests", "unit": "1"}]}


def seen(policy: Policy, facts: Facts, now: date, hour: float = 0) -> Preview:
    """Preview November at a moment of it."""
    return preview(billing(policy, facts, now, hour), ACME, *ACME.named("2026-11"))


def totals(found: Preview) -> list[str]:
    bills = (found.so_far, found.low, found.expected, found.high)
    return [str(each.invoices[0].total) for each in bills]


def used(facts: Facts, first: date, units: list[int], plan: str = "pro") -> None:
    for number, each in enumerate(units):
        facts.use(first + timedelta(days=number), each, plan=plan, hour=6)


def test_each_weekday_goes_on_as_it_was() -> None:
    """Two weeks of 10 on working days and 2 at weekends; 16 days from Sunday 15 November to Monday 30."""
    facts = Facts()
    used(facts, date(2026, 11, 1), [2, 10, 10, 10, 10, 10, 2] * 2)
    found = seen(shop(pro=PER_UNIT), facts, date(2026, 11, 15))
    weekends, working = 5, 11
    assert totals(found) == ["108.00", *[f"{108 + weekends * 2 + working * 10}.00"] * 3]
    assert found.method == "the mean of the complete days of the same weekday, of the 14 days before today"


def test_the_range_is_that_of_the_same_weekday() -> None:
    facts = Facts()
    used(facts, date(2026, 11, 1), [1] * 7 + [3] * 7)
    assert totals(seen(shop(pro=PER_UNIT), facts, date(2026, 11, 15))) == ["28.00", "44.00", "60.00", "76.00"]


def test_a_short_history_is_a_mean_of_all_days() -> None:
    """Three days of 4, 6 and 8; 27 to come."""
    facts = Facts()
    used(facts, date(2026, 11, 1), [4, 6, 8])
    found = seen(shop(pro=PER_UNIT), facts, date(2026, 11, 4))
    assert totals(found) == ["18.00", f"{18 + 27 * 4}.00", f"{18 + 27 * 6}.00", f"{18 + 27 * 8}.00"]
    assert found.method == "the mean of all complete days, of the 3 days before today"


def test_today_brings_at_least_what_it_has_brought() -> None:
    facts = Facts()
    used(facts, date(2026, 11, 28), [5, 5, 20])
    assert totals(seen(shop(pro=PER_UNIT), facts, date(2026, 11, 30), 7)) == ["30.00"] * 4
    facts.used.pop()
    facts.use(date(2026, 11, 30), 1)
    assert totals(seen(shop(pro=PER_UNIT), facts, date(2026, 11, 30), 13)) == ["11.00", *["15.00"] * 3]


def test_the_period_before_tells_of_a_new_one() -> None:
    facts = Facts()
    used(facts, date(2026, 10, 4), [3] * 28)
    assert totals(seen(shop(pro=PER_UNIT), facts, date(2026, 11, 1))) == ["0.00", "90.00", "90.00", "90.00"]


def test_without_a_complete_day_nothing_is_added() -> None:
    facts = Facts()
    facts.use(date(2026, 11, 1), 7, hour=1)
    found = seen(shop(pro=PER_UNIT), facts, date(2026, 11, 1), 2)
    assert totals(found) == ["7.00"] * 4
    assert found.method == Method.NOTHING.value


def test_what_comes_is_of_the_plan_that_holds_now() -> None:
    facts = Facts()
    used(facts, date(2026, 11, 1), [10] * 5)
    used(facts, date(2026, 11, 6), [10] * 5, plan="team")
    found = seen(shop(pro=PRO, team=TEAM), facts, date(2026, 11, 11)).expected
    assert [(line.plan, str(line.amount)) for line in found.invoices[0].lines if line.amount] == [
        ("pro", "5.00"),
        ("pro", "3.30"),
        ("team", "50.00"),
        ("team", "12.50"),
    ]


def test_a_percentile_is_expected_to_stay() -> None:
    """Half of the first day's samples are of 1 MB a second: at most 0, at the lowest; and else 1."""
    burst = {"meter": "egress", "percentile": 95, "per": "1 MB", "unit": "2.00"}
    facts = Facts()
    for number in range(144):
        facts.use(date(2026, 11, 1), 300 * 10**6, field="response_bytes", hour=number / 12)
    found = seen(shop(pro={"currency": "USD", "charges": [burst]}), facts, date(2026, 11, 2))
    assert totals(found) == ["0.00", "0.00", "2.00", "2.00"]


def test_credits_pay_in_a_preview_too() -> None:
    facts = Facts()
    used(facts, date(2026, 11, 1), [1] * 10)
    policy = shop(pro={**PER_UNIT, "credits": [{"amount": 25, "from": "2026-11-01"}]})
    assert totals(seen(policy, facts, date(2026, 11, 11))) == ["0.00", "5.00", "5.00", "5.00"]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=29), st.integers(1, 29))
def test_the_range_holds_what_is_expected(units: list[int], day: int) -> None:
    """And nothing is projected below what was used."""
    facts = Facts()
    used(facts, date(2026, 11, 1), units[:day])
    found = seen(shop(pro=PER_UNIT), facts, date(2026, 11, day) + timedelta(days=1))
    amounts = [float(each) for each in totals(found)]
    assert amounts == sorted(amounts)


@pytest.mark.parametrize(("days", "method"), [(0, Method.NOTHING), (13, Method.LINEAR), (14, Method.WEEKDAY)])
def test_the_method_is_said(days: int, method: Method) -> None:
    found = Projection({date(2026, 11, 1) + timedelta(days=n): n for n in range(days)})
    assert found.method is method
    assert [found.of(date(2026, 11, 15), each) for each in Bound] == {
        Method.NOTHING: [0, 0, 0],
        Method.LINEAR: [0, 6, 12],
        Method.WEEKDAY: [0, 4, 7],
    }[method]
