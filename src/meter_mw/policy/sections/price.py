"""The price of a plan: one price list, or several with the days from which each holds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from meter_mw.periods import Period
from meter_mw.policy.currencies import DECIMALS, Currency
from meter_mw.policy.prices import NOTHING, Credit, PriceList, Proration, Rounding
from meter_mw.policy.problems import quoted
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.charges import read_charges
from meter_mw.policy.sections.money import read_decimal
from meter_mw.policy.sections.settings import read_date
from meter_mw.policy.sections.thresholds import read_spend_thresholds
from meter_mw.policy.yaml12 import Items

if TYPE_CHECKING:
    from decimal import Decimal

    from meter_mw.policy.sections.meters import Meters

_PRICE = Names(
    (
        "currency",
        "base",
        "period",
        "charges",
        "minimum",
        "spend_cap",
        "warn",
        "credits",
        "rounding",
        "proration",
        "from",
    ),
    needed=("currency",),
)
_CREDIT = Names(("name", "amount", "from", "until", "subject"), needed=("amount", "from"))

_PERIODS = {each.word: each for each in (Period.DAY, Period.WEEK, Period.MONTH, Period.YEAR)}
_FROM = "the day from which these prices hold, such as 2026-12-01"


@dataclass(frozen=True, slots=True)
class _Listed:
    """A price list and the field that it was read from."""

    prices: PriceList
    field: Field


def read_prices(field: Field, meters: Meters) -> tuple[PriceList, ...]:
    """Read the price of a plan, its lists in the order of their days."""
    fields = field.items("a list") if isinstance(field.node, Items) else [field]
    if not fields:
        field.reject("a price, such as {base: 49.00, currency: USD}")
        return ()
    read = [_price(each, meters) for each in fields or ()]
    listed = [_Listed(prices, each) for prices, each in zip(read, fields, strict=True) if prices]
    if len(listed) < len(read):
        return ()
    for earlier, later in pairwise(listed):
        _complain_of_order(earlier.prices, later)
    return tuple(each.prices for each in listed)


def _complain_of_order(earlier: PriceList, later: _Listed) -> None:
    since = later.prices.since
    if since is None:
        later.field.lacks("from", f"from is missing; expected {_FROM}, in every list but the first")
    elif earlier.since is not None and since <= earlier.since:
        later.field.complain(
            f"found prices from {since} after those from {earlier.since}; the days of price lists grow"
        )
    if later.prices.period is not earlier.period:
        later.field.complain(
            f"found prices for a {later.prices.period.word} after those for a {earlier.period.word};"
            " the price lists of a plan have one period"
        )


def _price(field: Field, meters: Meters) -> PriceList | None:
    fields = field.section(_PRICE)
    if fields is None:
        return None
    problems = field.document.problems
    before = len(problems)
    currency = _currency(fields["currency"]) if "currency" in fields else None
    since = read_date(fields["from"], _FROM) if "from" in fields else None
    period = fields["period"].choice(_PERIODS) if "period" in fields else Period.MONTH
    rounding = (
        fields["rounding"].choice({each.value: each for each in Rounding}) if "rounding" in fields else None
    )
    proration = (
        fields["proration"].choice({each.value: each for each in Proration})
        if "proration" in fields
        else None
    )
    base = _money(fields, "base", currency, "what a period costs without any usage, such as 49.00")
    minimum = _money(fields, "minimum", currency, "the least that a period costs, such as 99")
    spend_cap = _money(fields, "spend_cap", currency, "the most that a period costs, such as 500")
    tariffs = read_charges(fields["charges"], meters, currency) if "charges" in fields else ()
    warn = read_spend_thresholds(fields["warn"], spend_cap, currency) if "warn" in fields else ()
    paid = _credits(fields["credits"], currency) if "credits" in fields else ()
    due = max(base or NOTHING, minimum or NOTHING)
    if spend_cap is not None and spend_cap < due:
        fields["spend_cap"].reject(f"at least the base and the minimum, {due}", because="which is less")
    if len(problems) > before or currency is None or period is None:
        return None
    return PriceList(
        currency,
        base or NOTHING,
        period,
        tariffs,
        minimum or NOTHING,
        spend_cap,
        paid,
        rounding or Rounding.HALF_UP,
        proration or Proration.DAY,
        since,
        field.path,
        warn,
    )


def _currency(field: Field) -> Currency | None:
    expected = "a currency of ISO 4217, such as USD or EUR"
    text = field.text(expected)
    if text is None:
        return None
    if text not in DECIMALS:
        meant = text.upper() if text.upper() in DECIMALS else None
        field.reject(expected, because="which is none", meant=meant)
        return None
    return Currency(text)


def _money(fields: dict[str, Field], name: str, currency: Currency | None, expected: str) -> Decimal | None:
    """Read an amount that is billed as it stands, so in whole smallest amounts of its currency."""
    if name not in fields or currency is None:
        return None
    return read_decimal(fields[name], expected, decimals=currency.decimals, of=currency.code)


def _credits(field: Field, currency: Currency | None) -> tuple[Credit, ...]:
    found: dict[str, Credit] = {}
    for item in field.items("a list of credits: [{amount: 100, from: 2026-01-01}]") or ():
        credit = _credit(item, currency)
        if credit is None:
            continue
        if credit.name in found:
            item.complain(f"found a second credit {quoted(credit.name)}; give each a name of its own")
        found[credit.name] = credit
    return tuple(found.values())


def _credit(field: Field, currency: Currency | None) -> Credit | None:
    fields = field.section(_CREDIT)
    if fields is None:
        return None
    problems = field.document.problems
    before = len(problems)
    name = (
        fields["name"].text("the name of a credit", quotable=True) if "name" in fields else "prepaid credit"
    )
    subject = fields["subject"].text("the subject that paid", quotable=True) if "subject" in fields else None
    amount = _money(fields, "amount", currency, "what was paid beforehand, such as 100")
    since = read_date(fields["from"], "its first day, such as 2026-01-01") if "from" in fields else None
    until = read_date(fields["until"], "the day on which it is over") if "until" in fields else None
    if amount is not None and amount == 0:
        fields["amount"].reject("more than 0")
    if since is not None and until is not None and until <= since:
        fields["until"].reject(f"a day after {since}", because="on which it would be over before it begins")
    if len(problems) > before or amount is None or since is None:
        return None
    return Credit(name or "", amount, since, until, subject)
