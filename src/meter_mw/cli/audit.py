"""`meter-mw audit`: show that the journal is as it was sealed, and prove single events."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from meter_mw.audit import proofs
from meter_mw.audit.book import Book
from meter_mw.audit.sealer import key_of
from meter_mw.audit.seals import SealError
from meter_mw.audit.verify import verify as findings_of
from meter_mw.cli import policies
from meter_mw.cli.policies import refuse
from meter_mw.policy.problems import printable

if TYPE_CHECKING:
    from meter_mw.audit.seals import Checking
    from meter_mw.policy.policy import Policy

_public_key = click.option(
    "--public-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check with this key (ed25519, PEM) instead of the policy's.",
)


@click.group()
def audit() -> None:
    """Check the sealed segments of a journal (events.seal), and prove that an event is among them."""


@audit.command()
@policies.option
@_public_key
@click.option("--head", help="The digest that `audit head` gave earlier: the book must still hold it.")
def verify(policy: str, public_key: Path | None, head: str | None) -> None:
    """Compare every segment with its seal; name what was changed, removed, put in or moved.

    Each finding is a line on standard output, and the exit status is 1 then.
    """
    rules = policies.loaded(policy)
    book = Book(rules.events.journal)
    key = _key(rules, public_key)
    count = 0
    try:
        for finding in findings_of(rules.events.journal, book, key, head=head):
            count += 1
            click.echo(printable(str(finding)))
    except OSError as error:
        refuse(f"{error.filename or book.path}: {error.strerror}")
    seals = len(book.lines())
    click.echo(f"{seals} seals checked with {key.name}, {count or 'no'} findings", err=True)
    sys.exit(1 if count else 0)


@audit.command()
@policies.option
def head(policy: str) -> None:
    """Print the digest of the last seal: noted elsewhere, it shows later that no seal was cut off."""
    book = Book(policies.loaded(policy).events.journal)
    try:
        last = list(book.seals())[-1:]
    except SealError as error:
        refuse(str(error))
    if not last:
        refuse(f"{book.path}: nothing is sealed yet")
    click.echo(last[0].digest())


@audit.command()
@click.argument("event")
@policies.option
@click.option(
    "--event-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The event as it was delivered, byte for byte, where the journal has it no more.",
)
def prove(event: str, policy: str, event_file: Path | None) -> None:
    """Print a proof that the event with the id EVENT was recorded; it shows nothing of other events."""
    rules = policies.loaded(policy)
    book = Book(rules.events.journal)
    try:
        record = (
            event_file.read_bytes().strip() if event_file else proofs.recorded(rules.events.journal, event)
        )
    except OSError as error:
        refuse(f"{error.filename or rules.events.journal}: {error.strerror}")
    if event_file and record is not None and not proofs.is_of(record, event):
        refuse(f"{event_file} does not hold the event {event}")
    if record is None:
        refuse(f"{event} is not in {rules.events.journal}; give the event as delivered with --event-file")
    try:
        click.echo(proofs.prove(book, record).encode())
    except (SealError, OSError) as error:
        refuse(f"{event}: {error}")


@audit.command()
@click.argument("proof", type=click.File("rb"))
@policies.option
@_public_key
def check(proof: TextIO, policy: str, public_key: Path | None) -> None:
    """Check a proof (a file, or - for standard input); the exit status is 1 where it does not hold."""
    try:
        given = proofs.Proof.decode(proof.read())
    except SealError as error:
        refuse(str(error))
    key = _key(None if public_key else policies.loaded(policy), public_key)
    faults = given.faults(key)
    if faults:
        refuse(*faults)
    click.echo(
        f"recorded: record {given.index} of {given.seal.events} in segment {given.seal.segment} of"
        f" {given.seal.estate}, seal {given.seal.number}, signed by {key.name}"
    )


def _key(rules: Policy | None, public_key: Path | None) -> Checking:
    try:
        if public_key is not None:
            from meter_mw.audit.ed25519 import public_key as read  # noqa: PLC0415 - an extra brings its client

            return read(public_key.read_bytes())
        if rules is None or rules.events.seal is None:
            refuse("nothing is sealed: the policy has no events.seal")
        return key_of(rules.events.seal)
    except ImportError:
        refuse("keys of ed25519 need cryptography: pip install 'meter-mw[audit]'")
    except SealError as error:
        refuse(str(error))
