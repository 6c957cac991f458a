"""The customers that a command is about: as the policy or the registry has them, or as it is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meter_mw.cli.policies import refuse
from meter_mw.meter import open_stores
from meter_mw.policy.reading import Document, Field
from meter_mw.policy.sections.plans import read_plan_name
from meter_mw.policy.sections.settings import read_date, read_timezone
from meter_mw.policy.terms import KeyEntry
from meter_mw.policy.yaml12 import Scalar
from meter_mw.registry.calls import Asker
from meter_mw.registry.office import Office, RegistryError
from meter_mw.registry.records import GarbledRecord, entry
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.invoicing.customers import Customer
    from meter_mw.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class Told:
    """What a command is told of a subject."""

    plan: str | None = None
    timezone: str | None = None
    anchor: str | None = None


def customer_of(policy: Policy, subject: str, told: Told) -> Customer:
    """Give a customer; exit with 1 where what is told of it cannot be, or is said elsewhere."""
    from meter_mw.invoicing.customers import customer  # noqa: PLC0415 - needs an extra of this package

    own = _told(policy, subject, told)
    known = registered(policy) if own is None and policy.registry else {}
    if own is not None and any(each.subject == subject for each in policy.keys.values()):
        refuse(f"SUBJECT: the policy lists {subject}; its plan, zone and anchor stand there")
    return customer(policy, subject, own or known.get(subject))


def registered(policy: Policy) -> Mapping[str, KeyEntry]:
    """Give the subjects of the registry; exit with 1 where the store does not answer."""
    if not policy.registry:
        return {}
    store, _ = open_stores(policy.store)
    try:
        if not isinstance(store, Asker):
            return {}
        entries = Office(policy, store).entries()
        return {each.key.subject: entry(each.key.subject, each.terms, policy) for each in entries}
    except (RegistryError, GarbledRecord, StoreUnavailable) as fault:
        refuse(str(fault))
    finally:
        store.close()


def _told(policy: Policy, subject: str, told: Told) -> KeyEntry | None:
    document = Document(None, Path.cwd(), {}, [])

    def field(name: str, text: str) -> Field:
        return Field(Scalar(text, text), f"--{name}", document)

    plan = read_plan_name(field("plan", told.plan), policy.plans) if told.plan else None
    zone = read_timezone(field("timezone", told.timezone)) if told.timezone else None
    anchor = read_date(field("anchor", told.anchor), "the date of a first period") if told.anchor else None
    if document.problems:
        refuse(*map(str, document.problems))
    if not (plan or zone or anchor):
        return None
    return KeyEntry(subject, plan, anchor=anchor, timezone=zone)
