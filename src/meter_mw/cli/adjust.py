"""`meter-mw adjust`: correct what was recorded, by an event that names it, with the reason."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meter_mw.adjusting import AdjustmentError, Recorded, adjustment, parse_changes, void, void_id
from meter_mw.audit.proofs import is_of, mentions
from meter_mw.cli import policies
from meter_mw.cli.policies import refuse
from meter_mw.cli.recording import record
from meter_mw.cli.who import user
from meter_mw.events import encode
from meter_mw.rids import new_rid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meter_mw.model import UsageEvent
    from meter_mw.policy.policy import Policy

_LONGEST_REASON = 500


@click.command()
@click.argument("event")
@click.argument("changes", nargs=-1, metavar="[FIELD=UNITS]...")
@click.option("--why", required=True, metavar="TEXT", help="The reason, which is recorded.")
@click.option("--void", "voids", is_flag=True, help="Take back all that the event counted.")
@click.option(
    "--now",
    is_flag=True,
    help="Count the correction in the present period, as where the one of the event is invoiced already.",
)
@click.option("--by", metavar="NAME", help="Who corrects; without it the user of this system.")
@click.option(
    "--event-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The event as it was delivered, where the journal has it no more.",
)
@click.option("--dry-run", is_flag=True, help="Print the correction, and record nothing.")
@policies.option
def adjust(
    event: str, changes: tuple[str, ...], event_file: Path | None, policy: str, *, dry_run: bool, **said: Any
) -> None:
    """Correct the event with the id EVENT: FIELD=UNITS adds units, or takes them back (requests=-1).

    The original stays as it is. The correction goes through the journal to every sink, which puts it
    into words of its backend. To void an event twice has the effect of once.
    """
    rules = policies.loaded(policy)
    try:
        known = list(mentions(rules.events.journal, event))
        payload = event_file.read_bytes().strip() if event_file else _of(known, event)
    except OSError as error:
        refuse(f"{error.filename or rules.events.journal}: {error.strerror}")
    if payload is None:
        refuse(f"{event} is not in {rules.events.journal}; give the event as delivered with --event-file")
    try:
        original = Recorded.decode(rules, payload, known)
        if said["voids"] and not changes and original.voided is not None and not original.is_left:
            _show(original.voided, "recorded already; nothing was done")
            return
        encoded = encode(_correction(rules, event, original, changes, **said))
    except AdjustmentError as error:
        refuse(str(error))
    if dry_run:
        _show(encoded, "not recorded (--dry-run)")
        return
    record(rules, [encoded])
    _show(encoded, "recorded; the forwarder brings it to the sinks")


def _of(payloads: Iterable[bytes], event: str) -> bytes | None:
    return next((each for each in payloads if is_of(each, event)), None)


def _show(payload: bytes, said: str) -> None:
    click.echo(json.dumps(json.loads(payload), indent=2, ensure_ascii=False))
    click.echo(said, err=True)


def _correction(
    rules: Policy,
    event: str,
    original: Recorded,
    words: tuple[str, ...],
    *,
    voids: bool,
    now: bool,
    why: str,
    by: str | None,
) -> UsageEvent:
    if original.id != event:
        raise AdjustmentError(f"the file holds event {original.id}, not {event}")
    if voids == bool(words):
        raise AdjustmentError("expected either FIELD=UNITS or --void")
    now_us = time.time_ns() // 1_000
    takes_all = voids and not original.corrected
    return adjustment(
        rules,
        original,
        void(original) if voids else parse_changes(rules, words),
        rid=void_id(original) if takes_all else new_rid(now_us),
        time_us=now_us if now else _microseconds(original.time),
        reason=why[:_LONGEST_REASON],
        by=by or user(),
    )


def _microseconds(time_of_event: str) -> int:
    try:
        moment = datetime.fromisoformat(time_of_event)
    except ValueError:
        raise AdjustmentError(f"the event's time {time_of_event!r} cannot be read") from None
    return round(moment.timestamp() * 1_000_000)
