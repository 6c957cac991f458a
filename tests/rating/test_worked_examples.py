"""The worked examples of public billing documentation: their prices and usage give their amounts.

Each names where it stands. Amounts are facts of those pages, at the time of their reading.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from meter_mw.rating.invoices import rate
from rating.bills import (
    NOVEMBER,
    amounts,
    graduated,
    invoice,
    package,
    per_unit,
    percentage,
    prices,
    stretch,
    tariff,
    volume,
)

FONTS = ((5, "7"), (10, "6.5"), (None, "6"))


@pytest.mark.parametrize(("fonts", "due"), [(1, "7"), (5, "35"), (6, "39"), (20, "120"), (25, "150")])
def test_stripe_volume(fonts: int, due: str) -> None:
    """docs.stripe.com/subscriptions/pricing-models/tiered-pricing, "Volume-based pricing"."""
    assert invoice(prices(tariff("fonts", volume(*FONTS))), fonts=fonts).total == Decimal(due)


def test_stripe_graduated_at_the_edge() -> None:
    """docs.stripe.com/subscriptions/pricing-models/tiered-pricing, "Graduated pricing": 5 are 35 USD."""
    assert invoice(prices(tariff("fonts", graduated(*FONTS))), fonts=5).total == 35


def test_stripe_graduated_goes_on_where_the_first_tier_ends() -> None:
    """The same tiers: the first five at 7 USD, the next five at 6.5 USD, further ones at 6 USD each."""
    found = invoice(prices(tariff("fonts", graduated(*FONTS))), fonts=25)
    assert amounts(found) == ["35.00", "32.50", "90.00"]
    assert [line.tier for line in found.lines] == ["up to 5", "above 5, up to 10", "above 10"]


def test_stripe_proration() -> None:
    """docs.stripe.com/billing/subscriptions/prorations: 10 to 20 USD halfway is 5 USD more than 10."""
    halves = [stretch(prices(base="10"), days=15), stretch(prices(base="20"), days=15)]
    (found,) = rate(halves, NOVEMBER)
    assert amounts(found) == ["5.00", "10.00"]
    assert found.total == 10 + 5


def test_aws_s3_storage_tiers() -> None:
    """Amazon S3's FAQ of 2011 (quoted at filezoomer.com/2011/05): 52,900 GB-months cross three tiers."""
    tiers = graduated((1024, "0.140"), (50 * 1024, "0.125"), (None, "0.110"))
    found = invoice(prices(tariff("storage", tiers)), storage=52_900)
    assert amounts(found) == ["143.36", "6272.00", "187.00"]
    assert found.total == Decimal("6602.36")


def test_aws_s3_express_requests() -> None:
    """aws.amazon.com/s3/faqs, S3 Express One Zone, example 1: storage, writes and reads."""
    found = invoice(
        prices(
            tariff("storage", per_unit("0.11")),
            tariff("writes", per_unit("0.00113"), per=1000),
            tariff("reads", per_unit("0.00003"), per=1000),
        ),
        storage=10,
        writes=1_000_000,
        reads=9_000_000,
    )
    assert amounts(found) == ["1.10", "1.13", "0.27"]


def test_aws_lambda_beyond_the_free_tier() -> None:
    """aws.amazon.com/lambda/pricing, example 1: 3 million requests of 1 s with 512 MB."""
    found = invoice(
        prices(
            tariff("gb_seconds", per_unit("0.00001667"), included=400_000),
            tariff("requests", per_unit("0.20"), included=1_000_000, per=1_000_000),
        ),
        gb_seconds=1_500_000,
        requests=3_000_000,
    )
    assert amounts(found) == ["18.34", "0.40"]
    assert found.total == Decimal("18.74")


def test_cloudflare_workers_base_and_overage() -> None:
    """developers.cloudflare.com/workers/platform/pricing, example 1: 15 million requests of 7 ms."""
    found = invoice(
        prices(
            tariff("requests", per_unit("0.30"), included=10_000_000, per=1_000_000),
            tariff("cpu_ms", per_unit("0.02"), included=30_000_000, per=1_000_000),
            base="5.00",
        ),
        requests=15_000_000,
        cpu_ms=7 * 15_000_000,
    )
    assert amounts(found) == ["5.00", "1.50", "1.50"]
    assert found.total == 8


def test_lago_standard() -> None:
    """getlago.com/docs/guide/plans/charges/charge-models/standard: 1,000 calls at 0.05 USD."""
    assert invoice(prices(tariff("calls", per_unit("0.05"))), calls=1000).total == 50


def test_lago_graduated() -> None:
    """getlago.com/docs/guide/plans/charges/charge-models/graduated: 1 USD to 100, 0.50 to 200, then 0.10."""
    tiers = graduated((100, "1"), (200, "0.50"), (None, "0.10"))
    assert amounts(invoice(prices(tariff("calls", tiers)), calls=250)) == ["100.00", "50.00", "5.00"]


def test_lago_package() -> None:
    """docs.getlago.com/guide/plans/charges/charge-models/package: 201 units, 100 free, 5 USD per 100."""
    found = invoice(prices(tariff("calls", package(100, "5"), included=100)), calls=201)
    assert found.total == 10


def test_lago_percentage() -> None:
    """docs.getlago.com/guide/plans/charges/charge-models/percentage: 0.10 USD and 1.2 % of 50 USD."""
    listed = prices(
        tariff("transfers", per_unit("0.10"), included=3), tariff("turnover", percentage("1.2"), per=100)
    )
    assert invoice(listed, transfers=4, turnover=50_00).total == Decimal("0.70")


def test_lago_spending_minimum() -> None:
    """docs.getlago.com/guide/plans/charges/spending-minimum: 50 USD used of 100 USD gives a true-up of 50."""
    found = invoice(prices(tariff("users", per_unit("0.010")), minimum="100"), users=5000)
    assert amounts(found) == ["50.00", "50.00"]
    assert (found.subtotal, found.minimum, found.total) == (50, 50, 100)


def test_lago_minimum_of_five() -> None:
    """community.getlago.com/t/ability-to-define-minimums/55: 400 calls at 0.01 USD, at least 5 USD."""
    assert amounts(invoice(prices(tariff("calls", per_unit("0.01")), minimum="5"), calls=400)) == [
        "4.00",
        "1.00",
    ]


def test_burstable_bandwidth() -> None:
    """docs.swiftfederation.com/Billing/95th_Percentile: of 8,640 spots 432 are left out."""
    mbit = 125_000  # bytes a second
    bursts, sustained = (900 * mbit * 300,) * 432, (100 * mbit * 300,) * (8640 - 432)
    listed = prices(tariff("egress", per_unit("2"), per=mbit, percentile=Decimal(95)))
    assert invoice(listed, samples=bursts + sustained, egress=0).total == 100 * 2
    more = (*bursts, bursts[0], *sustained[1:])
    assert invoice(listed, samples=more, egress=0).total == 900 * 2
