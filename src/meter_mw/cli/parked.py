"""`meter-mw parked`: look at the events that a sink did not take, send them again, or drop them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import click

from meter_mw.cli import policies
from meter_mw.cli.policies import refuse
from meter_mw.cli.who import refuse_strangers, user
from meter_mw.journal.parked import Change, State, note, parked_path, read_all
from meter_mw.journal.unparking import Busy, is_in_doubt, resend, sole
from meter_mw.meter import open_sinks
from meter_mw.policy.problems import PolicyError, printable, quoted
from meter_mw.recovery.trail import STORE
from meter_mw.sinks.base import Delivered, Duplicate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from meter_mw.journal.parked import Parked
    from meter_mw.policy.policy import Policy
    from meter_mw.sinks.base import Sink

    Command: TypeAlias = Callable[..., None]

_COLUMNS = ("id", "state", "at", "sink", "event", "reason")
_LONGEST_CELL = 60


@click.group()
def parked() -> None:
    """Look after the events that a sink refused for good, or that must not be sent again blindly."""


def _command(command: Command) -> Command:
    """Give every command the option that names the policy."""
    return parked.command(command.__name__.strip("_"))(policies.option(command))


@_command
@click.option("--sink", "of_sink", help="The events of one sink alone.")
@click.option("--all", "everything", is_flag=True, help="Those too that were retried or dropped.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
def ls(policy: str, of_sink: str | None, *, everything: bool, as_json: bool) -> None:
    """List the parked events, the oldest first."""
    found = [
        event
        for event in _read(policies.loaded(policy).events.journal).values()
        if (everything or event.waits) and of_sink in (None, event.sink)
    ]
    if as_json:
        for event in found:
            click.echo(json.dumps(_said(event)))
    elif found:
        _table(found)
    else:
        click.echo("nothing is parked", err=True)


@_command
@click.argument("name", metavar="ID")
def show(policy: str, name: str) -> None:
    """Say all that is known of a parked event, as JSON: its bytes, and what was done with it."""
    (event,) = _named(_read(policies.loaded(policy).events.journal), [name])
    changes = [
        {"state": change.state.value, "at": _moment(change.at), "by": change.by, "why": change.why}
        for change in event.changes
    ]
    payload = event.payload.decode("utf-8", "backslashreplace")
    click.echo(json.dumps({**_said(event), "payload": payload, "changes": changes}, indent=2))


@_command
@click.argument("names", nargs=-1, metavar="[ID]...")
@click.option("--sink", "of_sink", help="Every parked event of a sink.")
@click.option("--all", "everything", is_flag=True, help="Every parked event.")
@click.option("--anyway", is_flag=True, help="Those in doubt too: the destination may count them twice.")
def retry(
    policy: str, names: tuple[str, ...], of_sink: str | None, *, everything: bool, anyway: bool
) -> None:
    """Send parked events again, now and once; a running forwarder is not disturbed.

    What the sink does not take stays parked. The exit status is 1 when any event does.
    """
    if sum([bool(names), of_sink is not None, everything]) != 1:
        raise click.UsageError("name events by ID, or a sink by --sink, or say --all")
    rules = policies.loaded(policy)
    directory = rules.events.journal
    with _alone(directory):
        events = _read(directory)
        waiting = [event for event in events.values() if event.waits and of_sink in (None, event.sink)]
        chosen = _unfinished(_named(events, names)) if names else waiting
        if of_sink is not None and not chosen:
            refuse(f"--sink: found {quoted(of_sink)}; nothing of such a sink is parked")
        taken = _resent(rules, directory, chosen, anyway=anyway)
    click.echo(f"{taken} of {len(chosen)} events delivered", err=True)
    sys.exit(0 if taken == len(chosen) else 1)


@_command
@click.argument("names", nargs=-1, required=True, metavar="ID...")
@click.option("--why", required=True, metavar="TEXT", help="The reason, which is kept with the event.")
def drop(policy: str, names: tuple[str, ...], why: str) -> None:
    """Decide that a sink will not get an event. It stays on record, with who, when and why."""
    if not why.strip():
        raise click.UsageError("--why: found nothing; expected the reason")
    directory = policies.loaded(policy).events.journal
    with _alone(directory):
        chosen = _unfinished(_named(_read(directory), names))
        try:
            note(directory, chosen, Change(State.DROPPED, time.time(), why.strip(), user()))
        except OSError as error:
            refuse(f"{parked_path(directory)}: {error.strerror}")
    click.echo(f"{len(chosen)} dropped", err=True)


def _resent(rules: Policy, directory: Path, chosen: Sequence[Parked], *, anyway: bool) -> int:
    """Send events to their sinks; say what stays and why, and return how many were taken."""
    try:
        sinks = {sink.name: sink for sink in open_sinks(rules)}
    except PolicyError as error:
        refuse(*policies.in_file(error.problems, "the policy"))
    of_sink: dict[str, list[Parked]] = defaultdict(list)
    for event in chosen:
        of_sink[event.sink].append(event)
    taken = 0
    for name, events in of_sink.items():
        sink = sinks.get(name)
        if name == STORE:
            _tell(events, "the store is not sent it; counts are off by it, and no bill: drop it")
            continue
        if sink is None:
            _tell(events, f"the policy has no sink {name} any more")
            continue
        doubtful = [event for event in events if not anyway and is_in_doubt(event, sink, time.time())]
        _tell(doubtful, "in doubt, the destination may have it; look there first, then say --anyway")
        taken += _sent(directory, sink, [event for event in events if event not in doubtful])
    return taken


def _sent(directory: Path, sink: Sink, events: Sequence[Parked]) -> int:
    try:
        outcomes = resend(directory, sink, events, by=user())
    except OSError as error:
        refuse(f"{parked_path(directory)}: {error.strerror}")
    finally:
        sink.close()
    for event, outcome in zip(events, outcomes, strict=True):
        if not isinstance(outcome, Delivered | Duplicate):
            _tell([event], outcome.reason)
    return sum(isinstance(outcome, Delivered | Duplicate) for outcome in outcomes)


def _tell(events: Iterable[Parked], why: str) -> None:
    for event in events:
        click.echo(f"{event.id} stays parked: {printable(why)}", err=True)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Be alone at the parked events, or say why not."""
    refuse_strangers(directory)
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(sole(directory))
        except Busy:
            refuse("another meter-mw parked is at work here; nothing was done")
        except OSError as error:
            refuse(f"{directory}: {error.strerror}")
        yield


def _read(directory: Path) -> dict[str, Parked]:
    try:
        return read_all(directory)
    except OSError as error:
        refuse(f"{parked_path(directory)}: {error.strerror}")


def _named(events: dict[str, Parked], names: Iterable[str]) -> list[Parked]:
    unknown = [name for name in names if name not in events]
    if unknown:
        refuse(*(f"ID: found {quoted(name)}; expected one that meter-mw parked ls shows" for name in unknown))
    return [events[name] for name in dict.fromkeys(names)]


def _unfinished(events: Iterable[Parked]) -> list[Parked]:
    chosen = list(events)
    done = [event for event in chosen if not event.waits]
    if done:
        refuse(*(f"{event.id} is {event.state.value} already; nothing was done" for event in done))
    return chosen


def _said(event: Parked) -> dict[str, str | None]:
    return {
        "id": event.id,
        "state": event.state.value,
        "at": _moment(event.at),
        "sink": event.sink,
        "event": _event_id(event.payload),
        "reason": event.reason,
        "sent": None if event.sent is None else _moment(event.sent),
    }


def _event_id(payload: bytes) -> str | None:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return str(document.get("id")) if isinstance(document, dict) else None


def _table(found: Iterable[Parked]) -> None:
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for event in found:
        said = _said(event)
        rows.append(tuple(printable(said[name] or "-")[:_LONGEST_CELL] for name in _COLUMNS))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
