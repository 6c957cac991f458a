"""`meter-mw invoice`: what a customer owes for a period, line by line, and the usage behind it."""

from __future__ import annotations

import json
from collections import Counter
from time import time_ns
from typing import TYPE_CHECKING

import click

from meter_mw.cli import ledgers, policies
from meter_mw.cli.customers import Told, customer_of
from meter_mw.cli.policies import refuse
from meter_mw.cli.tables import table
from meter_mw.periods import Period
from meter_mw.policy.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meter_mw.invoicing.bills import Bill
    from meter_mw.invoicing.customers import Customer
    from meter_mw.invoicing.previews import Preview
    from meter_mw.ledger.spans import Span
    from meter_mw.policy.policy import Policy
    from meter_mw.rating.invoices import Invoice
    from meter_mw.rating.lines import Line


@click.command()
@click.argument("subject")
@click.option("--period", "name", metavar="PERIOD", help="2026-11, 2026, 2026-W47 or 2026-11-21.")
@click.option("--preview", "previews", is_flag=True, help="Project the end of a period that is not over.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "html"]), default="table", help="How to show it."
)
@click.option("--plan", help="The plan of a subject that neither the policy nor the registry lists.")
@click.option("--timezone", help="The IANA zone of its periods.")
@click.option("--anchor", help="The date of its first period, such as 2026-01-31.")
@ledgers.option
@policies.option
def invoice(
    subject: str,
    policy: str,
    ledger: str | None,
    name: str | None,
    form: str,
    *,
    previews: bool,
    **told: str | None,
) -> None:
    """Show what SUBJECT owes, from the usage in the ledger and the prices of the policy.

    Without --period it is the last one that is over, and with --preview the present one.
    """
    rules = policies.loaded(policy)
    with ledgers.opened(rules, ledger) as database:
        from meter_mw.invoicing.bills import Billing  # noqa: PLC0415 - needs an extra of this package
        from meter_mw.invoicing.previews import preview  # noqa: PLC0415
        from meter_mw.invoicing.source import LedgerUsage  # noqa: PLC0415

        customer = customer_of(rules, subject, Told(told["plan"], told["timezone"], told["anchor"]))
        now_us = time_ns() // 1000
        kind, span = period_of(rules, customer, name, now_us, previews=previews)
        if customer.anchor and customer.billing(span).end <= customer.anchor:
            refuse(f"--period: the first period of {customer.subject} begins on {customer.anchor}")
        billing = Billing(rules, LedgerUsage(database, rules.source), now_us)
        if previews:
            seen = preview(billing, customer, kind, span)
            _show(seen.expected, form, rules, seen)
        else:
            _show(billing.bill(customer, kind, span), form, rules)


def period_of(
    rules: Policy, customer: Customer, name: str | None, now_us: int, *, previews: bool = False
) -> tuple[Period, Span]:
    """Give the period of that name, or the last one that a customer's plan is billed by; exit with 1 if none.

    A preview is of one that is not over: without a name, the present one.
    """
    from meter_mw.ledger.spans import SpanError  # noqa: PLC0415 - needs an extra of this package

    prices = rules.plans[customer.plan].prices
    kind = prices[-1].period if prices else Period.MONTH
    if name is None:
        span = customer.at(kind, now_us)
        span = span if previews else customer.before(kind, span)
    else:
        try:
            kind, span = customer.named(name)
        except SpanError as fault:
            refuse(f"--period: {fault}")
    if span.start_us > now_us:
        refuse(f"--period: {name} is still to come")
    if previews and span.end_us <= now_us:
        refuse(f"--period: {name} is over; there is nothing to project")
    return kind, span


def _show(bill: Bill, form: str, rules: Policy, seen: Preview | None = None) -> None:
    from meter_mw.invoicing.documents import bill_document, preview_document  # noqa: PLC0415
    from meter_mw.invoicing.pages import page  # noqa: PLC0415

    if form == "html":
        click.echo(page(bill, service=rules.service, preview=seen), nl=False)
    elif form == "json":
        click.echo(_json(preview_document(seen) if seen else bill_document(bill)))
    else:
        for line in (
            *_heading(bill),
            *_tables(bill),
            *_preview(seen),
            *_behind(seen.so_far if seen else bill),
        ):
            click.echo(printable(line))


def _json(document: dict[str, object]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


# -- the table

_COLUMNS = ("plan", "for", "quantity", "amount", "how it comes about")


def _heading(bill: Bill) -> Iterable[str]:
    yield f"{bill.customer.subject}, {bill.period}, {bill.customer.timezone}"
    if bill.is_open:
        yield "not over yet"
    if not bill.invoices:
        yield "nothing is due: no plan with a price held then"


def _tables(bill: Bill) -> Iterable[str]:
    for each in bill.invoices:
        yield ""
        yield from table(_COLUMNS, [*map(_row, each.lines), *_sums(each)])
    yield from ("", *(f"not billed here: {note}" for note in bill.notes)) if bill.notes else ()


def _row(line: Line) -> dict[str, object]:
    what = f"{line.description}, {line.tier}" if line.tier else line.description
    return dict(zip(_COLUMNS, (line.plan, what, line.quantity, line.amount, line.arithmetic), strict=True))


def _sums(invoice: Invoice) -> Iterable[dict[str, object]]:
    if invoice.total != invoice.subtotal:
        yield {"for": "base and usage", "amount": invoice.subtotal}
    yield {"for": "total", "amount": invoice.total, _COLUMNS[-1]: invoice.currency.code}


def _preview(seen: Preview | None) -> Iterable[str]:
    if seen is None:
        return
    bills = {"so far": seen.so_far, "low": seen.low, "expected": seen.expected, "high": seen.high}
    rows = [
        {"at its end": bound, "total": each.total, "": each.currency.code}
        for bound, bill in bills.items()
        for each in bill.invoices
    ]
    yield from ("", *table(("at its end", "total", ""), rows), f"projected by {seen.method}")


def _behind(bill: Bill) -> Iterable[str]:
    """Say which usage is behind a bill, in all and on its busiest day; JSON and HTML have every day."""
    used: dict[tuple[str, str], Counter[str]] = {}
    for each in bill.usage:
        used.setdefault((each.plan, each.field), Counter())[each.day.isoformat()] += each.units
    rows = []
    for (plan, name), days in sorted(used.items()):
        day, most = max(days.items(), key=lambda item: item[1])
        row = {"plan": plan, "used": name, "units": sum(days.values())}
        rows.append(row | {"days": len(days), "most on": day, "units then": most})
    if rows:
        yield from ("", *table((*rows[0],), rows))
