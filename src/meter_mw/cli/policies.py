"""The policy that a command is about: METER_POLICY, or else meter.yaml."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from meter_mw.meter import open_sealer
from meter_mw.policy.loader import load
from meter_mw.policy.problems import PolicyError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meter_mw.audit.sealer import Sealer
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.problems import Problem

DEFAULT = "meter.yaml"


option = click.option(
    "--policy", envvar="METER_POLICY", default=DEFAULT, help="The policy file.", metavar="PATH"
)
"""The option that names the policy of a command."""


def loaded(path: str) -> Policy:
    """Load a policy, or say everything that is wrong with it and exit with 1."""
    sys.path.insert(0, str(Path.cwd()))  # where servers look for the module of a resolver
    if path == DEFAULT and not os.environ.get("METER_POLICY") and not Path(path).exists():
        refuse(f"METER_POLICY is not set, or empty, and there is no {DEFAULT} here; name a file")
    try:
        return load(path)
    except PolicyError as error:
        refuse(*in_file(error.problems, path))


def sealer(policy: Policy) -> Sealer | None:
    """Give who seals the journal of a policy, if anybody does; or say why not, and exit with 1."""
    try:
        return open_sealer(policy)
    except PolicyError as error:
        refuse(*in_file(error.problems, "the policy"))


def in_file(problems: Iterable[Problem], path: str) -> list[str]:
    """Say problems with the file that they are in."""
    return [str(replace(each, file=each.file or printable(path))) for each in problems]


def refuse(*lines: str) -> NoReturn:
    """Say why not on standard error, and exit with 1."""
    for line in lines:
        click.echo(printable(line), err=True)
    sys.exit(1)
