"""`meter-mw export`: everything that is held of a subject, for whom it is about or for who asks by right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from meter_mw.cli import places, policies
from meter_mw.policy.problems import quoted

if TYPE_CHECKING:
    from meter_mw.privacy.held import Held


@click.command()
@click.argument("subject")
@policies.option
def export(policy: str, subject: str) -> None:
    """Print everything that is held of SUBJECT, a JSON object a line: `place`, `kind` and `record`.

    It looks into the journal, parked events, ledgers, windows, files of sinks, the registry, the store and
    the policy's own list. What other backends hold they tell themselves.
    """
    count = 0
    with places.opened(policies.loaded(policy), subject) as found:
        for place in found:
            for each in place.held(subject):
                count += 1
                click.echo(_line(each))
    click.echo(f"{count or 'no'} records of {quoted(subject)}", err=True)


def _line(held: Held) -> str:
    return json.dumps(held._asdict(), ensure_ascii=False, default=str)
