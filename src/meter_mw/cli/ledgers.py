"""The ledger that a command reads: that of the policy's first sink of kind sql, or one by --ledger."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meter_mw.cli.policies import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.ledger.database import Database
    from meter_mw.policy.policy import Policy

_PATIENCE = 60.0
"""Seconds that a report may take."""

option = click.option(
    "--ledger", metavar="URL", help="The ledger; without it that of the policy's first sink of kind sql."
)
"""The option that names the ledger of a command."""


@contextmanager
def opened(policy: Policy, address: str | None) -> Iterator[Database]:
    """Give a ledger, and say what is wrong with it, or does not answer, and exit with 1."""
    try:
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - an extra of this package

        from meter_mw.ledger.database import (  # noqa: PLC0415
            SCHEMES,
            Database,
            WrongVersion,
            fault_of_address,
            within,
        )
        from meter_mw.ledger.faults import fault_of  # noqa: PLC0415
        from meter_mw.ledger.retention import Purged  # noqa: PLC0415
    except ImportError:
        refuse("the ledger needs SQLAlchemy: pip install 'meter-mw[sql]'")
    url = _address(policy) if address is None else address
    fault = fault_of_address(url) if url.partition(":")[0] in SCHEMES else f"expected {', '.join(SCHEMES)}"
    if fault is not None:
        refuse(f"--ledger: {fault}")
    url = within(url, Path.cwd())
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():
        refuse(f"{path}: there is no such ledger; the sink makes it with the first event")
    database = Database(url, _PATIENCE)
    try:
        yield database
    except (Purged, WrongVersion) as reason:
        refuse(str(reason))
    except SQLAlchemyError as error:
        refuse(f"{database.name} does not answer: {fault_of(error)[1]}")
    finally:
        database.close()


def _address(policy: Policy) -> str:
    from meter_mw.sinks.sql import address_of  # noqa: PLC0415 - needs an extra of this package

    rule = next((each for each in policy.events.sinks if each.kind.word == "sql"), None)
    if rule is None:
        refuse("events.sinks: found no sink of kind sql; name a ledger with --ledger, or write - sql")
    return address_of(rule.settings, policy.events.journal)
