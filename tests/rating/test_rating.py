"""The laws of rating, for any prices and any usage."""

from __future__ import annotations

import random
import re
from datetime import date
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter_mw.policy.currencies import DECIMALS, Currency
from meter_mw.policy.prices import (
    Graduated,
    Package,
    Percentage,
    PerUnit,
    PriceList,
    Pricing,
    Proration,
    Rounding,
    Tariff,
    Tier,
    Volume,
    list_on,
)
from meter_mw.rating.amounts import rounded, total, written
from meter_mw.rating.invoices import Balance, Invoice, rate
from meter_mw.rating.lines import Kind
from meter_mw.rating.percentiles import percentile
from meter_mw.rating.usage import BillingPeriod, Stretch, Usage, combined
from rating.bills import (
    NOVEMBER,
    USD,
    amounts,
    balances,
    credit,
    graduated,
    invoice,
    meter,
    package,
    per_unit,
    percentage,
    prices,
    stretch,
    tariff,
    volume,
)

PRICES = st.decimals(0, 1000, places=5)
MONEY = st.decimals(0, 1000, places=2)
UNITS = st.integers(0, 300)


@st.composite
def tier_lists(draw: st.DrawFn) -> tuple[Tier, ...]:
    """Draw tiers with edges that usage of 300 units meets."""
    edges = sorted(draw(st.sets(st.integers(1, 250), max_size=4)))
    return tuple(Tier(edge, draw(PRICES), Decimal(draw(st.integers(0, 20)))) for edge in (*edges, None))


@st.composite
def tariffs(draw: st.DrawFn, *, monotone: bool = False) -> Tariff:
    """Draw a tariff; a `monotone` one is not by volume."""
    kinds: list[st.SearchStrategy[Pricing]] = [
        PRICES.map(PerUnit),
        tier_lists().map(Graduated),
        st.builds(Package, st.integers(1, 50), PRICES),
        PRICES.map(Percentage),
    ]
    kinds += [] if monotone else [tier_lists().map(Volume)]
    pricing = draw(st.one_of(kinds))
    included = draw(st.integers(0, 100))
    if isinstance(pricing, Graduated | Volume) and pricing.tiers[0].up_to is not None:
        included = min(included, pricing.tiers[0].up_to - 1)
    return Tariff(meter("m"), pricing, included, draw(st.sampled_from((1, 10, 1000))))


@st.composite
def lists(draw: st.DrawFn, *, monotone: bool = False) -> PriceList:
    """Draw a price list."""
    currency = draw(st.sampled_from((USD, Currency("JPY"), Currency("KWD"))))
    whole = st.decimals(0, 1000, places=currency.decimals)
    base, minimum = draw(whole), draw(whole)
    return prices(
        *draw(st.lists(tariffs(monotone=monotone), max_size=3)),
        base=str(base),
        minimum=str(minimum),
        spend_cap=draw(st.none() | whole.map(Decimal(1000).__add__)),
        rounding=draw(st.sampled_from(Rounding)),
        currency=currency,
    )


def of(listed: PriceList, *usage: Usage, days: int = 30) -> Invoice:
    """Rate rows of usage in November."""
    (found,) = rate([Stretch("pro", listed, days, usage, days * 288)], NOVEMBER)
    return found


# -- however usage comes


@given(lists(), st.lists(UNITS, max_size=8), st.randoms(use_true_random=False))
def test_splitting_and_ordering_change_nothing(
    listed: PriceList, parts: list[int], dice: random.Random
) -> None:
    """Usage in parts of any size and order costs what it costs in one; graduated tiers most of all."""
    rows = [Usage("m", units) for units in parts]
    dice.shuffle(rows)
    assert of(listed, *rows) == of(listed, Usage("m", sum(parts)))


@settings(max_examples=50)
@given(lists(), st.lists(st.lists(UNITS, max_size=3), min_size=30, max_size=30))
def test_the_days_together_are_the_month(listed: PriceList, days: list[list[int]]) -> None:
    """What the days have used, summed up by day, costs what the month has used."""
    of_days = [combined(Usage("m", units) for units in day) for day in days]
    month = combined(row for day in of_days for row in day)
    everything = Usage("m", sum(sum(day) for day in days))
    assert (
        of(listed, *month) == of(listed, *(row for day in of_days for row in day)) == of(listed, everything)
    )


@given(lists(monotone=True), UNITS, UNITS)
def test_more_usage_never_costs_less(listed: PriceList, units: int, more: int) -> None:
    """Under every kind of price but volume."""
    assert of(listed, Usage("m", units)).total <= of(listed, Usage("m", units + more)).total


def test_one_more_unit_may_cost_less_by_volume() -> None:
    """All units take the price of the last one's tier: 100 at 1.00 USD are 100 USD, 101 at 0.50 are 50.50."""
    by_volume = prices(tariff("m", volume((100, "1.00"), (None, "0.50"))))
    assert invoice(by_volume, m=100).total == 100
    assert invoice(by_volume, m=101).total == Decimal("50.50")


@given(tier_lists(), UNITS, UNITS)
def test_volume_is_monotone_within_a_tier(found: tuple[Tier, ...], units: int, more: int) -> None:
    """Only an edge makes usage cheaper."""
    edges = [tier.up_to for tier in found if tier.up_to is not None]
    if not any(units <= edge < units + more for edge in edges):
        listed = prices(Tariff(meter("m"), Volume(found)))
        assert of(listed, Usage("m", units)).total <= of(listed, Usage("m", units + more)).total


# -- against a plainer way to the same amount


@given(tier_lists(), UNITS, st.sampled_from((1, 10)))
def test_graduated_is_unit_by_unit(found: tuple[Tier, ...], units: int, per: int) -> None:
    """Each unit has the price of its tier, to which the edge belongs; a tier's flat fee is due once."""
    listed = prices(Tariff(meter("m"), Graduated(found), per=per))
    by_tier = dict.fromkeys(found, Fraction())
    for unit in range(1, units + 1):
        tier = next(each for each in found if each.up_to is None or unit <= each.up_to)
        by_tier[tier] += Fraction(tier.unit) / per
    lower = 0
    for tier in found:
        by_tier[tier] += Fraction(tier.flat) if units > lower else 0
        lower = tier.up_to or 0
    assert of(listed, Usage("m", units)).total == sum(rounded(each, 2) for each in by_tier.values())


@given(st.integers(1, 50), PRICES, UNITS, st.integers(0, 100))
def test_a_package_that_is_begun_is_due(size: int, price: Decimal, units: int, included: int) -> None:
    listed = prices(Tariff(meter("m"), Package(size, price), included))
    begun = len(range(included, units, size))
    assert of(listed, Usage("m", units)).total == rounded(begun * Fraction(price), 2)


@given(st.lists(st.integers(0, 999), min_size=30, max_size=40), st.integers(40, 50), st.integers(1, 100))
def test_percentile_is_a_place_in_the_ordered_samples(found: list[int], intervals: int, percent: int) -> None:
    """Intervals without a sample are zeros among them."""
    ordered = sorted([*found, *[0] * (intervals - len(found))])
    place = ceil(Fraction(intervals * percent, 100))
    assert percentile(found, intervals, Decimal(percent)) == ordered[place - 1]


@given(st.fractions(), st.integers(0, 4), st.sampled_from(Rounding))
def test_rounding_is_that_of_decimal(amount: Fraction, decimals: int, rounding: Rounding) -> None:
    """Where Decimal can hold the amount at all."""
    word = ROUND_HALF_EVEN if rounding is Rounding.HALF_EVEN else ROUND_HALF_UP
    with localcontext(prec=200):
        exact = Decimal(amount.numerator) / Decimal(amount.denominator)
        expected = exact.quantize(Decimal(1).scaleb(-decimals), word)
    assert rounded(amount, decimals, rounding) == expected


@pytest.mark.parametrize(
    ("amount", "up", "even"),
    [
        ("0.125", "0.13", "0.12"),
        ("0.135", "0.14", "0.14"),
        ("-0.125", "-0.13", "-0.12"),
        ("0.1249", "0.12", "0.12"),
    ],
)
def test_half_is_what_the_operator_says(amount: str, up: str, even: str) -> None:
    assert str(rounded(Fraction(amount), 2, Rounding.HALF_UP)) == up
    assert str(rounded(Fraction(amount), 2, Rounding.HALF_EVEN)) == even


# -- what stands on the invoice


@given(lists(), UNITS)
def test_every_line_is_whole_and_they_add_up(listed: PriceList, units: int) -> None:
    """Each has the decimals of the currency; the total is their sum, and nothing else."""
    found = of(listed, Usage("m", units))
    decimals = DECIMALS[found.currency.code]
    assert {line.amount.as_tuple().exponent for line in found.lines} <= {-decimals}
    assert sum((line.amount for line in found.lines), Decimal(0)) == found.total
    assert found.total == found.subtotal + found.minimum + found.spend_cap + found.credits


TERM = r"[0-9][0-9,.]*"


@given(lists(), UNITS)
def test_the_arithmetic_of_each_line_is_right(listed: PriceList, units: int) -> None:
    """What stands before the equals sign comes to what stands after it, and that is the amount."""
    for line in of(listed, Usage("m", units)).lines:
        if line.kind is Kind.USAGE and line.unit is not None:
            worked = line.arithmetic.rpartition("; ")[2]
            said, _, came_to = worked.partition(" = ")
            exact = eval(_fractions(said))
            shown = re.findall(TERM, came_to)
            assert rounded(exact, listed.currency.decimals, listed.rounding) == line.amount
            assert Decimal(shown[-1].replace(",", "")) == line.amount
            assert len(shown) == 1 or Fraction(shown[0].replace(",", "")) == exact


def _fractions(said: str) -> str:
    """Give the arithmetic of a line as Python that is exact."""
    numbers = re.sub(TERM, lambda each: f"Fraction('{each[0].replace(',', '')}')", said)
    return numbers.replace("×", "*").replace(" %", " / 100").replace(" flat", "")


def test_included_units_and_nothing_at_all_are_lines_too() -> None:
    listed = prices(tariff("m", per_unit("0.5"), included=100))
    assert [line.arithmetic for line in invoice(listed, m=40).lines] == ["40 of 100 included"]
    (line,) = invoice(prices(tariff("m", per_unit("0.5")))).lines
    assert (line.quantity, line.amount, line.arithmetic) == (0, 0, "0 × 0.5 = 0.00 USD")


def test_corrections_beyond_what_was_used_pay_nothing_out() -> None:
    """They belong to the period that they correct; here they are said."""
    found = invoice(prices(tariff("m", per_unit("0.5"))), m=-3)
    assert found.total == 0
    assert found.lines[0].arithmetic.startswith("corrections leave -3, which counts as 0: ")


def test_a_rate_of_bytes_is_said_as_it_was_measured() -> None:
    listed = prices(tariff("egress", per_unit("2.50"), per=10**6, percentile=Decimal(95)))
    (line,) = invoice(listed, samples=(3_750_000_000,) * 433, egress=0).lines
    assert line.arithmetic == (
        "95 % of 8,640 samples are at most 3,750,000,000 B in 300 s:"
        " 12,500,000 B a second / 1 MB × 2.5 = 31.25 USD"
    )
    assert (line.quantity, line.description) == (12_500_000, "egress, 95 % of samples")
    (line,) = invoice(listed, samples=(10**9,) * 433, egress=0).lines
    assert line.arithmetic == (
        "95 % of 8,640 samples are at most 1,000,000,000 B in 300 s:"
        " 1,000,000,000 B / 300 s / 1 MB × 2.5 = 8.333333333333…, rounded 8.33 USD"
    )


def test_tiers_of_bytes_are_said_as_the_operator_wrote_them() -> None:
    tiers = graduated((10 * 10**9, "0.09"), (None, "0.08"))
    found = invoice(prices(tariff("egress", tiers, per=10**9)), egress=25 * 10**9)
    assert [line.tier for line in found.lines] == ["up to 10 GB", "above 10 GB"]
    assert found.total == Decimal("2.10")


def test_every_price_has_its_line() -> None:
    listed = prices(
        tariff("a", package(10, "2")),
        tariff("b", percentage("10")),
        tariff("c", volume((5, "1", "3"), (None, "1"))),
    )
    assert [line.arithmetic for line in invoice(listed, a=11, b=50, c=5).lines] == [
        "11 begin 2 × 10; 2 × 2 = 4.00 USD",
        "50 × 10 % = 5.00 USD",
        "5 × 1 + 3 flat = 8.00 USD",
    ]


# -- minimum, cap and credits


@given(lists(), UNITS)
def test_what_is_due_lies_between_the_minimum_and_the_cap(listed: PriceList, units: int) -> None:
    found = of(listed, Usage("m", units))
    assert found.due >= listed.minimum
    assert listed.spend_cap is None or found.due <= listed.spend_cap
    assert not (found.minimum and found.spend_cap)


def test_the_cap_takes_off_what_is_beyond() -> None:
    found = invoice(prices(tariff("m", per_unit("1")), base="49", spend_cap=Decimal(500)), m=600)
    assert amounts(found) == ["49.00", "600.00", "-149.00"]
    assert found.lines[-1].arithmetic == "500.00 USD − 649.00 = -149.00"


@given(lists(), UNITS, st.lists(st.integers(1, 300).map(Decimal), max_size=3))
def test_credits_pay_what_is_due_and_never_more(listed: PriceList, units: int, paid: list[Decimal]) -> None:
    stretches = [Stretch("pro", listed, 30, (Usage("m", units),), 8640)]
    found = [Balance(credit(str(each), name=f"{n}"), each, listed.currency) for n, each in enumerate(paid)]
    (bill,) = rate(stretches, NOVEMBER, found)
    assert bill.total >= 0
    assert bill.due + bill.credits == bill.total
    assert all(bill.drawn.get(each.credit.name, 0) <= each.left for each in found)
    assert bill.credits == -min(bill.due, sum(paid))


def test_what_is_over_first_is_used_first() -> None:
    early, late = (
        credit("10", until=date(2026, 11, 20), name="b"),
        credit("10", until=date(2027, 1, 1), name="a"),
    )
    for_good, gone = credit("10", name="c"), credit("10", date(2026, 1, 1), date(2026, 11, 1), name="d")
    yet_to_come = credit("10", date(2026, 12, 1), name="e")
    listed = prices(base="28", credits=(for_good, late, early, gone, yet_to_come))
    found = invoice(listed)
    assert [(line.description, str(line.amount)) for line in found.lines[1:]] == [
        ("b", "-10.00"),
        ("a", "-10.00"),
        ("c", "-8.00"),
    ]
    assert found.lines[-1].arithmetic == "8.00 of 10.00 USD; 2.00 left"
    assert invoice(prices(base="38", credits=listed.credits)).total == 8
    assert (found.due, found.total, found.drawn["c"]) == (28, 0, 8)


# -- parts of a period


@given(st.integers(0, 30), MONEY, MONEY)
def test_two_parts_are_the_whole_but_for_a_cent(days: int, base: Decimal, minimum: Decimal) -> None:
    """Each part is rounded by itself, so that it stands on the invoice as it is."""
    listed = prices(base=str(base), minimum=str(minimum))
    (found,) = rate([stretch(listed, days), stretch(listed, 30 - days)], NOVEMBER)
    assert abs(found.total - max(base, minimum)) <= Decimal("0.02")


def test_a_part_has_its_share_of_everything_but_the_price_of_a_unit() -> None:
    """Included units and edges are rounded up, in favour of who pays."""
    tiers = graduated((1000, "0.01", "3"), (None, "0.001"))
    listed = prices(tariff("m", tiers, included=100), base="49", minimum="99", spend_cap=Decimal(500))
    (found,) = rate([stretch(listed, 14, m=600)], NOVEMBER)
    assert [line.arithmetic for line in found.lines] == [
        "49.00 × 14 of 30 days = 22.866666666667…, rounded 22.87 USD",
        "47 of 47 included",
        "420 × 0.01 + 3 × 7/15 flat = 5.60 USD",
        "133 × 0.001 = 0.133, rounded 0.13 USD",
        "99.00 × 14 of 30 days = 46.20 USD − 28.60 = 17.60",
    ]


@given(st.integers(1, 29), st.sampled_from((per_unit("2.50"), graduated((5, "3", "1"), (None, "2")))))
def test_a_rate_is_as_high_in_a_part_as_in_the_whole(days: int, pricing: Pricing) -> None:
    """12 units a second cost in two parts what they cost in one; included units and edges are not shared."""
    listed = prices(tariff("m", pricing, included=2, percentile=Decimal(95)))
    parts = [stretch(listed, n, samples=(12 * 300,) * n * 288, m=0) for n in (days, 30 - days)]
    (found,) = rate(parts, NOVEMBER)
    whole = invoice(listed, samples=(12 * 300,) * 8640, m=0)
    assert abs(found.total - whole.total) <= Decimal("0.02")
    shown = [[(line.quantity, line.tier) for line in lines] for lines in (whole.lines, found.lines)]
    assert shown[1] == shown[0] * 2


def test_without_proration_a_part_costs_what_the_whole_does() -> None:
    (found,) = rate([stretch(prices(base="49", proration=Proration.NONE), 1)], NOVEMBER)
    assert found.total == 49


def test_currencies_are_never_mixed() -> None:
    """A change to a plan in another currency gives two invoices, and a credit pays its own."""
    euros, dollars = prices(base="30", currency=Currency("EUR")), prices(base="60", credits=(credit("50"),))
    found = rate([stretch(euros, 10), stretch(dollars, 20)], NOVEMBER, balances(dollars))
    assert [(each.currency.code, each.due, each.total) for each in found] == [
        ("EUR", 10, 10),
        ("USD", 40, 0),
    ]


# -- values that cannot be wrong


def test_nonsense_is_refused() -> None:
    for make in (
        lambda: BillingPeriod(date(2026, 11, 1), date(2026, 11, 1)),
        lambda: stretch(prices(), days=-1),
        lambda: Currency("XYZ"),
        lambda: per_unit("-1"),
        lambda: per_unit("NaN"),
        lambda: package(0, "1"),
        lambda: percentage("-1"),
        lambda: graduated((10, "1")),
        graduated,
        lambda: graduated((10, "1"), (10, "1"), (None, "1")),
        lambda: volume((None, "1"), (None, "1")),
        lambda: Tier(0, Decimal(1)),
        lambda: tariff("m", per_unit("1"), included=-1),
        lambda: tariff("m", per_unit("1"), percentile=Decimal(101)),
        lambda: prices(base="10", spend_cap=Decimal(9)),
        lambda: prices(base="10.005"),
        lambda: prices(minimum="0.5", currency=Currency("JPY")),
        lambda: prices(tariff("m", graduated((None, "1", "0.001")))),
        lambda: credit("0"),
        lambda: credit("1", date(2026, 1, 2), date(2026, 1, 2)),
    ):
        with pytest.raises(ValueError, match=r"."):
            make()


def test_amounts_are_exact_beyond_what_a_context_holds() -> None:
    """28 digits are the default precision of Decimal."""
    huge = Decimal("1" + "0" * 30 + ".01")
    assert total((huge, huge.copy_negate(), Decimal("0.02")), 2) == Decimal("0.02")
    assert written(Fraction(1, 3)) == "0.333333333333…"
    assert written(Decimal("1234.50")) == "1,234.5"


def test_the_list_of_a_day() -> None:
    first, second = prices(), prices(since=date(2026, 12, 1))
    assert list_on((first, second), date(2026, 11, 30)) is first
    assert list_on((first, second), date(2026, 12, 1)) is second
    assert list_on((second,), date(2026, 11, 30)) is None
