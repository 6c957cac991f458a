"""`meter-mw reconcile`: compare what was recorded with what the store, the ledger and the backends have."""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from meter_mw.cli import policies
from meter_mw.cli.policies import refuse
from meter_mw.meter import open_sinks, open_stores
from meter_mw.policy.problems import PolicyError, printable
from meter_mw.reconciling.report import Ledger, Reconciliation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meter_mw.policy.policy import Policy
    from meter_mw.reconciling.rows import Row

_COLUMNS = (
    "subject",
    "field",
    "from",
    "to",
    "place",
    "recorded",
    "found",
    "drift",
    "in_flight",
    "parked",
    "late",
    "cause",
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _moment(_: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    """Read a day or a minute, in UTC where it names no zone."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"found {text!r}; expected a day or a minute, such as 2026-11-20 or 2026-11-20T14:00Z",
            param=param,
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment.second or moment.microsecond:
        raise click.BadParameter("backends are asked in whole minutes", param=param)
    return moment


@click.command()
@click.option("--from", "start", callback=_moment, metavar="TIME", help="Begin of the window (UTC).")
@click.option("--to", "end", callback=_moment, metavar="TIME", help="Its end, which is not part of it.")
@click.option("--subject", "subjects", multiple=True, help="These subjects alone.")
@click.option("--no-store", is_flag=True, help="Leave out the counters of the store.")
@click.option("--all", "everything", is_flag=True, help="Rows that agree as well.")
@click.option("--json", "form", flag_value="json", help="JSON lines instead of a table.")
@click.option("--csv", "form", flag_value="csv", help="CSV instead of a table.")
@policies.option
def reconcile(
    policy: str,
    start: datetime | None,
    end: datetime | None,
    subjects: tuple[str, ...],
    form: str | None,
    *,
    no_store: bool,
    everything: bool,
) -> None:
    """Compare a closed window at every place; without --from and --to it is yesterday, in UTC.

    A row is one quantity of one subject at one place. Counters of the store are compared since their own
    windows opened, as a store keeps no closed ones. The exit status is 1 where something has a drift that
    neither events under way nor parked ones explain, or where a place did not answer.
    """
    rules = policies.loaded(policy)
    window = _window(start, end)
    reconciliation = _reconciliation(rules, subjects)
    try:
        found = list(reconciliation.rows(window, _microseconds(datetime.now(UTC))))
        if not no_store:
            found += _counted(rules, reconciliation)
    except LookupError as error:
        refuse(str(error))
    except ConnectionError as error:
        refuse(f"the ledger does not answer: {error}")
    except OSError as error:
        refuse(f"{error.filename or rules.events.journal}: {error.strerror}")
    finally:
        for sink in reconciliation.sinks:
            sink.close()
    shown = [row for row in found if everything or not row.agrees or row.drift or row.late]
    _print(shown, form)
    wrong = sum(not row.agrees for row in found)
    nothing = "nothing compared: there was no usage, or fewer than two places tell of that time"
    click.echo(f"{len(found)} compared, {wrong or 'none'} unexplained" if found else nothing, err=True)
    sys.exit(1 if wrong else 0)


def _window(start: datetime | None, end: datetime | None) -> tuple[int, int]:
    if (start is None) != (end is None):
        refuse("expected both --from and --to, or neither for yesterday")
    now = datetime.now(UTC)
    if start is None or end is None:
        end = now.replace(hour=0, minute=0, second=0, microsecond=0)
        start = end - timedelta(days=1)
    if not start < end:
        refuse(f"--from {start.isoformat()} is not before --to {end.isoformat()}")
    if end > now:
        refuse(f"--to {end.isoformat()} is still to come; a window that is open cannot be compared")
    return _microseconds(start), _microseconds(end)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _reconciliation(rules: Policy, subjects: tuple[str, ...]) -> Reconciliation:
    try:
        sinks = open_sinks(rules)
    except PolicyError as error:
        refuse(*policies.in_file(error.problems, "the policy"))
    ledger = next((sink for sink in sinks if isinstance(sink, Ledger)), None)
    told = zip(rules.events.sinks, sinks, strict=True)
    fields = {
        sink.name: tuple(rule.settings.table("meters"))
        for rule, sink in told
        if "meters" in rule.kind.options and rule.settings.has("meters")
    }
    return Reconciliation(rules, sinks, ledger, subjects, fields)


def _counted(rules: Policy, reconciliation: Reconciliation) -> list[Row]:
    store, _ = open_stores(rules.store)
    if rules.store.startswith("memory:"):
        return []  # it is in the processes of the app, and cannot be looked into from here
    try:
        return list(reconciliation.counted(store, store.now_us()))
    finally:
        store.close()


def _print(found: Iterable[Row], form: str | None) -> None:
    lines = [_said(row) for row in found]
    if form == "json":
        for line in lines:
            click.echo(json.dumps(line))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, _COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    elif lines:
        _table(lines)


def _table(lines: list[dict[str, object]]) -> None:
    cells = [list(_COLUMNS), *([printable(str(line[name])) for name in _COLUMNS] for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _said(row: Row) -> dict[str, object]:
    return {
        "subject": row.amount.subject,
        "field": row.amount.field,
        "from": _time(row.start_us),
        "to": _time(row.end_us),
        "place": row.place,
        "recorded": row.recorded,
        "found": "" if row.found is None else row.found,
        "drift": row.drift,
        "in_flight": row.in_flight,
        "parked": row.parked,
        "late": row.late,
        "cause": row.cause,
    }


def _time(moment_us: int) -> str:
    return (_EPOCH + moment_us * _MICROSECOND).strftime("%Y-%m-%dT%H:%M:%SZ")
