"""No day and no unit is lost or counted twice, whichever plans come in which order."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from invoicing.scenes import PRO, TEAM, shop
from meter_mw.invoicing.stretches import Day, plans_of, stretches
from meter_mw.ledger.spans import Span
from meter_mw.periods import Period

POLICY = shop(pro=[PRO, {**TEAM, "from": "2026-11-10"}], team=TEAM, free=None)
PLANS = ("pro", "team", "free", "gone")
DAY_US = 86_400_000_000


def days(found: list[dict[str, int]]) -> list[Day]:
    """Give days of November with units by plan."""
    return [
        Day(
            date(2026, 11, 1) + timedelta(days=index),
            Span(index * DAY_US, (index + 1) * DAY_US),
            {plan: Counter(requests=units) for plan, units in used.items()},
        )
        for index, used in enumerate(found)
    ]


USE = st.dictionaries(st.sampled_from(PLANS), st.integers(1, 1000), max_size=3)


@settings(max_examples=50)
@given(st.lists(USE, min_size=1, max_size=30), st.sampled_from(PLANS[:3]))
def test_days_and_units_are_kept(found: list[dict[str, int]], listed: str) -> None:
    billed, _ = stretches(days(found), POLICY.plans, listed, Period.MONTH)
    plans = plans_of(days(found), listed)
    priced = [plan for plan in plans if plan in ("pro", "team")]
    assert sum(each.days for each in billed) == len(priced)
    assert sum(each.intervals for each in billed) == 288 * len(priced)
    units = sum(units for used in found for plan, units in used.items() if plan in ("pro", "team"))
    assert sum(each.quantity("requests") for each in billed) == units
    assert len({(each.plan, each.prices) for each in billed}) == len(billed)


@settings(max_examples=50)
@given(st.lists(USE, min_size=1, max_size=30), st.sampled_from(PLANS[:3]))
def test_a_day_has_a_plan_that_was_used_on_it_or_before(found: list[dict[str, int]], listed: str) -> None:
    plans = plans_of(days(found), listed)
    for index, (used, plan) in enumerate(zip(found, plans, strict=True)):
        if used:
            assert plan in used
        elif any(found[:index]):
            assert plan == plans[index - 1]
    assert any(found) or set(plans) == {listed}
