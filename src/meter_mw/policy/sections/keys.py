"""The section `keys`: whose each key is. The keys themselves are held as pseudonyms alone.

Rule 1: whatever stands in this section is not shown, as keys may stand in the wrong place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from meter_mw.policy.identity import PSEUDONYMS, Credential, fault_of, is_made_here
from meter_mw.policy.problems import printable, quoted
from meter_mw.policy.reading import Document, Field, Names
from meter_mw.policy.sections.callables import read_callable
from meter_mw.policy.sections.exempt import read_exempt
from meter_mw.policy.sections.overrides import limits_met, read_overrides
from meter_mw.policy.sections.plans import DEFAULT_PLAN, read_plan_name
from meter_mw.policy.sections.settings import is_zone, read_date, read_timezone
from meter_mw.policy.terms import Exemption, KeyEntry, Scope
from meter_mw.policy.yaml12 import LARGEST_BYTES, Entries, Items, parse
from meter_mw.quota import Cap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.policy.keyring import Keyring
    from meter_mw.policy.policy import Resolver, Route
    from meter_mw.policy.terms import Plan

_ENTRY = Names(
    ("key", "subject", "plan", "account", "anchor", "timezone", "exempt", "limits"),
    needed=("key", "subject"),
)
_SOURCE = Names(("file", "resolver", "redis"))

_EXPECTED = 'a list of keys, {file: keys.yaml}, {resolver: "module:callable"} or {redis: true}'
SUBJECT_EXPECTED = "1 to 128 printable characters"
_LONGEST_SUBJECT = 128
_ANCHOR = "the date of a first period, such as 2026-01-31"
_WRITTEN = {"exemption": "exempt", "overrides": "limits"}
_TERMS = {name: _WRITTEN.get(name, name) for name in (each.name for each in fields(KeyEntry)[1:])}
"""What keys of one subject share, by the names that the policy has for it."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The listed keys by pseudonym, or the operator's own look-up, and whether keys are in the store too.

    `entries` are by the pseudonym under the oldest secret; `aliases` give that for those under later ones.
    """

    entries: Mapping[str, KeyEntry] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    resolver: Resolver | None = None
    registry: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What keys refer to: the plans and routes of the policy, and its zone, store and secrets."""

    plans: Mapping[str, Plan]
    routes: tuple[Route, ...]
    timezone: str
    store: str | None = field(repr=False)
    keyring: Keyring

    def zone(self, entry: KeyEntry) -> str:
        """Give the zone in which the caps of an entry count."""
        return entry.timezone or self.plans[entry.plan or DEFAULT_PLAN].timezone or self.timezone

    def have_shared_caps(self) -> bool:
        """Say whether any cap is shared by the keys of an account."""
        of_routes = (limit for route in self.routes for limit in route.limits)
        of_plans = (limit for plan in self.plans.values() for limit in plan.limits)
        return any(
            each.scope is Scope.ACCOUNT and isinstance(each.quota, Cap) for each in (*of_plans, *of_routes)
        )


def read_keys(keys: Field, terms: Terms) -> Keys:
    """Read the keys from wherever the policy says they are."""
    hidden = keys.as_private()
    if isinstance(hidden.node, Items):
        return _entries(hidden, terms)
    if not isinstance(hidden.node, Entries):
        hidden.reject(_EXPECTED)
        return Keys()
    sources = {name: each.as_shown() for name, each in (hidden.section(_SOURCE) or {}).items()}
    if "file" in sources and "resolver" in sources:
        hidden.complain("found both file and resolver; keys come from one of them, so write only that")
        return Keys()
    if not sources and not hidden.has_others(_SOURCE.known):
        hidden.reject(_EXPECTED)
    registry = "redis" in sources and _registry(sources["redis"], terms.store)
    if "resolver" in sources:
        is_zone("Etc/UTC")  # the zones are looked up now, and not when its first answer has one
        return Keys(resolver=read_callable(sources["resolver"]), registry=registry)
    found = _from_file(sources["file"], terms) if "file" in sources else Keys()
    return replace(found, registry=registry)


def _registry(field: Field, store: str | None) -> bool:
    """Read whether keys are in the store, which then cannot be in memory."""
    registry = field.boolean() is True
    if registry and store is not None and store.startswith("memory:"):
        field.complain(
            "keys in Redis are where the store is, and this store is in memory;"
            " expected a store such as redis://localhost:6379/0"
        )
    return registry


def _from_file(source: Field, terms: Terms) -> Keys:
    text = source.location("the path of a file of keys")
    if text is None:
        return Keys()
    document = source.document
    try:
        path = document.folder / text
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a path"
        source.complain(
            f"found {source.found()}, which cannot be read: {printable(reason or 'no reason given')}"
        )
        return Keys()
    label = "the file of keys" if source.is_hidden else printable(text if path.is_absolute() else str(path))
    inner = Document(label, path.parent, document.environ, document.problems)
    node = parse(data, inner.complain, private="")
    return Keys() if node is None else _entries(Field(node, "", inner, private=True), terms)


def _entries(keys: Field, terms: Terms) -> Keys:
    found: dict[str, KeyEntry] = {}
    aliases: dict[str, str] = {}
    paths: dict[str, str] = {}
    subjects: dict[str, tuple[KeyEntry, str]] = {}
    accounts: dict[str, tuple[KeyEntry, str]] = {}
    have_shared_caps = terms.have_shared_caps()
    for item in keys.items('a list of keys: [{key: "${ACME_KEY}", subject: acme}]') or ():
        fields_of = item.section(_ENTRY)
        if fields_of is None:
            continue
        credential = _credential(fields_of["key"]) if "key" in fields_of else None
        key = terms.keyring.oldest.pseudonym(credential) if credential is not None else None
        entry = _entry({name: each.as_shown() for name, each in fields_of.items()}, terms)
        if key is not None and key in paths:
            fields_of["key"].complain(f"this is the key of {paths[key]} again; one key has one entry")
        if entry is None:
            continue
        _complain_of_subject(item, entry, *subjects.setdefault(entry.subject, (entry, item.path)))
        if have_shared_caps and entry.account is not None:
            _complain_of_account(item, entry, *accounts.setdefault(entry.account, (entry, item.path)), terms)
        if credential is not None and key is not None:
            paths.setdefault(key, item.path)
            found.setdefault(key, entry)
            later = terms.keyring.others(terms.keyring.oldest)
            aliases |= {secret.pseudonym(credential): key for secret in later}
    return Keys(found, aliases)


def _complain_of_subject(item: Field, entry: KeyEntry, first: KeyEntry, path: str) -> None:
    differing = [word for name, word in _TERMS.items() if getattr(first, name) != getattr(entry, name)]
    if differing:
        item.complain(
            f"the subject {quoted(entry.subject)} has another {' and '.join(differing)} at {path};"
            " keys of one subject share its terms"
        )


def _complain_of_account(item: Field, entry: KeyEntry, first: KeyEntry, path: str, terms: Terms) -> None:
    differing = ["anchor"] if first.anchor != entry.anchor else []
    differing += ["timezone"] if terms.zone(first) != terms.zone(entry) else []
    if differing and first.subject != entry.subject:
        item.complain(
            f"the account {quoted(entry.account or '')} has another {' and '.join(differing)} at {path};"
            " a cap of scope account counts in one period for all of its keys"
        )


def _credential(key: Field) -> Credential | None:
    text = key.secret("a key by reference: ${ACME_KEY}")
    if text is None:
        return None
    if not text:
        key.complain("the key is empty; a request without a key is anonymous")
        return None
    fault = fault_of(text)
    if fault is not None:
        key.complain(f"no request could carry this key: {fault.value}")
        return None
    return Credential(text)


def _entry(found: dict[str, Field], terms: Terms) -> KeyEntry | None:
    problems = next(iter(found.values())).document.problems if found else []
    before = len(problems)
    subject = _subject(found["subject"]) if "subject" in found else None
    plan = read_plan_name(found["plan"], terms.plans) if "plan" in found else None
    account = _subject(found["account"]) if "account" in found else None
    anchor = read_date(found["anchor"], _ANCHOR) if "anchor" in found else None
    zone = read_timezone(found["timezone"]) if "timezone" in found else None
    exemption = read_exempt(found["exempt"]) if "exempt" in found else Exemption.NONE
    has_plan = "plan" not in found or plan is not None
    met = limits_met(terms.plans[plan or DEFAULT_PLAN], terms.routes)
    overrides = read_overrides(found["limits"], met) if "limits" in found and has_plan else ()
    if subject is None or len(problems) > before:
        return None
    return KeyEntry(subject, plan, account, anchor, zone, exemption, overrides)


def is_subject(name: object) -> bool:
    """Say whether this can name a subject or an account, wherever it comes from."""
    if not isinstance(name, str) or len(name) > _LONGEST_SUBJECT:
        return False
    return bool(name.strip()) and name.isprintable() and not is_made_here(name)


def _subject(field: Field) -> str | None:
    text = field.text(SUBJECT_EXPECTED, quotable=True)
    if text is None or is_subject(text):
        return text
    if is_made_here(text):
        field.reject("another name", because=f"which begins like a pseudonym ({PSEUDONYMS})")
    else:
        field.reject(SUBJECT_EXPECTED)
    return None
