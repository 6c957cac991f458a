"""`meter-mw journal`: look into the journal, find what is damaged, and repair it. Safe beside writers."""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from meter_mw.cli import policies
from meter_mw.cli.policies import refuse
from meter_mw.journal.estates import estate_paths, is_held, segment_numbers, segment_path
from meter_mw.journal.frames import Flaw
from meter_mw.journal.reading import Damage, Entry, read_estate
from meter_mw.journal.repairing import Busy
from meter_mw.journal.repairing import repair as repaired
from meter_mw.journal.surveying import Owner, Survey, field, survey
from meter_mw.policy.problems import printable, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Command: TypeAlias = Callable[..., None]

_COLUMNS = ("estate", "held by", "segments", "events", "bytes", "first", "last", "waiting")
_HOLDERS = {Owner.NOBODY: "nobody", Owner.ADOPTER: "an adopter"}


@click.group()
def journal() -> None:
    """Look into the journal, where usage events wait, and repair what is damaged of it."""


def _command(command: Command) -> Command:
    """Give every command the options that say which journal."""
    directory = click.option(
        "--dir",
        "directory",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        help="The journal's directory, instead of the policy's.",
    )
    return journal.command(command.__name__)(policies.option(directory(command)))


@_command
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
def ls(policy: str, directory: Path | None, *, as_json: bool) -> None:
    """List the estates: the segments of each process, and how many events each sink does not have."""
    try:
        found = list(survey(_home(policy, directory)))
    except OSError as error:
        _fail(error)
    if as_json:
        for each in found:
            click.echo(json.dumps(_said(each)))
    elif found:
        _table(found)
    else:
        click.echo("the journal is empty", err=True)


@_command
@click.option("--subject", help="The events of one subject alone.")
@click.option("--id", "name", help="The event with this id alone.")
@click.option("--since", metavar="TIME", help="Events from this moment on, as 2026-11-21T16:00:00Z.")
def cat(
    policy: str, directory: Path | None, subject: str | None, name: str | None, since: str | None
) -> None:
    """Print the events, a line of JSON each, delivered or not; what is damaged is named on standard error."""
    begin = None if since is None else _moment(since)
    try:
        for estate in estate_paths(_home(policy, directory)):
            for found in _read(estate):
                if isinstance(found, Damage):
                    click.echo(printable(str(found)), err=True)
                elif _is_wanted(found.payload, subject, name, begin):
                    click.echo(_line(found.payload))
    except OSError as error:
        _fail(error)


@_command
def verify(policy: str, directory: Path | None) -> None:
    """Check every byte, and name each flaw with its place; the exit status is 1 when there is any."""
    events = flaws = 0
    try:
        for estate in estate_paths(_home(policy, directory)):
            for found in _read(estate):
                if isinstance(found, Damage):
                    flaws += 1
                    click.echo(printable(str(found)))
                else:
                    events += 1
    except OSError as error:
        _fail(error)
    click.echo(f"{events} events are intact, {flaws or 'no'} flaws", err=True)
    sys.exit(1 if flaws else 0)


@_command
@click.argument("names", nargs=-1, metavar="[ESTATE]...")
def repair(policy: str, directory: Path | None, names: Sequence[str]) -> None:
    """Make what is damaged of estates that no process holds readable without a flaw; all, if none is named.

    What is intact stays, with its place. The damaged file is moved aside, never deleted. Frames or
    segments that were removed cannot be brought back, and are still named by `verify`.
    """
    try:
        paths = {path.name: path for path in estate_paths(_home(policy, directory))}
    except OSError as error:
        _fail(error)
    unknown = [name for name in names if name not in paths]
    if unknown:
        known = "expected one that meter-mw journal ls shows"
        refuse(*(f"ESTATE: found {quoted(each)}; {known}" for each in unknown))
    busy = [not _repair(paths[name], must=bool(names)) for name in names or paths]
    sys.exit(1 if any(busy) else 0)


def _repair(path: Path, *, must: bool) -> bool:
    """Repair an estate and say what was lost; return whether it could be, if it had to be."""
    try:
        found = repaired(path)
    except Busy:
        click.echo(f"{path}: a process holds it, nothing was done", err=True)
        return not must
    except OSError as error:
        _fail(error)
    for each in found:
        for damage in each.damages:
            click.echo(printable(str(damage)))
        click.echo(printable(f"{each.damages[0].path}: repaired; as it was: {each.aside}"), err=True)
    return True


def _home(policy: str, directory: Path | None) -> Path:
    return policies.loaded(policy).events.journal if directory is None else directory


def _fail(error: OSError) -> None:
    refuse(f"{error.filename or 'the journal'}: {error.strerror}")


def _read(estate: Path) -> Iterator[Entry | Damage]:
    """Read an estate; what its writer is about to write is no flaw."""
    last = None
    if is_held(estate):
        last = segment_path(estate, max(segment_numbers(estate), default=0))
    for found in read_estate(estate):
        is_growing = isinstance(found, Damage) and found.flaw is Flaw.TORN and found.path == last
        if not is_growing:
            yield found


def _is_wanted(payload: bytes, subject: str | None, name: str | None, begin: datetime | None) -> bool:
    if subject is not None and field(payload, "subject") != subject:
        return False
    if name is not None and field(payload, "id") != name:
        return False
    if begin is None:
        return True
    moment = field(payload, "time")
    try:
        return isinstance(moment, str) and _aware(moment) >= begin
    except ValueError:
        return False


def _moment(text: str) -> datetime:
    try:
        return _aware(text)
    except ValueError:
        raise click.UsageError(
            f"--since: found {quoted(text)}; expected a moment, as 2026-11-21T16:00:00Z"
        ) from None


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _line(payload: bytes) -> str:
    """Give an event as a line; one that is no line of text in base64."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = "\n"
    if text.isprintable():
        return text
    return json.dumps({"payload_base64": base64.b64encode(payload).decode()})


def _said(each: Survey) -> dict[str, object]:
    return {
        "estate": each.path.name,
        "pid": each.pid,
        "held_by": each.owner.value,
        "segments": each.segments,
        "events": each.events,
        "bytes": each.size,
        "first": each.first,
        "last": each.last,
        "sinks": {
            sink: {"segment": cursor.sequence, "offset": cursor.offset, "waiting": each.lags[sink]}
            for sink, cursor in each.cursors.items()
        },
    }


def _table(found: Iterable[Survey]) -> None:
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for each in found:
        waiting = ", ".join(f"{sink}: {lag}" for sink, lag in each.lags.items())
        holder = _HOLDERS.get(each.owner, f"its writer, {each.pid}")
        numbers = (str(each.segments), str(each.events), str(each.size))
        cells = (each.path.name, holder, *numbers, each.first or "-", each.last or "-", waiting or "-")
        rows.append(tuple(map(printable, cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
