"""The operator's resolver: what it answered about a key, checked, and kept for a short while."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from meter_mw.policy.identity import PSEUDONYMS
from meter_mw.policy.nodes import nodes_of
from meter_mw.policy.reading import Document, Field
from meter_mw.policy.sections.keys import SUBJECT_EXPECTED, is_subject
from meter_mw.policy.sections.overrides import is_override, limits_met, read_overrides
from meter_mw.policy.sections.settings import is_zone
from meter_mw.policy.substitution import has_reference
from meter_mw.policy.terms import Exemption, KeyEntry, Override
from meter_mw.policy.yaml12 import Entries, Items, Scalar

if TYPE_CHECKING:
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.yaml12 import Node

KEPT_S = 60.0
"""Seconds for which an answer is used again: a revoked key is refused after this at the latest."""

UNKNOWN_KEPT_S = 5.0
"""Seconds for which "not known" is used again: a new key works after this at the latest."""

MOST_KEPT = 10_000

_FIELDS = ("subject", "plan", "account", "anchor", "timezone", "exempt", "limits")


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
        answer = _entry(answer, policy)
    if not isinstance(answer, KeyEntry):
        raise ValueError(f"it returned {type(answer).__name__}; expected a KeyEntry, a mapping or None")  # noqa: TRY004
    _check(answer, policy)
    return answer


def _entry(answer: Mapping[object, object], policy: Policy) -> KeyEntry:
    """Give the entry that a mapping describes; its values are checked with those of any entry."""
    if any(name not in _FIELDS for name in answer):
        raise ValueError(f"it returned a field that is not known; known are {', '.join(_FIELDS)}")
    if "subject" not in answer:
        raise ValueError("it returned no subject")
    subject, plan, account, anchor, zone, exempt, limits = map(answer.get, _FIELDS)
    entry = KeyEntry(subject, plan, account, anchor, zone, _exemption(exempt))  # type: ignore[arg-type]
    if limits is None:
        return entry
    _check(entry, policy)
    return replace(entry, overrides=_overrides(limits, entry, policy))


def _exemption(exempt: object) -> Exemption:
    match exempt:
        case True:
            return Exemption.FREE
        case "counted":
            return Exemption.COUNTED
        case False | None:
            return Exemption.NONE
        case _:
            raise ValueError("it returned an exempt that is not True, False or counted")


def _overrides(limits: object, entry: KeyEntry, policy: Policy) -> tuple[Override, ...]:
    """Read amounts that an answer writes as the policy does; the first problem is told."""
    document = Document(None, Path(), {}, [])
    node = nodes_of(limits)
    if isinstance(node, str):
        raise ValueError(f"it returned limits that cannot be read: {node}")  # noqa: TRY004
    if _refers(node):
        raise ValueError("it returned limits with a reference; those are for the policy alone")
    met = limits_met(policy.plans[entry.plan or "default"], policy.routes)
    overrides = read_overrides(Field(node, "limits", document, private=True), met)
    if document.problems:
        raise ValueError(f"it returned limits that do not fit: {document.problems[0].message}")
    return overrides


def _refers(node: Node) -> bool:
    """Say whether any text has a reference: what comes from outside must name no variable or file."""
    match node:
        case Scalar():
            return has_reference(node.text)
        case Items():
            return any(map(_refers, node.nodes))
        case Entries():
            return any(_refers(each) for _, each in node.pairs)


def _check(entry: KeyEntry, policy: Policy) -> None:
    """Refuse what an entry of the policy could not have either; an operator's object may hold anything."""
    rule = f"is not {SUBJECT_EXPECTED}, or begins with {PSEUDONYMS}"
    account, plan, anchor, zone = entry.account, entry.plan, entry.anchor, entry.timezone
    faults = {
        f"a subject that {rule}": not is_subject(entry.subject),
        f"an account that {rule}": account is not None and not is_subject(account),
        f"a plan that the policy does not have; it has {', '.join(policy.plans)}": plan is not None
        and plan not in tuple(policy.plans),
        "an anchor that is not a date": anchor is not None and not isinstance(anchor, date),
        "a timezone that is not known; expected one such as Europe/Paris": zone is not None
        and not is_zone(zone),
        "an exemption that is none": not isinstance(entry.exemption, Exemption),
    }
    for fault, is_so in faults.items():
        if is_so:
            raise ValueError(f"it returned {fault}")
    overrides: object = entry.overrides
    met = limits_met(policy.plans[plan or "default"], policy.routes) if overrides else {}
    if not (isinstance(overrides, tuple) and all(is_override(each, met) for each in overrides)):
        raise ValueError("it returned overrides that fit no limit of the plan or of a route")
