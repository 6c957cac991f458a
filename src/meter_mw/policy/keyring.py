"""The secrets that pseudonyms are made under, one after the other, and which is in force when.

Rule 1: a secret comes into force at an edge of the periods that unlisted keys are counted and billed in, so
no key changes its pseudonym, and with it perhaps its subject, in the middle of one.
Rule 2: what an earlier or a later secret of the ring made of a key is known to be the same key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meter_mw.policy.identity import anonymous_subject, pseudonym

if TYPE_CHECKING:
    from meter_mw.model import SubjectId
    from meter_mw.policy.identity import Credential

FIRST = "k1"
"""The id of a secret that is alone and has no other."""

_ID = re.compile(r"k[1-9][0-9]?")


def is_secret_id(text: str) -> bool:
    """Say whether this can name a secret: k1 to k99."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret, which pseudonyms name by its `id`; in force from `since_us` on (µs since 1970)."""

    id: str
    value: bytes = field(repr=False)
    since_us: int = 0

    def __post_init__(self) -> None:
        """Refuse an id that pseudonyms cannot begin with."""
        if not is_secret_id(self.id):
            raise ValueError(f"a secret has an id from k1 to k99, got {self.id!r}")

    def pseudonym(self, credential: Credential) -> str:
        """Give the name that stands for a key under this secret: `k2_` and 128 bits."""
        return pseudonym(self.value, credential, self.id)

    def anonymous(self, prefix: str) -> SubjectId:
        """Give the subject of a request without a key, by the prefix of its address."""
        return anonymous_subject(self.value, prefix)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The secrets of a policy, the oldest first; that one is in force from the beginning."""

    secrets: tuple[Secret, ...]

    def __post_init__(self) -> None:
        """Refuse a ring that does not say which secret is in force."""
        since = [each.since_us for each in self.secrets]
        if not since or since[0] != 0 or since != sorted(set(since)):
            raise ValueError(f"secrets follow each other, and the first has no beginning, got {self.secrets}")
        if len({each.id for each in self.secrets}) < len(since):
            raise ValueError(f"each secret has an id of its own, got {self.secrets}")

    @classmethod
    def of(cls, value: bytes) -> Keyring:
        """Give the ring of one secret."""
        return cls((Secret(FIRST, value),))

    @property
    def oldest(self) -> Secret:
        """The one that all others came after."""
        return self.secrets[0]

    @property
    def rotates(self) -> bool:
        """Whether there is more than one."""
        return len(self.secrets) > 1

    def at(self, now_us: int) -> Secret:
        """Give the one that is in force."""
        secrets = self.secrets
        if len(secrets) == 1:
            return secrets[0]
        return next(each for each in reversed(secrets) if each.since_us <= now_us or each is secrets[0])

    def others(self, secret: Secret) -> tuple[Secret, ...]:
        """Give all but one, the newest first."""
        return tuple(each for each in reversed(self.secrets) if each is not secret)
