"""What `meter-mw keys` is told of a subject's terms, checked as the policy's own are."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from meter_mw.cli.policies import refuse
from meter_mw.policy.nodes import nodes_of
from meter_mw.policy.problems import quoted
from meter_mw.policy.reading import Document, Field
from meter_mw.policy.sections.keys import SUBJECT_EXPECTED, is_subject
from meter_mw.policy.sections.overrides import limits_met, read_overrides
from meter_mw.policy.sections.plans import DEFAULT_PLAN, read_plan_name
from meter_mw.policy.sections.settings import read_date, read_timezone
from meter_mw.policy.terms import Exemption
from meter_mw.policy.yaml12 import Scalar
from meter_mw.registry.office import differs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.policy.policy import Policy
    from meter_mw.policy.terms import KeyEntry
    from meter_mw.registry.office import Entry
    from meter_mw.registry.records import Terms

_ANCHOR = "the date of a first period, such as 2026-01-31"


def terms_of(policy: Policy, subject: str, options: Mapping[str, str]) -> Terms:
    """Give the terms that a key is made with; a subject that the policy lists has its terms already."""
    document = _document()
    if not is_subject(subject):
        expected = f"{SUBJECT_EXPECTED} that do not begin like a pseudonym"
        refuse(f"SUBJECT: found {quoted(subject)}; expected {expected}")
    fields = {name: Field(Scalar(text, text), f"--{name}", document) for name, text in options.items()}
    if "plan" in fields:
        read_plan_name(fields["plan"], policy.plans)
    if "account" in fields and not is_subject(options["account"]):
        fields["account"].reject(SUBJECT_EXPECTED)
    if "anchor" in fields:
        read_date(fields["anchor"], _ANCHOR)
    if "timezone" in fields:
        read_timezone(fields["timezone"])
    _refuse_all(document)
    terms: dict[str, Any] = dict(options)
    if terms.get("exempt") == "true":
        terms["exempt"] = True
    listed = next((each for each in policy.keys.values() if each.subject == subject), None)
    return terms if listed is None else _as_listed(listed, terms)


def with_override(policy: Policy, old: Entry, limit: str, given: Mapping[str, object], now_us: int) -> Terms:
    """Give the terms of a subject with another amount for a limit."""
    plan = policy.plans.get(old.terms.get("plan") or DEFAULT_PLAN)
    if plan is None:
        refuse(f"the plan {quoted(old.terms['plan'])} of {quoted(old.key.subject)} is none of the policy's")
    node = nodes_of({limit: given})
    if isinstance(node, str):
        refuse(f"LIMIT: {node}")
    document = _document()
    overrides = read_overrides(Field(node, "", document), limits_met(plan, policy.routes))
    _refuse_all(document)
    zone = ZoneInfo(old.terms.get("timezone") or plan.timezone or policy.timezone)
    until = overrides[0].until
    if until is not None and until <= datetime.fromtimestamp(now_us // 1_000_000, zone).date():
        refuse(f"--until: found {until}, which has begun already; expected a day to come")
    return {**old.terms, "limits": {**old.terms.get("limits", {}), limit: dict(given)}}


def without_override(old: Entry, limit: str) -> Terms:
    """Give the terms of a subject without its amount for a limit."""
    limits = dict(old.terms.get("limits", {}))
    if limits.pop(limit, None) is None:
        has = f"it has some for {', '.join(limits)}" if limits else "it has none"
        refuse(f"LIMIT: found {quoted(limit)}, for which {quoted(old.key.subject)} has no override; {has}")
    return {**old.terms, "limits": limits or None}


def _as_listed(listed: KeyEntry, terms: Terms) -> Terms:
    """Give the terms of a subject that the policy lists, which a key of the registry has to share."""
    if listed.overrides:
        refuse(
            f"SUBJECT: found {quoted(listed.subject)}, which the policy lists with limits of its own;"
            " list its further keys there too"
        )
    own = {
        "plan": listed.plan,
        "account": listed.account,
        "anchor": None if listed.anchor is None else listed.anchor.isoformat(),
        "timezone": listed.timezone,
        "exempt": {Exemption.FREE: True, Exemption.COUNTED: "counted"}.get(listed.exemption),
    }
    differing = [name for name, value in terms.items() if own[name] != value]
    if differing:
        refuse(differs(listed.subject, differing, "in the policy"))
    return {name: value for name, value in own.items() if value is not None}


def _document() -> Document:
    return Document(None, Path.cwd(), {}, [])


def _refuse_all(document: Document) -> None:
    if document.problems:
        refuse(*map(str, document.problems))
