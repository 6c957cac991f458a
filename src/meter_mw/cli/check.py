"""`meter-mw check`: say everything that is wrong with a policy, or what it decides."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from meter_mw.cli.words import summary
from meter_mw.meter import open_sealer, open_sinks, open_stores, refuse_unsafe
from meter_mw.policy.loader import load
from meter_mw.policy.problems import PolicyError, printable

_DEFAULT = "meter.yaml"


@click.command()
@click.argument("policy", envvar="METER_POLICY", default=_DEFAULT, metavar="[POLICY]")
@click.option("--store", is_flag=True, help="Ask the store too whether its settings are safe for counts.")
def check(policy: str, *, store: bool) -> None:
    """Check a policy file (METER_POLICY, or else meter.yaml).

    Every problem is one line on standard error, with its place in the file, and the exit status is 1.
    """
    sys.path.insert(0, str(Path.cwd()))  # where servers look for the module of a resolver
    if policy == _DEFAULT and not os.environ.get("METER_POLICY") and not Path(policy).exists():
        click.echo(
            f"METER_POLICY is not set, or empty, and there is no {_DEFAULT} here; name a file", err=True
        )
        sys.exit(1)
    try:
        loaded = load(policy)
        opened, _ = open_stores(loaded.store)
        open_sinks(loaded)
        open_sealer(loaded)
        if store:
            refuse_unsafe(opened)
    except PolicyError as error:
        for problem in error.problems:
            click.echo(str(replace(problem, file=problem.file or printable(policy))), err=True)
        sys.exit(1)
    for line in summary(loaded):
        click.echo(printable(line))
