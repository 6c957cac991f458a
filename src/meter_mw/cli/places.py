"""The places of a policy in which records of subjects are, opened for a command."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from meter_mw.cli.policies import in_file, refuse
from meter_mw.meter import open_sinks, open_stores
from meter_mw.policy.problems import PolicyError
from meter_mw.privacy.files import FilePlace, JournalPlace, ParkedPlace
from meter_mw.privacy.forgetting import keys_of
from meter_mw.privacy.keys import PolicyPlace, RegistryPlace, StorePlace
from meter_mw.privacy.windows import WindowsPlace, window_folders
from meter_mw.registry.calls import Asker
from meter_mw.registry.records import GarbledRecord
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.ledger.database import Database
    from meter_mw.policy.policy import Policy
    from meter_mw.privacy.held import Place

_PATIENCE = 600.0
"""Seconds that all of a subject in a ledger may take: it may be a year of events."""


@contextmanager
def opened(policy: Policy, subject: str) -> Iterator[list[Place]]:
    """Give the places in the order in which they forget: first what says whose a key is, last what is sealed.

    What one of them does not answer is said on standard error, with the exit status 1.
    """
    try:
        sinks = open_sinks(policy)
        store, _ = open_stores(policy.store)
    except PolicyError as error:
        refuse(*in_file(error.problems, "the policy"))
    ledgers = _ledgers(policy)
    journal = policy.events.journal
    files = [each.settings.path("file") for each in policy.events.sinks if each.kind.word == "file"]
    try:
        with _told(ledgers):
            first: list[Place] = [PolicyPlace(policy)]
            rest: list[Place] = _ledger_places(ledgers, policy.source)
            rest += (WindowsPlace(each) for each in window_folders(journal))
            rest.append(ParkedPlace(journal, policy.source))
            rest += (FilePlace(each, policy.source) for each in files)
            rest.append(JournalPlace(journal, policy.source, [each.name for each in sinks]))
            if isinstance(store, Asker):
                first += [RegistryPlace(policy, store)] if policy.registry else []
                keys = keys_of([*first, *rest], subject)
                first.append(StorePlace(policy, store, store, keys))
            yield [*first, *rest]
    except (GarbledRecord, StoreUnavailable) as failure:
        refuse(str(failure))
    except OSError as error:
        refuse(f"{error.filename or journal}: {error.strerror}")
    finally:
        store.close()
        for each in sinks:
            each.close()


def _ledgers(policy: Policy) -> list[Database]:
    """Open the ledgers of a policy that are there already."""
    rules = [each for each in policy.events.sinks if each.kind.word == "sql"]
    if not rules:
        return []
    from meter_mw.ledger.database import Database  # noqa: PLC0415 - an extra of this package
    from meter_mw.sinks.sql import address_of  # noqa: PLC0415

    addresses = [address_of(each.settings, policy.events.journal) for each in rules]
    return [Database(each, _PATIENCE) for each in addresses if _is_there(each)]


def _is_there(address: str) -> bool:
    """Say whether a ledger may hold anything: a file that is not there is not to be made."""
    head, _, path = address.partition(":///")
    return head != "sqlite" or Path(path).exists()


def _ledger_places(ledgers: list[Database], source: str) -> list[Place]:
    if not ledgers:
        return []
    from meter_mw.privacy.ledgers import LedgerPlace  # noqa: PLC0415 - an extra of this package

    return [LedgerPlace(each, source) for each in ledgers]


@contextmanager
def _told(ledgers: list[Database]) -> Iterator[None]:
    """Close ledgers in the end, and say what is wrong with one."""
    if not ledgers:
        yield
        return
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - an extra of this package

    from meter_mw.ledger.database import WrongVersion  # noqa: PLC0415
    from meter_mw.ledger.faults import fault_of  # noqa: PLC0415

    try:
        yield
    except WrongVersion as reason:
        refuse(str(reason))
    except SQLAlchemyError as error:
        names = ", ".join(each.name for each in ledgers)
        refuse(f"{names} does not answer: {fault_of(error)[1]}")
    finally:
        for each in ledgers:
            each.close()
