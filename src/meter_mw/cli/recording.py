"""What a command puts on record: events into the journal, which the forwarder brings to the sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.cli import policies
from meter_mw.cli.policies import refuse
from meter_mw.cli.who import refuse_strangers
from meter_mw.journal import Journal, JournalError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meter_mw.policy.policy import Policy

_PATIENCE = 5.0
"""Seconds within which the disk has to have what is recorded."""


def record(rules: Policy, payloads: Iterable[bytes]) -> None:
    """Put encoded events into the journal of a policy; say why not, and exit with 1, where it takes none."""
    refuse_strangers(rules.events.journal)
    journal = Journal(rules.events.journal, rules.source, sealing=policies.sealer(rules))
    try:
        positions = [journal.append(each) for each in payloads]
        is_recorded = all(journal.wait(each, _PATIENCE) for each in positions)
    except JournalError as error:
        refuse(f"not recorded: {error}")
    journal.close()
    if not is_recorded:
        refuse(f"not recorded, or not durably: {journal.directory} takes no events")
