"""`meter-mw keys`: make the keys of the registry, look at them, and change what they may do."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from meter_mw.cli import policies
from meter_mw.cli.policies import in_file, refuse
from meter_mw.cli.terms import terms_of, with_override, without_override
from meter_mw.meter import open_stores
from meter_mw.policy.problems import PolicyError, printable, quoted
from meter_mw.policy.sections.plans import DEFAULT_PLAN
from meter_mw.registry.calls import Asker
from meter_mw.registry.office import Entry, Office, RegistryError
from meter_mw.registry.records import GarbledRecord
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from meter_mw.policy.identity import Credential
    from meter_mw.policy.policy import Policy
    from meter_mw.registry.records import Terms

    Command: TypeAlias = Callable[..., None]

_ID = re.compile(r"(?:k[1-9][0-9]?_)?[0-9a-f]{4,32}")
_SPAN = re.compile(r"([0-9]{1,6}) ?(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_SPAN_S = 366 * 86_400
_COLUMNS = ("id", "subject", "plan", "account", "created", "state")


@click.group()
def keys() -> None:
    """Look after the keys of the registry, which is in the store of the policy (keys: {redis: true})."""


def _command(command: Command) -> Command:
    """Give every command the option that names the policy."""
    return keys.command(command.__name__.strip("_"))(policies.option(command))


_named = click.argument("name", metavar="ID")
_as_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")


@_command
@click.argument("subject")
@click.option("--plan", help="The plan; without one it is default.")
@click.option("--account", help="The account, for limits that its subjects share.")
@click.option("--anchor", help="The date of a first period, such as 2026-01-31.")
@click.option("--timezone", help="The IANA zone of calendar caps.")
@click.option(
    "--exempt", type=click.Choice(["true", "counted"]), help="Under no limit; and recorded, if counted."
)
def create(policy: str, subject: str, **options: str | None) -> None:
    """Make a key of SUBJECT, and print it: this is the only time that it is shown.

    Another key of a subject that has one takes its terms over.
    """
    with _office(policy) as (rules, office):
        terms = terms_of(rules, subject, {name: text for name, text in options.items() if text is not None})
        _hand_over(*office.create(subject, terms))


@_command
@click.option("--subject", help="The keys of one subject alone.")
@_as_json
def list_(policy: str, subject: str | None, *, as_json: bool) -> None:
    """List the keys, without what they are."""
    with _office(policy) as (_, office):
        now_us = office.now_us()
        found = [each for each in office.entries() if subject in (None, each.key.subject)]
        if as_json:
            click.echo(json.dumps([_said(each, now_us) for each in found], indent=2))
        elif found:
            _table(found, now_us)
        else:
            click.echo("no keys", err=True)


@_command
@_named
@_as_json
def show(policy: str, name: str, *, as_json: bool) -> None:
    """Say all that is known of a key, but not what it is."""
    with _office(policy) as (_, office):
        said = _said(office.find(_id(name)), office.now_us())
        if as_json:
            click.echo(json.dumps(said, indent=2))
            return
        for field, value in said.items():
            if value is not None:
                words = value if isinstance(value, str) else json.dumps(value)
                click.echo(f"{field:<9} {printable(words)}")


@_command
@_named
@click.option("--overlap", default="24h", show_default=True, help="How long the old key works on.")
def rotate(policy: str, name: str, overlap: str) -> None:
    """Make a key that takes over from another, of the same subject and with its counts; print it once.

    The old one works until the overlap is over: 0s, 30m, 24h, 7d.
    """
    with _office(policy) as (_, office):
        old, new, credential = office.rotate(_id(name), _span_us(overlap))
        _hand_over(new, credential)
        click.echo(f"the key {old.key.id} works until {_moment(old.key.expires_us)}", err=True)


@_command
@_named
def revoke(policy: str, name: str) -> None:
    """End a key now, for good. It acts on running workers within 2 seconds."""
    with _office(policy) as (_, office):
        key = office.revoke(_id(name)).key
        click.echo(f"the key {key.id} of {quoted(key.subject)} is revoked since {_moment(key.revoked_us)}")


@_command
@_named
@click.argument("limit")
@click.option("--cap", help="Units a period, such as 20000, 20000/month or '1 GiB'.")
@click.option("--rate", help="Units a second or so, such as 50/second.")
@click.option("--burst", help="Units of a rate that may come at once.")
@click.option("--concurrent", help="Requests at the same time, such as 20.")
@click.option(
    "--until", help="The day on which it is over, such as 2026-12-01, at midnight in the key's zone."
)
@click.option("--clear", is_flag=True, help="Back to what the plan says.")
def override(policy: str, name: str, limit: str, *, clear: bool, **amounts: str | None) -> None:
    """Give the subject of a key another amount for a LIMIT of its plan, or of a route.

    It applies to the subject, and so to all of its keys at once.
    """
    given = {option: _plain(text) for option, text in amounts.items() if text is not None}
    if clear and given:
        refuse(f"--clear: found it beside --{' and --'.join(given)}; expected either")
    with _office(policy) as (rules, office):

        def amended(old: Entry) -> Terms:
            if clear:
                return without_override(old, limit)
            return with_override(rules, old, limit, given, office.now_us())

        subject = office.amend(_id(name), amended).key.subject
        what = "as the plan says again" if clear else "set"
        click.echo(
            f"the limit {printable(limit)} is {what} for {quoted(subject)}, and so for all of its keys"
        )


@contextmanager
def _office(path: str) -> Iterator[tuple[Policy, Office]]:
    """Open the registry of a policy; what goes wrong is said on standard error, with the exit status 1."""
    policy = policies.loaded(path)
    if not policy.registry:
        refuse(
            f"{printable(path)}: keys: found no registry;"
            " expected keys: {redis: true}, without which no worker asks for its keys"
        )
    try:
        store, _ = open_stores(policy.store)
    except PolicyError as error:
        refuse(*in_file(error.problems, path))
    if not isinstance(store, Asker):
        refuse(f"{printable(path)}: store: found memory://; expected a Redis, which keeps the registry")
    try:
        yield policy, Office(policy, store)
    except (RegistryError, GarbledRecord, StoreUnavailable) as failure:
        refuse(str(failure))
    finally:
        store.close()


def _id(name: str) -> str:
    if not _ID.fullmatch(name):
        refuse("ID: found something else than 4 or more of the digits that meter-mw keys list shows")
    return name


def _span_us(text: str) -> int:
    match = _SPAN.fullmatch(text.strip())
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if match is None or seconds > _LONGEST_SPAN_S:
        refuse(f"--overlap: found {quoted(text)}; expected a time such as 0s, 30m, 24h or 7d, at most 366d")
    return seconds * 1_000_000


def _plain(text: str) -> object:
    """Give what a text would be in the policy: a number where it is one."""
    return int(text) if re.fullmatch("0|[1-9][0-9]{0,18}", text) else text


def _hand_over(entry: Entry, credential: Credential) -> None:
    plan = entry.terms.get("plan") or DEFAULT_PLAN
    click.echo(credential.reveal())
    click.echo(
        f"made the key {entry.key.id} of {quoted(entry.key.subject)} on plan {printable(plan)};"
        " this is the only time that it is shown",
        err=True,
    )


def _said(entry: Entry, now_us: int) -> dict[str, Any]:
    """Give what may be said of a key."""
    key, terms = entry.key, entry.terms
    names = ("plan", "account", "anchor", "timezone", "exempt", "limits")
    return {
        "id": key.id,
        "key": key.pseudonym,
        "subject": key.subject,
        **{name: terms.get(name) for name in names},
        "created": _moment(key.created_us),
        "expires": _moment(key.expires_us),
        "revoked": _moment(key.revoked_us),
        "state": key.ended(now_us) or "active",
    }


def _table(found: Sequence[Entry], now_us: int) -> None:
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for each in found:
        said = _said(each, now_us)
        if said["state"] == "active" and said["expires"]:
            said["state"] = f"until {said['expires']}"
        rows.append(tuple(printable(said[name] or "-") for name in _COLUMNS))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _moment(at_us: int | None) -> str | None:
    if at_us is None:
        return None
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
