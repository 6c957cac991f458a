"""The event that tells sinks of an erasure: whoever holds records of the erased subject finds them by it."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from meter_mw.model import ERASURE_EVENT, SubjectId, UsageEvent

if TYPE_CHECKING:
    from meter_mw.model import RequestId
    from meter_mw.policy.policy import Policy

ERASED = "erased_"
"""What the name begins with that stands for an erased subject."""


def tombstone(secret: bytes, subject: str) -> SubjectId:
    """Give the name that stands for a subject once it is erased: `erased_` and 128 bits of its HMAC-SHA256.

    Who has the secret, and thinks of the name, can find the records of an erased subject by it; nobody else
    can, and without the secret nobody at all.
    """
    # As for pseudonyms, no domain holds NUL, so this is the message of no key and of no address.
    return SubjectId(ERASED + hmac.digest(secret, b"erased\0" + subject.encode(), "sha256")[:16].hex())


def erasure(
    policy: Policy, name: SubjectId, secret: str, *, rid: RequestId, time_us: int, by: str
) -> UsageEvent:
    """Give the event that tells of an erasure: `name` stands for the subject, made under `secret`."""
    data: dict[str, object] = {"secret": secret, "policy": policy.digest, "by": by}
    return UsageEvent(rid, policy.source, name, time_us, data, ERASURE_EVENT)
