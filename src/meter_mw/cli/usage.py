"""`meter-mw usage`: what was used, by whatever is asked for, from the ledger."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from meter_mw.cli import ledgers, policies, tables
from meter_mw.cli.policies import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.ledger.reports import Step, UsageRow
    from meter_mw.ledger.spans import Span
    from meter_mw.policy.policy import Policy

_STEPS = ("day", "hour")
_NAMES = ("subject", "source", "account", "plan", "route")
_CHOICES = (*_STEPS, *_NAMES, "meter")


def _chosen(_: click.Context, param: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(each.strip() for each in text.split(",") if each.strip())
    strays = [each for each in names if each not in _CHOICES]
    if strays or not names or len({*names} & {*_STEPS}) > 1:
        found = ", ".join(strays) or text or "nothing"
        expected = f"some of {', '.join(_CHOICES)}, and no more than one of day and hour"
        raise click.BadParameter(f"found {found!r}; expected {expected}", param=param)
    return names


def _moment(_: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        expected = "a day or a time, such as 2026-11-20 or 2026-11-20T14:00Z"
        raise click.BadParameter(f"found {text!r}; expected {expected}", param=param) from None


@click.command()
@click.option(
    "--by",
    default="subject",
    callback=_chosen,
    metavar="NAMES",
    help=f"What to tell apart: some of {', '.join(_CHOICES)}, with commas.",
    show_default=True,
)
@click.option("--period", "name", metavar="PERIOD", help="2026-11, 2026 or 2026-11-21; else this month.")
@click.option("--since", callback=_moment, metavar="TIME", help="In place of a period: from when on.")
@click.option("--until", callback=_moment, metavar="TIME", help="Up to when; now, if left out.")
@click.option("--subject", "subjects", multiple=True, help="These subjects alone.")
@click.option("--timezone", metavar="ZONE", help="The IANA zone of periods, days and hours.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "parquet"]),
    default="table",
    help="How to show it; json is an object a line.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file, in place of the terminal."
)
@ledgers.option
@policies.option
def usage(
    *,
    policy: str,
    ledger: str | None,
    by: tuple[str, ...],
    name: str | None,
    since: datetime | None,
    until: datetime | None,
    subjects: tuple[str, ...],
    timezone: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Show what was used: a column for each meter, or with `--by …,meter` a row.

    Bytes are the meters `request_bytes` and `response_bytes`. Periods, days and hours are those of the
    policy's zone; of the subject's own zone and anchor where it is the only one asked for.
    """
    if form == "parquet" and output is None:
        refuse("--format parquet: expected --output FILE with it")
    rules = policies.loaded(policy)
    with ledgers.opened(rules, ledger) as database:
        from meter_mw.ledger.reports import Step, usage_by  # noqa: PLC0415 - needs an extra of this package

        zone, span = _span(rules, subjects, timezone, name, (since, until))
        step = next((Step(each) for each in by if each in _STEPS), None)
        asked = tuple(each for each in by if each in _NAMES)
        only = subjects or None
        rows = usage_by(database, asked, span, step=step, zone=zone, subjects=only, source=rules.source)
    columns, told = _told(rows, by, step, ZoneInfo(zone))
    _show(columns, told, form, output)


def _span(
    rules: Policy,
    subjects: Sequence[str],
    timezone: str | None,
    name: str | None,
    bounds: tuple[datetime | None, datetime | None],
) -> tuple[str, Span]:
    """Give the zone and the span that are meant."""
    since, until = bounds
    from meter_mw.ledger.spans import Span, SpanError, period_at, period_named  # noqa: PLC0415

    listed = [each for each in rules.keys.values() if [each.subject] == list(subjects)]
    anchor = listed[0].anchor if listed else None
    zone = timezone or (rules.caller(listed[0], None).timezone if listed else rules.timezone)
    try:
        here = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        refuse(f"--timezone: found {zone!r}; expected an IANA zone such as Europe/Paris")
    now_us = time.time_ns() // 1000
    if since is None:
        if until is not None:
            refuse("--until: expected --since with it")
        try:
            return zone, period_named(name, zone, anchor) if name else period_at(now_us, zone, anchor)
        except SpanError as fault:
            refuse(f"--period: {fault}")
    if name is not None:
        refuse("--since: expected no --period with it")
    start_us, end_us = _microseconds(since, here), now_us if until is None else _microseconds(until, here)
    if start_us >= end_us:
        refuse(f"--since: found {since.isoformat()}; expected a time before --until, and before now")
    return zone, Span(start_us, end_us)


def _microseconds(moment: datetime, zone: ZoneInfo) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    seconds = round((aware.astimezone(UTC).replace(microsecond=0)).timestamp())
    return seconds * 1_000_000 + aware.microsecond


def _told(
    rows: Sequence[UsageRow], by: Sequence[str], step: Step | None, zone: ZoneInfo
) -> tuple[list[str], list[dict[str, Any]]]:
    """Give the columns and rows as they are shown."""
    if "meter" in by:
        shown = [{**_named(row, by, step, zone), "meter": row.field, "units": row.units} for row in rows]
        return [*by, "units"], shown
    fields = sorted({row.field for row in rows}, key=_place)
    found: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
    for row in rows:
        told = _named(row, by, step, zone)
        found[tuple(told.values())] |= {**told, row.field: row.units}
    return [*by, *fields], [dict.fromkeys(fields, 0) | told for told in found.values()]


def _named(row: UsageRow, by: Sequence[str], step: Step | None, zone: ZoneInfo) -> dict[str, str]:
    named: dict[str, str] = {}
    for each in by:
        if each in _STEPS and step and row.start:
            local = row.start.astimezone(zone)
            named[each] = local.date().isoformat() if each == "day" else local.isoformat(timespec="minutes")
        elif each in _NAMES:
            named[each] = getattr(row, each)
    return named


def _place(field: str) -> tuple[int, str]:
    from meter_mw.ledger.records import BUILT_IN  # noqa: PLC0415

    return (BUILT_IN.index(field) if field in BUILT_IN else len(BUILT_IN), field)


def _show(columns: Sequence[str], rows: Sequence[dict[str, Any]], form: str, output: Path | None) -> None:
    if form == "parquet" and output is not None:
        tables.write_parquet(columns, rows, output)
        return
    if form == "csv":
        text = tables.csv_text(columns, rows)
    else:
        lines = tables.json_lines(rows) if form == "json" else tables.table(columns, rows)
        text = "".join(f"{line}\n" for line in lines)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
    if not rows:
        click.echo("nothing was used in that time", err=True)
