"""What is announced of a period: each threshold once, whoever looks and however often."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from meter_mw.policy.currencies import Currency
from meter_mw.rating.thresholds import Reached, reached
from meter_mw.rating.usage import BillingPeriod
from rating.bills import credit, invoice, per_unit, prices, tariff

WHO = ("urn:meter-mw:shop", "acme")
LISTED = prices(
    tariff("m", per_unit("0.10"), included=100, warn=(80, 100)),
    base="49",
    warn=(Decimal("49.00"), Decimal(50)),
    credits=(credit("1000"),),
)


def found(units: int) -> list[Reached]:
    return list(reached(WHO, LISTED, invoice(LISTED, m=units), {"m": units}))


def test_a_threshold_is_reached_with_its_last_unit() -> None:
    """Credits pay the invoice, and the spend is reached all the same."""
    assert [(each.of, each.threshold, each.found) for each in found(79)] == [("spend", 49, 49)]
    assert [(each.of, each.threshold, each.found) for each in found(110)] == [
        ("spend", 49, 50),
        ("spend", 50, 50),
        ("m", 80, 110),
        ("m", 100, 110),
    ]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=10))
def test_looking_again_makes_no_other_ids(counts: list[int]) -> None:
    """However often one looks while usage grows, there are as many ids as thresholds that are reached."""
    counts.sort()
    ids = {each.id for units in counts for each in found(units)}
    assert ids == {each.id for each in found(counts[-1])}
    assert len(ids) == len(found(counts[-1]))


def test_another_period_subject_currency_or_amount_has_other_ids() -> None:
    bill = invoice(LISTED, m=110)
    december = replace(bill, period=BillingPeriod(date(2026, 12, 1), date(2027, 1, 1)))
    ids = [
        each.id
        for who, each_bill in ((WHO, bill), (WHO, december), ((WHO[0], "globex"), bill))
        for each in reached(who, LISTED, each_bill, {"m": 110})
    ]
    assert len(set(ids)) == len(ids) == 12


def test_an_invoice_in_another_currency_reaches_no_spend() -> None:
    euros = replace(LISTED, currency=Currency("EUR"))
    assert [each.of for each in reached(WHO, euros, invoice(LISTED, m=110), {"m": 110})] == ["m", "m"]


def test_two_charges_of_one_meter_announce_a_count_once() -> None:
    twice = prices(*[tariff("m", per_unit("1"), warn=(5,))] * 2)
    assert len(list(reached(WHO, twice, invoice(twice, m=5), {"m": 5}))) == 1
