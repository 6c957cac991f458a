"""Bills: changes of plan and of prices within a period, credits over periods, and what is not billed."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from invoicing.scenes import ACME, PRO, TEAM, Facts, bill, billing, shop, shown
from meter_mw.invoicing.bills import Evidence
from meter_mw.invoicing.comparing import Comparison, compare, sums
from meter_mw.rating.lines import Kind

NOV = [date(2026, 11, 1) + timedelta(days=n) for n in range(30)]


def test_a_month_on_one_plan() -> None:
    facts = Facts()
    facts.use(NOV[0], 70, hour=0)
    facts.use(NOV[29], 50, hour=23.99)
    facts.use(date(2026, 12, 1), 1_000, hour=0)
    found = bill(shop(pro=PRO), facts)
    assert shown(found) == [("pro", "base fee", "30.00"), ("pro", "requests, beyond the included", "2.00")]
    assert found.usage == (Evidence(NOV[0], "pro", "requests", 70), Evidence(NOV[29], "pro", "requests", 50))
    assert not found.is_open
    assert found.notes == ()


def test_a_month_without_usage_costs_the_base_of_the_plan_that_is_listed() -> None:
    assert shown(bill(shop(pro=PRO), Facts())) == [("pro", "base fee", "30.00")]


def test_a_plan_that_changes_is_due_by_the_day() -> None:
    """The day of the change, the 11th, belongs to the new plan: 10 days and 20 days."""
    facts = Facts()
    for day in NOV[:11]:
        facts.use(day, 10)
    for day in NOV[10:15]:
        facts.use(day, 100, plan="team", hour=20)
    found = bill(shop(pro=PRO, team=TEAM), facts)
    assert shown(found) == [
        ("pro", "base fee", "10.00"),
        ("pro", "requests, beyond the included", "7.60"),  # 110 - ceil(100 / 3)
        ("team", "base fee", "40.00"),
        ("team", "requests", "25.00"),
    ]


def test_a_plan_that_comes_back_is_one_stretch() -> None:
    facts = Facts()
    for day, plan in zip(NOV, ["pro"] * 5 + ["team"] * 10 + ["pro"] * 15, strict=True):
        facts.use(day, 1, plan=plan)
    assert shown(bill(shop(pro=PRO, team=TEAM), facts)) == [
        ("pro", "base fee", "20.00"),
        ("team", "base fee", "20.00"),
        ("team", "requests", "0.50"),
    ]


def test_days_before_the_first_usage_belong_to_the_first_plan() -> None:
    facts = Facts()
    facts.use(NOV[20], 1, plan="team")
    assert shown(bill(shop(pro=PRO, team=TEAM), facts))[0] == ("team", "base fee", "60.00")


def test_several_changes_in_one_day_leave_the_plan_that_goes_on() -> None:
    facts = Facts()
    for plan in ("free", "pro", "team"):
        facts.use(NOV[0], 1, plan=plan)
    facts.use(NOV[1], 1, plan="pro")
    assert shown(bill(shop(pro=PRO, team=TEAM, free=None), facts)) == [
        ("pro", "base fee", "30.00"),
        ("team", "requests", "0.05"),
    ]


def test_prices_change_on_their_day() -> None:
    """Usage is priced by the list of the day that it lies in."""
    dearer = {**PRO, "base": "60.00", "from": "2026-11-16", "charges": [{"meter": "requests", "unit": "1"}]}
    facts = Facts()
    facts.use(NOV[14], 150, hour=23.9)
    facts.use(NOV[15], 2, hour=0)
    found = bill(shop(pro=[PRO, dearer]), facts)
    assert shown(found) == [
        ("pro", "base fee", "15.00"),
        ("pro", "requests, beyond the included", "10.00"),
        ("pro", "base fee", "30.00"),
        ("pro", "requests", "2.00"),
    ]
    assert {line.source for line in found.invoices[0].lines if line.kind is Kind.BASE} == {
        "plans.pro.price[0]",
        "plans.pro.price[1]",
    }


def test_a_price_that_begins_later_leaves_the_days_before_free() -> None:
    facts = Facts()
    facts.use(NOV[0], 5)
    found = bill(shop(pro={**PRO, "from": "2026-11-16"}), facts)
    assert shown(found) == [("pro", "base fee", "15.00")]
    assert found.notes == ("plan pro has no price then, so nothing of it is billed: 5 requests",)


def test_an_event_without_a_plan_is_of_the_listed_one() -> None:
    facts = Facts()
    facts.use(NOV[0], 110, plan="")
    assert shown(bill(shop(pro=PRO), facts))[1] == ("pro", "requests, beyond the included", "1.00")


def test_what_is_not_billed_is_said() -> None:
    facts = Facts()
    facts.use(NOV[0], 5, plan="gone")
    facts.use(NOV[1], 6, plan="yearly")
    facts.use(NOV[2], 7, plan="pro", field="tokens")
    facts.use(NOV[2], 8, plan="pro", field="response_bytes")
    found = bill(shop(pro=PRO, yearly={**TEAM, "period": "year"}), facts)
    assert found.notes == (
        "plan gone is none of the policy's, so nothing of it is billed: 5 requests",
        "plan yearly is billed by year: 6 requests",
        "plan pro has no charge for 7 tokens",
    )


def test_a_year_is_billed_by_its_own_name() -> None:
    facts = Facts()
    facts.use(NOV[0], 6, plan="yearly")
    policy = shop(yearly={**TEAM, "period": "year"})
    assert shown(bill(policy, facts, "2026")) == [
        ("yearly", "base fee", "60.00"),
        ("yearly", "requests", "0.30"),
    ]


def test_bytes_are_found_under_their_field() -> None:
    facts = Facts()
    facts.use(NOV[0], 25 * 10**9, field="response_bytes")
    found = bill(
        shop(pro={"currency": "USD", "charges": [{"meter": "egress", "per": "1 GB", "unit": "0.09"}]}), facts
    )
    assert shown(found) == [("pro", "egress", "2.25")]


def test_a_percentile_is_of_all_five_minutes_of_the_stretch() -> None:
    """A month of 30 days has 8,640 of them; the 432 highest are left out."""
    burst = {"meter": "egress", "percentile": 95, "per": "1 MB", "unit": "2.00"}
    policy = shop(pro={"currency": "USD", "charges": [burst]})
    facts = Facts()
    for number in range(433):
        facts.use(NOV[0], 300 * 10**6, field="response_bytes", hour=number / 12)
    assert shown(bill(policy, facts)) == [("pro", "egress, 95 % of samples", "2.00")]
    facts.used.pop()
    assert shown(bill(policy, facts)) == []


# -- credits


def credited(**credit: object) -> object:
    return {**PRO, "credits": [{"amount": 70, "from": "2026-09-10", **credit}]}


def begun(day: date = date(2026, 9, 1)) -> Facts:
    """Give a customer whose first usage is on a day, and its last."""
    facts = Facts()
    facts.use(day, 1)
    return facts


@pytest.mark.parametrize(
    ("name", "paid", "left"),
    [
        ("2026-08", None, None),
        ("2026-09", "-30.00", "40.00"),
        ("2026-10", "-30.00", "10.00"),
        ("2026-11", "-10.00", "0.00"),
    ],
)
def test_a_credit_is_drawn_down_from_period_to_period(name: str, paid: str | None, left: str | None) -> None:
    (invoice,) = bill(shop(pro=credited()), begun(), name).invoices
    lines = [line for line in invoice.lines if line.kind is Kind.CREDIT]
    assert [str(line.amount) for line in lines] == ([paid] if paid else [])
    assert all(f"{left} left" in line.arithmetic for line in lines)


def test_a_credit_is_over_on_its_day() -> None:
    policy = shop(pro=credited(until="2026-11-01"))
    assert bill(policy, begun(), "2026-10").invoices[0].credits == -30
    assert bill(policy, begun(), "2026-11").invoices[0].credits == 0


def test_a_credit_waits_for_its_customer() -> None:
    """Who begins in November, by usage or by the anchor, has used nothing of it before."""
    policy = shop(pro=credited())
    assert bill(policy, begun(NOV[3])).invoices[0].lines[-1].arithmetic == "30.00 of 70.00 USD; 40.00 left"
    anchored = replace(ACME, anchor=date(2026, 10, 5))
    assert bill(policy, Facts(), "2026-10", anchored).invoices[0].drawn == {"prepaid credit": 30}
    assert "10.00 left" in bill(policy, Facts(), "2026-11", anchored).invoices[0].lines[-1].arithmetic


def test_a_credit_is_its_subjects() -> None:
    policy = shop(pro=credited(subject="globex"))
    assert bill(policy, Facts()).invoices[0].credits == 0
    globex = replace(ACME, subject="globex")
    assert bill(policy, Facts(), "2026-09", globex).invoices[0].credits == -30


def test_a_credit_goes_on_when_prices_or_the_plan_change() -> None:
    """It is known by its currency and name: of 70 USD, 30 were drawn in September and 40 are left."""
    credit = {"name": "deposit", "amount": 70, "from": "2026-09-10"}
    pro, team = ({**each, "credits": [credit]} for each in (PRO, TEAM))
    facts = Facts()
    facts.use(date(2026, 9, 20), 1)
    for month in (10, 11):
        facts.use(date(2026, month, 1), 1, plan="team")
    policy = shop(pro=pro, team=team)
    assert bill(policy, facts, "2026-10").invoices[0].credits == -40
    assert bill(policy, facts, "2026-11").invoices[0].credits == 0


def test_a_correction_of_the_past_is_in_what_is_left() -> None:
    facts = Facts()
    facts.use(date(2026, 9, 20), 200)
    assert bill(shop(pro=credited()), facts, "2026-10").invoices[0].credits == -30
    facts.use(date(2026, 9, 20), 300)
    assert bill(shop(pro=credited()), facts, "2026-10").invoices[0].credits == 0


# -- other prices


def test_other_prices_are_compared_before_credits() -> None:
    facts = Facts()
    facts.use(NOV[0], 120)
    now = billing(shop(pro=credited()), facts)
    then = billing(shop(pro={**PRO, "base": "20.00"}), facts)
    (found,) = compare(now, then, ACME, *ACME.named("2026-11"))
    assert (found.now, found.then, found.difference) == (32, 22, -10)
    assert str(found.percent) == "-31.2"


def test_other_currencies_are_not_compared() -> None:
    now, then = billing(shop(pro=PRO), Facts()), billing(shop(pro={**PRO, "currency": "EUR"}), Facts())
    found = list(compare(now, then, ACME, *ACME.named("2026-11")))
    assert [(each.currency, each.now, each.then, each.difference) for each in found] == [
        ("USD", 30, None, None),
        ("EUR", None, 30, None),
    ]
    assert all(each.percent is None for each in found)
    assert [(each.currency, each.now, each.then, each.more, each.less) for each in sums(found)] == [
        ("EUR", 0, 30, 1, 0),
        ("USD", 30, 0, 0, 1),
    ]


def test_a_plan_that_other_prices_do_not_know_is_noted() -> None:
    facts = Facts()
    facts.use(NOV[0], 3)
    now, then = billing(shop(pro=PRO), facts), billing(shop(team=TEAM), facts)
    (found,) = compare(now, then, ACME, *ACME.named("2026-11"))
    assert found == Comparison("acme", "USD", found.now, None, found.notes)
    assert found.notes[0].startswith("plan pro is none of the policy's")
