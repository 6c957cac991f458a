"""The operator's resolver: what it answered about a key, checked, and kept for a short while."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from typing import TYPE_CHECKING

from meter_mw.policy.identity import PSEUDONYMS
from meter_mw.policy.policy import KeyEntry
from meter_mw.policy.sections.keys import SUBJECT_EXPECTED, is_subject
from meter_mw.policy.sections.settings import is_zone

if TYPE_CHECKING:
    from meter_mw.policy.policy import Policy

KEPT_S = 60.0
"""Seconds for which an answer is used again: a revoked key is refused after this at the latest."""

UNKNOWN_KEPT_S = 5.0
"""Seconds for which "not known" is used again: a new key works after this at the latest."""

MOST_KEPT = 10_000

_FIELDS = tuple(each.name for each in fields(KeyEntry))


class Answers:
    """What the resolver last said about each key, by the key's pseudonym."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, KeyEntry | None]] = {}
        self._lock = threading.Lock()

    def find(self, key: str, now_s: float) -> tuple[KeyEntry | None] | None:
        """Give the answer in a tuple of one, or None where there is none that is fresh."""
        kept = self._kept.get(key)
        return (kept[1],) if kept is not None and now_s < kept[0] else None

    def keep(self, key: str, answer: KeyEntry | None, now_s: float) -> None:
        """Remember an answer; the oldest make room."""
        with self._lock:
            self._kept.pop(key, None)
            while len(self._kept) >= MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (now_s + (UNKNOWN_KEPT_S if answer is None else KEPT_S), answer)


def entry_of(answer: object, policy: Policy) -> KeyEntry | None:
    """Check what a resolver returned; raises ValueError that says what was found and expected.

    It quotes nothing of the answer: a name that is not known, or any value, may be the key itself.
    """
    if answer is None:
        return None
    if isinstance(answer, Mapping):
        if any(name not in _FIELDS for name in answer):
            raise ValueError(f"it returned a field that is not known; known are {', '.join(_FIELDS)}")
        if "subject" not in answer:
            raise ValueError("it returned no subject")
        answer = KeyEntry(**answer)
    if not isinstance(answer, KeyEntry):
        raise ValueError(f"it returned {type(answer).__name__}; expected a KeyEntry, a mapping or None")  # noqa: TRY004
    _check(answer, policy)
    return answer


def _check(entry: KeyEntry, policy: Policy) -> None:
    """Refuse what an entry of the policy could not have either; an operator's object may hold anything."""
    subject, plan, account, anchor, zone = (getattr(entry, name) for name in _FIELDS)
    rule = f"is not {SUBJECT_EXPECTED}, or begins with {' or '.join(PSEUDONYMS)}"
    faults = {
        f"a subject that {rule}": not is_subject(subject),
        f"an account that {rule}": account is not None and not is_subject(account),
        f"a plan that the policy does not have; it has {', '.join(policy.plans)}": plan is not None
        and plan not in tuple(policy.plans),
        "an anchor that is not a date": anchor is not None and not isinstance(anchor, date),
        "a timezone that is not known; expected one such as Europe/Paris": zone is not None
        and not is_zone(zone),
    }
    for fault, is_so in faults.items():
        if is_so:
            raise ValueError(f"it returned {fault}")
