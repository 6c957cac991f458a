"""What a policy has recorded of its customers: which fields, what for, where they go, and for how long.

It is made from the policy and from the list of `fields`, which is also what is enforced: what is not in the
report is not recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw import fields
from meter_mw.model import ADJUSTMENT_EVENT, REQUEST_EVENT, WINDOW_EVENT, Count
from meter_mw.policy.evidence import Address, Agent
from meter_mw.policy.policy import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.policy.delivery import SinkRule
    from meter_mw.policy.policy import Policy

NEVER = (
    "API keys themselves",
    "paths, queries, headers, cookies and bodies",
    "whole addresses and whole user agents",
)
"""What no policy can have recorded."""

_S_US = 1_000_000
_SPANS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True, slots=True)
class ReportedField:
    """A field that is recorded, in which events, and what for."""

    name: str
    purpose: str
    events: tuple[str, ...]
    personal: bool


@dataclass(frozen=True, slots=True)
class Destination:
    """A place where what is recorded goes, and which one; what of it, and how long it stays."""

    name: str
    at: str
    holds: str
    kept: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a service records."""

    service: str
    policy: str
    subjects: str
    fields: tuple[ReportedField, ...]
    destinations: tuple[Destination, ...]
    never: tuple[str, ...] = NEVER


def report(policy: Policy) -> Report:
    """Give the report of a policy."""
    return Report(
        policy.service,
        policy.digest,
        _subjects(policy),
        tuple(_fields(policy)),
        (*_own(policy), *(_sink(each) for each in policy.events.sinks)),
    )


def _subjects(policy: Policy) -> str:
    """Say whom usage is recorded of, and under which names."""
    rules = policy.identity
    said = ["keys that are listed: a name by the operator"]
    if rules.unknown is Unknown.ACCEPT:
        said.append("other keys: a pseudonym (HMAC-SHA256 under a secret)")
    elif rules.unknown is Unknown.POOL:
        said.append("other keys: one name for all of them")
    if rules.anonymous is not None:
        said.append("requests without a key: a pseudonym of the client's network address")
    return "; ".join(said)


def _fields(policy: Policy) -> Iterator[ReportedField]:
    asked = policy.events.privacy
    left_out = {"ip"} if asked.address is Address.NONE else set()
    left_out |= {"user_agent"} if asked.agent is Agent.NONE else set()
    for each in fields.FIELDS:
        if each is fields.METERS:
            yield from _meters(policy)
        elif each.name not in left_out:
            yield ReportedField(each.name, each.purpose, each.types, each.personal)


def _meters(policy: Policy) -> Iterator[ReportedField]:
    """Give the fields that the policy names itself."""
    listed = {each.name for each in fields.DATA}
    types = (REQUEST_EVENT, ADJUSTMENT_EVENT, WINDOW_EVENT)
    for meter in policy.meters:
        if meter.field not in listed:
            purpose = (
                "units that the app reports" if meter.count is Count.REPORTED else "units that are billed"
            )
            yield ReportedField(meter.field, purpose, types, personal=False)


def _own(policy: Policy) -> Iterator[Destination]:
    """Give the places of the meter itself."""
    events, at = policy.events, str(policy.events.journal)
    kept = _span(events.retention_us // _S_US)
    done = "until its segment is done (8 MiB, or its process has ended)"
    until = f"{done}, every destination has it, and {kept} more"
    yield Destination("journal", at, "every event", until)
    yield Destination(
        "parked events",
        at,
        "events that a destination has refused, with the reason",
        "until the operator deletes the file, or the subject is forgotten",
    )
    if events.seal is not None:
        holds = "a hash of each event, over its random id"
        yield Destination("seals", at, holds, "until the operator deletes them: they prove bills")
    where = "memory of the process" if policy.store.startswith("memory:") else "Redis"
    holds = "how much of its limits a subject has used, under a digest of its name"
    yield Destination("store", where, holds, "until the period of the limit is over")
    if policy.registry:
        holds = "keys by their pseudonyms, with the terms of their subjects"
        yield Destination("registry", "Redis", holds, "until the subject is forgotten")


def _sink(rule: SinkRule) -> Destination:
    """Give a destination of events, as the policy sets it."""
    word, settings = rule.kind.word, rule.settings
    at = rule.kind.shown(settings).removeprefix(word).strip()
    if word == "sql":
        spans = settings.lengths("retention")
        said = [f"{grain} {_span(round(seconds))}" for grain, seconds in spans.items()]
        forever = "for ever, or until the subject is forgotten"
        kept = f"{', '.join(said)}; the rest {forever}" if said else forever
        return Destination("ledger", at, "every event, and sums of them", kept)
    holds = "sums of events, without single ones" if _has(rule, "window") else "every event"
    kept = "as long as the operator keeps it" if word in ("file", "stdout") else "as its own operator says"
    return Destination(word, at, holds, kept)


def _has(rule: SinkRule, name: str) -> bool:
    return name in rule.kind.options and rule.settings.has(name)


def _span(seconds: int) -> str:
    """Say a length of time in its largest whole unit."""
    for size, word in _SPANS:
        if seconds and seconds % size == 0:
            count = seconds // size
            return f"{count} {word}{'' if count == 1 else 's'}"
    return "no time"
