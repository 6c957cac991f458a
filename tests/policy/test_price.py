"""The price of a plan: what is written becomes exact terms, and `check` says them back."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from loading import GOOD, complaints, good, of

from meter_mw.cli import main
from meter_mw.model import Count, Meter
from meter_mw.periods import Period
from meter_mw.policy.currencies import DECIMALS, Currency
from meter_mw.policy.prices import (
    Credit,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    PriceList,
    Proration,
    Rounding,
    Tariff,
    Tier,
    Volume,
)

REQUESTS = Meter("requests", Count.REQUESTS)
EGRESS = Meter("egress", Count.RESPONSE_BYTES)
USD = Currency("USD")


def test_every_kind_of_price_is_read() -> None:
    """Amounts are the decimals that stand there, in quotes or without."""
    plans = good("prices").plans
    first, second = plans["pro"].prices
    assert plans["free"].prices == ()
    assert first == PriceList(
        USD,
        Decimal("49.00"),
        tariffs=(
            Tariff(
                REQUESTS,
                Graduated((Tier(5_000_000, Decimal("0.00002")), Tier(None, Decimal("0.00001"), Decimal(3)))),
                included=1_000_000,
                source="plans.pro.price[0].charges[0]",
            ),
            Tariff(
                EGRESS,
                PerUnit(Decimal("0.09")),
                100 * 10**9,
                10**9,
                source="plans.pro.price[0].charges[1]",
                warn=(80 * 10**9, 1000 * 10**9),
            ),
            Tariff(
                Meter("turnover", Count.REPORTED),
                Percentage(Decimal("1.2")),
                per=100,
                source="plans.pro.price[0].charges[2]",
            ),
        ),
        minimum=Decimal(99),
        spend_cap=Decimal(500),
        credits=(
            Credit("prepaid credit", Decimal(100), date(2026, 1, 1), date(2027, 1, 1)),
            Credit("deposit", Decimal("12.34"), date(2026, 6, 1), subject="acme"),
        ),
        source="plans.pro.price[0]",
        warn=(Decimal("49.99"), Decimal("166.67"), Decimal(400)),
    )
    assert (first.period, first.rounding, first.proration) == (Period.MONTH, Rounding.HALF_UP, Proration.DAY)
    assert (second.since, second.rounding, second.proration) == (
        date(2026, 12, 1),
        Rounding.HALF_EVEN,
        Proration.NONE,
    )
    assert [each.pricing for each in second.tariffs] == [
        Volume((Tier(10, Decimal(7)), Tier(None, Decimal("6.5")))),
        Package(1000, Decimal("0.5")),
        PerUnit(Decimal(2)),
    ]
    assert [each.percentile for each in second.tariffs] == [None, None, Decimal(95)]
    assert plans["yen"].prices[0] == PriceList(
        Currency("JPY"), Decimal(5000), Period.YEAR, source="plans.yen.price"
    )


def base_of(amount: object) -> Decimal:
    """Give the base that a program's own mapping says."""
    return of(plans={"pro": {"price": {"currency": "KWD", "base": amount}}}).plans["pro"].prices[0].base


@given(st.decimals(0, 10**9, places=3))
def test_an_amount_is_read_as_it_is_written(amount: Decimal) -> None:
    """As a text, and as the Decimal of a program; no float stands between."""
    assert base_of(f"{amount:f}") == base_of(amount) == amount


def test_a_number_that_no_float_holds_is_kept(tmp_path: object) -> None:
    """0.1 + 0.2 is 0.3 here, and 12 decimals are as many as are written."""
    plans = good("prices").plans
    prices = plans["pro"].prices[0]
    pricing = prices.tariffs[0].pricing
    assert isinstance(pricing, Graduated)
    assert 5_000_000 * pricing.tiers[0].unit == 100
    assert base_of(0.1) + base_of(0.2) == Decimal("0.3")


@pytest.mark.parametrize("amount", [True, None, "NaN", "1_000", "٤٩", Decimal(-1), Decimal("Infinity"), [1]])
def test_what_is_no_amount_is_refused(amount: object) -> None:
    (complaint,) = complaints(
        {"version": 1, "service": "s", "plans": {"pro": {"price": {"currency": "USD", "base": amount}}}}
    )
    assert complaint.startswith("plans.pro.price.base: found ")
    assert "expected what a period costs without any usage" in complaint


def test_an_amount_may_come_from_the_environment() -> None:
    assert base_of("${FIVE}") == 5


def test_the_currencies_are_those_of_iso_4217() -> None:
    """The decimals of some, as its table has them."""
    assert all(len(code) == 3 and code.isupper() for code in DECIMALS)
    assert {code: DECIMALS[code] for code in ("USD", "EUR", "JPY", "KRW", "ISK", "KWD", "TND", "HUF")} == {
        "USD": 2,
        "EUR": 2,
        "JPY": 0,
        "KRW": 0,
        "ISK": 0,
        "KWD": 3,
        "TND": 3,
        "HUF": 2,
    }


def test_check_says_prices_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])  # which the command adds to
    result = CliRunner().invoke(
        main, ["check", str(GOOD / "prices.yaml")], env={"METER_KEY_SECRET": "canary-secret-0123456789"}
    )
    assert result.exit_code == 0, result.output
    said = result.stdout.partition("  pro\n    no limits\n")[2].partition("journal")[0]
    assert said.splitlines() == [
        "    price: 49.00 USD a month, at least 99 USD, at most 500 USD, announced at 49.99, 166.67, 400",
        (
            "      requests: 1,000,000 included, then 0.00002 each up to 5,000,000,"
            " 0.00001 each and 3 at once beyond"
        ),
        "      egress: 100 GB included, then 0.09 for 1 GB, announced at 80 GB, 1000 GB",
        "      turnover: 1.2 % of it, 100 being 1",
        "      prepaid credit: 100 USD from 2026-01-01 until 2027-01-01",
        "      deposit of acme: 12.34 USD from 2026-06-01",
        "    price from 2026-12-01: 59 USD a month, halves to even, parts of a period at full price",
        "      requests: all at the price of the last: 7 each up to 10, 6.5 each beyond",
        "      requests: 0.5 for each 1,000 begun",
        "      egress, a second, in 95 % of five minutes: 2 for 1 MB",
        "  yen",
        "    no limits",
        "    price: 5,000 JPY a year",
    ]
