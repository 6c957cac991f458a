"""What the registry holds: keys by their pseudonyms, and the terms of the subjects that they belong to."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, TypeAlias

from meter_mw.model import MeterError
from meter_mw.policy.identity import Credential
from meter_mw.policy.problems import quoted
from meter_mw.policy.resolver import entry_of
from meter_mw.policy.sections.overrides import limits_met
from meter_mw.policy.sections.plans import DEFAULT_PLAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.policy.policy import Policy
    from meter_mw.policy.terms import KeyEntry

PREFIX = "mk_"
"""What a key that is made here begins with, so that one that leaked is recognised."""

ID_LENGTH = 12
"""Digits of a pseudonym that name its key to the operator."""

_SECRET_BYTES = 32

Terms: TypeAlias = "Mapping[str, Any]"
"""What a listed key says of its subject, as JSON holds it: dates are texts; what is not said is left out."""


class GarbledRecord(MeterError):
    """A record that the registry does not write."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a subject: when it was made, and when it ends or ended, in µs of the store's time."""

    pseudonym: str
    subject: str
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None

    @property
    def id(self) -> str:
        """Give the name by which the operator speaks of it."""
        return self.pseudonym.partition("_")[2][:ID_LENGTH]

    @property
    def secret(self) -> str:
        """Give the id of the secret that its pseudonym was made under."""
        return self.pseudonym.partition("_")[0]

    def ended(self, now_us: int) -> str | None:
        """Say how it ended, or None while it works."""
        if self.revoked_us is not None:
            return "revoked"
        return "expired" if self.expires_us is not None and now_us >= self.expires_us else None


def made() -> Credential:
    """Make a key of 256 random bits."""
    return Credential(PREFIX + secrets.token_urlsafe(_SECRET_BYTES))


def packed_key(key: Key) -> str:
    """Give the record of a key."""
    times = {"created": key.created_us, "expires": key.expires_us, "revoked": key.revoked_us}
    return _packed({"subject": key.subject, **times})


def read_key(pseudonym: str, record: bytes) -> Key:
    """Read the record of a key."""
    match _read(record):
        case {"subject": str(subject), "created": int(created_us), **rest}:
            match rest.get("expires"), rest.get("revoked"):
                case (int() | None as expires_us, int() | None as revoked_us):
                    return Key(pseudonym, subject, created_us, expires_us, revoked_us)
    raise GarbledRecord(f"the record of the key {pseudonym} in the registry is damaged")


def packed_terms(terms: Terms) -> str:
    """Give the record of a subject's terms."""
    return _packed(terms)


def read_terms(subject: str, record: bytes) -> dict[str, Any]:
    """Read the record of a subject's terms."""
    terms = _read(record)
    if not isinstance(terms, dict):
        raise GarbledRecord(f"the terms of {quoted(subject)} in the registry are damaged")
    return terms


def entry(subject: str, terms: Terms, policy: Policy) -> KeyEntry:
    """Give what terms mean under a policy; an amount for a limit that is no more says nothing.

    Raises GarbledRecord for terms that do not fit it.
    """
    said = {**terms, "subject": subject}
    try:
        if "anchor" in said:
            said["anchor"] = date.fromisoformat(said["anchor"])
        plan = policy.plans.get(said.get("plan") or DEFAULT_PLAN)
        if "limits" in said and plan is not None:
            met = limits_met(plan, policy.routes)
            said["limits"] = {name: amount for name, amount in said["limits"].items() if name in met}
        found = entry_of(said, policy)
    except (ValueError, TypeError, AttributeError) as mistake:
        raise GarbledRecord(f"the terms of {quoted(subject)} do not fit the policy: {mistake}") from None
    if found is None:
        raise GarbledRecord(f"{quoted(subject)} has no terms")
    return found


def _packed(record: Mapping[str, object]) -> str:
    said = {name: value for name, value in record.items() if value is not None}
    return json.dumps(said, separators=(",", ":"), sort_keys=True)


def _read(record: bytes) -> Any:
    try:
        return json.loads(record)
    except ValueError:
        return None
