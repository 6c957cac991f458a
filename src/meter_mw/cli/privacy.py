"""`meter-mw privacy`: say what is recorded of customers, what for, where it goes and for how long."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, TypeAlias

import click

from meter_mw.cli import policies
from meter_mw.fields import ENVELOPE
from meter_mw.policy.problems import printable
from meter_mw.privacy.report import report as made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meter_mw.privacy.report import Report

_FIELDS = ("field", "personal", "purpose", "in events")
_DESTINATIONS = ("destination", "at", "holds", "kept")


@click.group()
def privacy() -> None:
    """Say what is recorded of customers."""


@privacy.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    help="For eyes, for a page that customers read, or for programs.",
)
@policies.option
def report(policy: str, form: str) -> None:
    """Print every field that is recorded, its purpose, where it goes, and how long it stays.

    It is made from the policy and from the list by which events are written: nothing else is recorded.
    """
    found = made(policies.loaded(policy))
    for line in _FORMS[form](found):
        click.echo(line)


def _text(found: Report) -> Iterator[str]:
    yield f"what {printable(found.service)} records (policy {found.policy})"
    yield ""
    yield f"subjects: {found.subjects}"
    yield f"never recorded: {'; '.join(found.never)}"
    for heading, rows in _tables(found):
        yield ""
        cells = [heading, *rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            laid = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield "  ".join(laid).rstrip()


def _markdown(found: Report) -> Iterator[str]:
    yield f"# What {_escaped(found.service)} records of your use"
    yield ""
    yield f"Whose use it is: {_escaped(found.subjects)}."
    yield ""
    yield f"Never recorded: {_escaped('; '.join(found.never))}."
    public = replace(
        found, destinations=tuple(replace(each, at=_public(each.at)) for each in found.destinations)
    )
    for title, (heading, rows) in zip(("What is recorded", "Where it goes"), _tables(public), strict=True):
        yield from ("", f"## {title}", "")
        yield f"| {' | '.join(heading)} |"
        yield f"|{'---|' * len(heading)}"
        for row in rows:
            yield f"| {' | '.join(map(_escaped, row))} |"


def _json(found: Report) -> Iterator[str]:
    yield json.dumps(asdict(found), indent=2, ensure_ascii=False)


_FORMS: dict[str, Callable[[Report], Iterator[str]]] = {
    "text": _text,
    "markdown": _markdown,
    "json": _json,
}


_Table: TypeAlias = "tuple[tuple[str, ...], list[tuple[str, ...]]]"


def _tables(found: Report) -> tuple[_Table, _Table]:
    """Give the two tables of a report, the heading and the rows of each."""
    recorded: list[tuple[str, ...]] = [
        (each.name, "yes" if each.personal else "no", each.purpose, _short(each.events))
        for each in found.fields
    ]
    places: list[tuple[str, ...]] = [
        (each.name, printable(each.at), each.holds, each.kept) for each in found.destinations
    ]
    return (_FIELDS, recorded), (_DESTINATIONS, places)


def _short(types: tuple[str, ...]) -> str:
    """Give types of events without what all of ours have."""
    if types == ENVELOPE[0].types:
        return "all"
    return ", ".join(each.removeprefix("meter_mw.").removesuffix(".v1") for each in types)


def _public(at: str) -> str:
    """Give where a destination is, unless that is a place on our own machines."""
    return at if at.startswith(("http://", "https://")) else ""


def _escaped(text: str) -> str:
    """Give a text as it stands in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")
