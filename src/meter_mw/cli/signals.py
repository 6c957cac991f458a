"""`meter-mw signals`: what changed in how customers use the API, and which bills have reached an amount."""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from time import time_ns
from typing import TYPE_CHECKING, Any

import click

from meter_mw.cli import ledgers, policies, tables
from meter_mw.cli.customers import registered
from meter_mw.cli.policies import refuse
from meter_mw.cli.recording import record
from meter_mw.cli.who import refuse_strangers
from meter_mw.events import encode
from meter_mw.journal import Entry, read_journal
from meter_mw.model import BILLING_THRESHOLD_EVENT, SIGNAL_EVENT
from meter_mw.policy.signals import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from meter_mw.ledger.database import Database
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.terms import KeyEntry
    from meter_mw.signals.telling import Notice

_WEEK = 7
_COLUMNS = ("day", "subject", "signal", "about", "score", "evidence")
_BILL = "bill"
"""The kind of notices of bills."""
_LOCK = "signals.lock"

_MARKS = tuple(
    f'"type":"{kind}"'.encode()
    for kind in (BILLING_THRESHOLD_EVENT, *(SIGNAL_EVENT.format(each.value) for each in Kind))
)

_day = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--since", type=_day, help="The first day of UTC; else a week before the last.", metavar="DAY")
@click.option("--until", type=_day, help="The last day; else the last that the ledger has.", metavar="DAY")
@click.option("--subject", "subjects", multiple=True, help="These subjects alone.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([*(each.value for each in Kind), _BILL]),
    help="These kinds alone.",
)
@click.option("--emit", "emits", is_flag=True, help="Record the new ones as events, each once.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="How to show it."
)
@ledgers.option
@policies.option
def signals(
    *,
    policy: str,
    ledger: str | None,
    since: datetime | None,
    until: datetime | None,
    subjects: tuple[str, ...],
    kinds: tuple[str, ...],
    emits: bool,
    form: str,
) -> None:
    """Show what changed in how customers use the API, from the ledger, with the figures behind it.

    Days are whole ones of UTC: today is not judged. With --emit those that are not on record yet go through
    the journal to the sinks; run it once a day, after midnight of UTC.
    """
    rules = policies.loaded(policy)
    entries = registered(rules)
    with ledgers.opened(rules, ledger) as database:
        days = _days(database, rules, since, until)
        found = [] if days is None else _found(database, rules, entries, days)
        told = [
            each
            for each in found
            if (not subjects or each.subject in subjects) and (not kinds or each.kind in kinds)
        ]
        if emits:
            _emit(database, rules, told)
    _show([_row(each, form) for each in told], form)


def _days(
    database: Database, rules: Policy, since: datetime | None, until: datetime | None
) -> tuple[date, date] | None:
    """Give the first and the last day that are meant; None where the ledger has nothing yet."""
    from meter_mw.ledger.daily import extent  # noqa: PLC0415 - needs an extra of this package
    from meter_mw.signals.caps import day_of  # noqa: PLC0415

    known = extent(database, source=rules.source)
    if known is None:
        return None
    today = day_of(time_ns() // 1000)
    last = date.fromordinal(min(today, day_of(known[1])) - 1) if until is None else until.date()
    if last.toordinal() >= today:
        refuse(f"--until: found {last}; expected a day that is over, {date.fromordinal(today - 1)} or before")
    first = last - timedelta(days=_WEEK - 1) if since is None else since.date()
    if first > last:
        refuse(f"--since: found {first}; expected {last} or before, as later days are not judged yet")
    return first, last


def _found(
    database: Database, rules: Policy, entries: Mapping[str, KeyEntry], days: tuple[date, date]
) -> list[Notice]:
    """Give the signals of some days, and what bills have reached since the first of them."""
    from meter_mw.invoicing.bills import Billing  # noqa: PLC0415 - needs an extra of this package
    from meter_mw.invoicing.source import LedgerUsage  # noqa: PLC0415
    from meter_mw.ledger.spans import Span  # noqa: PLC0415
    from meter_mw.signals.bills import announcements  # noqa: PLC0415
    from meter_mw.signals.caps import start_of  # noqa: PLC0415
    from meter_mw.signals.looking import look  # noqa: PLC0415
    from meter_mw.signals.telling import of_bill, of_signal  # noqa: PLC0415

    now_us = time_ns() // 1000
    since_us = start_of(days[0].toordinal())
    billing = Billing(rules, LedgerUsage(database, rules.source), now_us)
    listed = {each.subject for each in rules.keys.values()}
    used = billing.subjects_around(Span(since_us, now_us))
    told = announcements(rules, billing, {*listed, *entries, *used}, entries, since_us)
    return [
        *(of_signal(rules, each) for each in look(database, rules, entries, *days)),
        *(of_bill(rules, each, now_us) for each in told),
    ]


def _emit(database: Database, rules: Policy, notices: Sequence[Notice]) -> None:
    """Record those that neither the journal nor the ledger has."""
    from meter_mw.ledger.daily import kept_since, recorded  # noqa: PLC0415 - needs an extra of this package

    refuse_strangers(rules.events.journal)
    with _alone(rules.events.journal):
        kept_us = kept_since(database, "events") or 0
        asked = [each for each in notices if each.event.time_us >= kept_us]
        alike = frozenset[str]().union(*(each.alike for each in asked))
        known = recorded(database, alike) | _journaled(rules.events.journal)
        unknown = [encode(each.event) for each in asked if known.isdisjoint(each.alike)]
        if unknown:
            record(rules, unknown)
    click.echo(f"{len(unknown)} recorded, {len(asked) - len(unknown)} on record already", err=True)
    if len(asked) < len(notices):
        click.echo(f"{len(notices) - len(asked)} left out: the ledger keeps no events of then", err=True)


def _journaled(folder: Path) -> set[str]:
    """Give the ids of the notices that a journal has."""
    payloads = (each.payload for each in read_journal(folder) if isinstance(each, Entry))
    return {str(json.loads(each)["id"]) for each in payloads if any(mark in each for mark in _MARKS)}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Have no other command record at the same time; say why not, and exit with 1."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        refuse(f"events.journal: {folder}: {error.strerror}")


# -- how it is shown


def _row(notice: Notice, form: str) -> dict[str, Any]:
    row = {
        "day": notice.day.isoformat(),
        "subject": notice.subject,
        "signal": notice.kind,
        "about": notice.about,
        "score": notice.score,
    }
    if form == "json":
        return {**row, "id": notice.event.id, "evidence": dict(notice.evidence)}
    return {**row, "evidence": ", ".join(f"{name} {value}" for name, value in notice.evidence.items())}


def _show(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    if form == "csv":
        click.echo(tables.csv_text(_COLUMNS, rows), nl=False)
    else:
        for line in tables.json_lines(rows) if form == "json" else tables.table(_COLUMNS, rows):
            click.echo(line)
    if not rows:
        click.echo("nothing changed in that time", err=True)
