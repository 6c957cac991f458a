"""`meter-mw features`: which routes are used, how widely and how well, and where customers meet friction."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any

import click

from meter_mw.cli import ledgers, policies, tables
from meter_mw.cli.policies import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.ledger.database import Database
    from meter_mw.ledger.features import Adoption, Feature, Friction
    from meter_mw.ledger.spans import Span
    from meter_mw.policy.policy import Policy

_VIEWS = ("use", "adoption", "friction")
_MS = 1_000


@click.command()
@click.option(
    "--view",
    type=click.Choice(_VIEWS),
    default="use",
    show_default=True,
    help="Routes by use; by week, with who is new; or where requests are refused, fail or are slow.",
)
@click.option("--period", "name", metavar="PERIOD", help="2026-11, 2026 or 2026-11-21; else this month.")
@click.option("--least", "from_below", is_flag=True, help="The least used first.")
@click.option(
    "--slow", type=click.IntRange(min=1), default=1_000, metavar="MS", help="What is slow; 1000 if left out."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="How to show it."
)
@ledgers.option
@policies.option
def features(
    *,
    policy: str,
    ledger: str | None,
    view: str,
    name: str | None,
    from_below: bool,
    slow: int,
    form: str,
) -> None:
    """Show how the routes of the API are used, from the ledger; hours of UTC are counted whole.

    Requests that a limit refused at once never got to a route: the ledger knows those that the app refused
    with 429, and those that a limit stopped on their way.
    """
    if from_below and view != "use":
        refuse(f"--least: expected --view use with it, not {view}")
    rules = policies.loaded(policy)
    with ledgers.opened(rules, ledger) as database:
        columns, rows = _rows(database, rules, view, _span(rules, name), slow * _MS)
    if from_below:
        rows = rows[::-1]
    if form == "csv":
        click.echo(tables.csv_text(columns, rows), nl=False)
    else:
        for line in tables.json_lines(rows) if form == "json" else tables.table(columns, rows):
            click.echo(line)
    if not rows:
        click.echo("nothing was answered in that time", err=True)


def _span(rules: Policy, name: str | None) -> Span:
    """Give the period that is meant, in the zone of the policy."""
    from meter_mw.ledger.spans import SpanError, period_at, period_named  # noqa: PLC0415 - needs an extra

    try:
        if name is not None:
            return period_named(name, rules.timezone)
    except SpanError as fault:
        refuse(f"--period: {fault}")
    return period_at(time_ns() // 1000, rules.timezone)


def _rows(
    database: Database, rules: Policy, view: str, span: Span, slow_us: int
) -> tuple[Sequence[str], list[dict[str, Any]]]:
    from meter_mw.ledger.features import adoption, features, friction  # noqa: PLC0415 - needs an extra

    source = rules.source
    match view:
        case "adoption":
            return _ADOPTION, [_adopted(each) for each in adoption(database, span, source=source)]
        case "friction":
            found = friction(database, span, slow_us=slow_us, source=source)
            return _FRICTION, [_met(each) for each in found]
        case _:
            return _USE, [_used(each) for each in features(database, span, source=source)]


_USE = (
    *("route", "answers", "share_%", "subjects", "new_subjects", "errors_%", "client_errors_%", "refused_%"),
    *("p50_ms", "p95_ms", "p99_ms", "in_p50_b", "in_p99_b", "out_p50_b", "out_p99_b"),
)
_ADOPTION = ("week", "route", "subjects", "new_subjects")
_FRICTION = (
    *("route", "answers", "refused", "client_errors", "server_errors", "slow", "subjects"),
    "share_of_all_%",
)


def _used(row: Feature) -> dict[str, Any]:
    shares = (row.errors, row.client_errors, row.refused)
    times = (row.p50_us, row.p95_us, row.p99_us)
    sizes = (
        *(row.request_bytes_p50, row.request_bytes_p99),
        *(row.response_bytes_p50, row.response_bytes_p99),
    )
    cells = (
        *(row.route, row.answers, _percent(row.share), row.subjects, row.new_subjects),
        *map(_percent, shares),
        *(None if each is None else round(each / _MS, 1) for each in times),
        *(None if each is None else round(each) for each in sizes),
    )
    return dict(zip(_USE, cells, strict=True))


def _adopted(row: Adoption) -> dict[str, Any]:
    cells = (row.start.isoformat(), row.route, row.subjects, row.new_subjects)
    return dict(zip(_ADOPTION, cells, strict=True))


def _met(row: Friction) -> dict[str, Any]:
    counts = (row.refused, row.client_errors, row.server_errors, row.slow, row.subjects)
    return dict(zip(_FRICTION, (row.route, row.answers, *counts, _percent(row.score)), strict=True))


def _percent(share: float) -> float:
    return round(100 * share, 2)
