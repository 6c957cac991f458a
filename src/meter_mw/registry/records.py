"""What the registry holds: keys by their pseudonyms, and the terms of the subjects that they belong to."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, TypeAlias

from meter_mw.model import MeterError
from meter_mw.policy.identity import PSEUDONYMS, Credential
from meter_mw.policy.resolver import entry_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.policy.policy import KeyEntry, Policy

PREFIX = "mk_"
"""What a key that is made here begins with, so that one that leaked is recognised."""

KEY_PREFIX = PSEUDONYMS[0]
"""What the pseudonym of a key begins with, and the name of no subject does."""

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
        return self.pseudonym[len(KEY_PREFIX) :][:ID_LENGTH]

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
        raise GarbledRecord(f"the terms of the subject {subject!r} in the registry are damaged")
    return terms


def entry(subject: str, terms: Terms, policy: Policy) -> KeyEntry:
    """Check terms under a policy; raises ValueError that says what is wrong with them."""
    said = {**terms, "subject": subject}
    if "anchor" in said:
        said["anchor"] = date.fromisoformat(said["anchor"])
    checked = entry_of(said, policy)
    assert checked is not None  # noqa: S101 - a mapping is never answered by None
    return checked


def _packed(record: Mapping[str, object]) -> str:
    said = {name: value for name, value in record.items() if value is not None}
    return json.dumps(said, separators=(",", ":"), sort_keys=True)


def _read(record: bytes) -> Any:
    try:
        return json.loads(record)
    except ValueError:
        return None
