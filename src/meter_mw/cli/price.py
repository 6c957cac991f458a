"""`meter-mw price --what-if`: past usage under other prices, and who would pay more or less."""

from __future__ import annotations

import json
from dataclasses import asdict
from time import time_ns
from typing import TYPE_CHECKING

import click

from meter_mw.cli import ledgers, policies
from meter_mw.cli.customers import registered
from meter_mw.cli.invoice import period_of
from meter_mw.cli.tables import table
from meter_mw.policy.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meter_mw.invoicing.bills import Billing
    from meter_mw.invoicing.comparing import Comparison
    from meter_mw.invoicing.customers import Customer
    from meter_mw.ledger.database import Database
    from meter_mw.policy.policy import Policy


@click.command()
@click.option("--what-if", "other", required=True, metavar="PATH", help="A policy file with other prices.")
@click.option("--period", "name", metavar="PERIOD", help="2026-11, 2026, 2026-W47 or 2026-11-21.")
@click.option("--subject", "subjects", multiple=True, help="These subjects alone.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@ledgers.option
@policies.option
def price(
    policy: str, other: str, ledger: str | None, name: str | None, subjects: tuple[str, ...], *, as_json: bool
) -> None:
    """Bill past usage under the prices of another policy file, beside those of the policy.

    Without --period it is each subject's last period that is over. Amounts are what is due before credits.
    """
    rules, others = policies.loaded(policy), policies.loaded(other)
    with ledgers.opened(rules, ledger) as database:
        found = sorted(_compared(rules, others, database, name, subjects), key=_by_difference)
    if as_json:
        click.echo(json.dumps(_document(found), indent=2, ensure_ascii=False))
        return
    for line in _lines(found):
        click.echo(printable(line))


def _compared(
    rules: Policy, others: Policy, database: Database, name: str | None, subjects: Sequence[str]
) -> Iterator[Comparison]:
    from meter_mw.invoicing.bills import Billing  # noqa: PLC0415 - needs an extra of this package
    from meter_mw.invoicing.comparing import compare  # noqa: PLC0415
    from meter_mw.invoicing.source import LedgerUsage  # noqa: PLC0415

    now_us = time_ns() // 1000
    source = LedgerUsage(database, rules.source)
    now, then = Billing(rules, source, now_us), Billing(others, source, now_us)
    for customer in _customers(rules, now, name, subjects):
        kind, span = period_of(rules, customer, name, now_us)
        yield from compare(now, then, customer, kind, span)


def _customers(
    rules: Policy, billing: Billing, name: str | None, subjects: Sequence[str]
) -> Iterator[Customer]:
    """Give who is asked for, or else who is listed or has used anything in the period of any of them."""
    from meter_mw.invoicing.customers import customer  # noqa: PLC0415 - needs an extra of this package

    known = registered(rules)
    names = set(subjects)
    if not subjects:
        _, span = period_of(rules, customer(rules, ""), name, billing.now_us)
        names |= {*known, *(each.subject for each in rules.keys.values()), *billing.subjects_around(span)}
    for subject in sorted(names):
        yield customer(rules, subject, known.get(subject))


def _by_difference(row: Comparison) -> tuple[object, ...]:
    """Order by who would pay most more, and those that cannot be compared at the end."""
    return (row.difference is None, -(row.difference or 0), row.subject, row.currency)


# -- how it is shown

_COLUMNS = ("subject", "currency", "now", "then", "difference", "%")


def _lines(found: Sequence[Comparison]) -> Iterable[str]:
    from meter_mw.invoicing.comparing import sums  # noqa: PLC0415 - needs an extra of this package

    if not found:
        yield "nothing compared: nobody has used anything then, or is billed"
        return
    all_of_them = sums(found)
    rows: list[dict[str, object]] = [
        _row(each.subject, each.currency, each.now, each.then, each.difference) | {"%": each.percent}
        for each in found
    ]
    rows += [_row("all", each.currency, each.now, each.then, each.then - each.now) for each in all_of_them]
    yield from table(_COLUMNS, rows)
    for each in all_of_them:
        yield f"{each.currency}: {each.more} would pay more, {each.less} less, {each.same} the same"
    for row in found:
        yield from (f"{row.subject}: {note}" for note in row.notes)


def _row(*cells: object) -> dict[str, object]:
    return dict(zip(_COLUMNS, cells, strict=False))


def _document(found: Sequence[Comparison]) -> dict[str, object]:
    from meter_mw.invoicing.comparing import sums  # noqa: PLC0415 - needs an extra of this package

    rows = []
    for each in found:
        row = {**asdict(each), "difference": each.difference, "percent": each.percent}
        rows.append({key: _plain(value) for key, value in row.items()})
    return {
        "subjects": rows,
        "sums": [{key: _plain(value) for key, value in asdict(each).items()} for each in sums(found)],
    }


def _plain(value: object) -> object:
    """Give an amount as a text, as JSON's numbers are floats to most readers."""
    return value if value is None or isinstance(value, int | str | tuple | list) else str(value)
