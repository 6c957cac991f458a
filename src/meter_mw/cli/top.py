"""`meter-mw top`: the busiest subjects and routes of the last minute, live in the terminal."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import click

from meter_mw.cli import ledgers, policies, tables
from meter_mw.cli.policies import refuse
from meter_mw.journal.reading import Damage, read_journal
from meter_mw.ledger.recent import BY, busiest
from meter_mw.ledger.records import Unreadable, read
from meter_mw.ledger.spans import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from meter_mw.ledger.recent import Busy
    from meter_mw.ledger.records import Record
    from meter_mw.policy.policy import Policy

    Asking = Callable[[str, Span], Sequence[Busy]]

_COLUMNS = ("requests", "a second", "errors", "mean ms", "bytes in", "bytes out")


@click.command()
@click.option("--once", is_flag=True, help="Show it once, for scripts.")
@click.option("--every", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Seconds.")
@click.option(
    "--last", type=click.IntRange(1, 3600), default=60, show_default=True, help="Of how many seconds."
)
@click.option("--rows", type=click.IntRange(1, 1000), default=10, show_default=True, help="Of each table.")
@click.option("--journal", "from_journal", is_flag=True, help="Read the journal, and not the ledger.")
@ledgers.option
@policies.option
def top(
    policy: str,
    ledger: str | None,
    *,
    once: bool,
    every: float,
    last: int,
    rows: int,
    from_journal: bool,
) -> None:
    """Show who is busy, and where, until interrupted.

    It is told by the ledger, or where the policy has none by the journal of this machine. Refused requests
    are no events, and not among them.
    """
    rules = policies.loaded(policy)
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        asking = _asking(rules, ledger, stack, from_journal=from_journal)
        while True:
            lines = list(_screen(asking, rules.service, last, rows))
            if not once and sys.stdout.isatty():
                click.clear()
            for line in lines:
                click.echo(line)
            if once:
                return
            time.sleep(every)


def _asking(rules: Policy, ledger: str | None, stack: ExitStack, *, from_journal: bool) -> Asking:
    """Give what tells who is busy."""
    has_ledger = ledger is not None or any(rule.kind.word == "sql" for rule in rules.events.sinks)
    if has_ledger and not from_journal:
        database = stack.enter_context(ledgers.opened(rules, ledger))
        from meter_mw.ledger.insight import busiest_now  # noqa: PLC0415 - needs an extra of this package

        return lambda by, span: busiest_now(database, by, span, source=rules.source)
    return lambda by, span: busiest(_records(rules), by, span)


def _records(rules: Policy) -> Iterator[Record]:
    try:
        for entry in read_journal(rules.events.journal):
            if isinstance(entry, Damage):
                continue
            try:
                yield read(entry.payload)
            except Unreadable:
                continue  # a sink says so, and parks it
    except OSError as error:
        refuse(f"{error.filename or rules.events.journal}: {error.strerror}")


def _screen(asking: Asking, service: str, seconds: int, most: int) -> Iterator[str]:
    now_us = time.time_ns() // 1000
    span = Span(now_us - seconds * 1_000_000, now_us + 1)
    for number, by in enumerate(BY):
        found = asking(by, span)
        if not number:
            total = sum(each.answers for each in found)
            yield f"{service}, {span.end:%Y-%m-%d %H:%M:%S} UTC: {total:,} requests in the last {seconds} s"
        yield ""
        yield from tables.table((by, *_COLUMNS), [_row(each, by, seconds) for each in found[:most]])
        if len(found) > most:
            yield f"and {len(found) - most:,} more"


def _row(busy: Busy, by: str, seconds: int) -> dict[str, object]:
    values = (
        busy.answers,
        round(busy.answers / seconds, 1),
        busy.errors,
        round(busy.duration_us / busy.answers / 1000, 1),
        busy.request_bytes,
        busy.response_bytes,
    )
    return {by: busy.name or "-", **dict(zip(_COLUMNS, values, strict=True))}
