"""The section `keys`: whose each key is. The keys themselves are held as pseudonyms alone.

Rule 1: whatever stands in this section is not shown, as keys may stand in the wrong place.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, fields
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

from meter_mw.policy.identity import PSEUDONYMS, Credential, fault_of, pseudonym
from meter_mw.policy.policy import KeyEntry, Resolver
from meter_mw.policy.problems import printable, quoted
from meter_mw.policy.reading import Document, Field, Names
from meter_mw.policy.sections.plans import read_plan_name
from meter_mw.policy.sections.settings import is_zone, read_timezone
from meter_mw.policy.yaml12 import LARGEST_BYTES, Entries, Items, Scalar, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ENTRY = Names(("key", "subject", "plan", "account", "anchor", "timezone"), needed=("key", "subject"))
_SOURCE = Names(("file", "resolver"), later=("redis",))

_EXPECTED = 'a list of keys, {file: keys.yaml} or {resolver: "module:callable"}'
SUBJECT_EXPECTED = "1 to 128 printable characters"
_LONGEST_SUBJECT = 128
_TERMS = tuple(each.name for each in fields(KeyEntry) if each.name != "subject")


@dataclass(frozen=True, slots=True)
class Keys:
    """The listed keys by pseudonym, or the operator's own look-up."""

    entries: Mapping[str, KeyEntry] = field(default_factory=dict)
    resolver: Resolver | None = None


def read_keys(keys: Field, plans: Iterable[str], secret: bytes) -> Keys:
    """Read the keys from wherever the policy says they are."""
    hidden = keys.as_private()
    known = tuple(plans)
    if isinstance(hidden.node, Items):
        return Keys(_entries(hidden, known, secret))
    if not isinstance(hidden.node, Entries):
        hidden.reject(_EXPECTED)
        return Keys()
    sources = hidden.section(_SOURCE) or {}
    if len(sources) > 1:
        hidden.complain("found both file and resolver; keys come from one of them, so write only that")
        return Keys()
    if not sources:
        if not hidden.has_others(_SOURCE.known):
            hidden.reject(_EXPECTED)
        return Keys()
    if "resolver" in sources:
        is_zone("Etc/UTC")  # the zones are looked up now, and not when its first answer has one
        return Keys(resolver=_resolver(sources["resolver"].as_shown()))
    return Keys(_from_file(sources["file"].as_shown(), known, secret))


def _from_file(source: Field, plans: tuple[str, ...], secret: bytes) -> Mapping[str, KeyEntry]:
    text = source.location("the path of a file of keys")
    if text is None:
        return {}
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
        return {}
    label = "the file of keys" if source.is_hidden else printable(text if path.is_absolute() else str(path))
    inner = Document(label, path.parent, document.environ, document.problems)
    node = parse(data, inner.complain, private="")
    return {} if node is None else _entries(Field(node, "", inner, private=True), plans, secret)


def _entries(keys: Field, plans: tuple[str, ...], secret: bytes) -> Mapping[str, KeyEntry]:
    found: dict[str, KeyEntry] = {}
    paths: dict[str, str] = {}
    subjects: dict[str, tuple[KeyEntry, str]] = {}
    for item in keys.items('a list of keys: [{key: "${ACME_KEY}", subject: acme}]') or ():
        fields_of = item.section(_ENTRY)
        if fields_of is None:
            continue
        key = _pseudonym(fields_of["key"], secret) if "key" in fields_of else None
        entry = _entry({name: each.as_shown() for name, each in fields_of.items()}, plans)
        if key is not None and key in paths:
            fields_of["key"].complain(f"this is the key of {paths[key]} again; one key has one entry")
        if entry is None:
            continue
        first, path = subjects.setdefault(entry.subject, (entry, item.path))
        differing = [name for name in _TERMS if getattr(first, name) != getattr(entry, name)]
        if differing:
            item.complain(
                f"the subject {quoted(entry.subject)} has another {' and '.join(differing)} at {path};"
                " keys of one subject share its terms"
            )
        if key is not None:
            paths.setdefault(key, item.path)
            found.setdefault(key, entry)
    return found


def _pseudonym(key: Field, secret: bytes) -> str | None:
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
    return pseudonym(secret, Credential(text))


def _entry(found: dict[str, Field], plans: tuple[str, ...]) -> KeyEntry | None:
    before = len(next(iter(found.values())).document.problems) if found else 0
    subject = _subject(found["subject"]) if "subject" in found else None
    plan = read_plan_name(found["plan"], plans) if "plan" in found else None
    account = _subject(found["account"]) if "account" in found else None
    anchor = _anchor(found["anchor"]) if "anchor" in found else None
    zone = read_timezone(found["timezone"]) if "timezone" in found else None
    if subject is None or len(next(iter(found.values())).document.problems) > before:
        return None
    return KeyEntry(subject, plan, account, anchor, zone)


def is_subject(name: object) -> bool:
    """Say whether this can name a subject or an account, wherever it comes from."""
    if not isinstance(name, str) or len(name) > _LONGEST_SUBJECT:
        return False
    return bool(name.strip()) and name.isprintable() and not name.startswith(PSEUDONYMS)


def _subject(field: Field) -> str | None:
    text = field.text(SUBJECT_EXPECTED, quotable=True)
    if text is None or is_subject(text):
        return text
    if text.startswith(PSEUDONYMS):
        field.reject("another name", because=f"which begins like a pseudonym ({' or '.join(PSEUDONYMS)})")
    else:
        field.reject(SUBJECT_EXPECTED)
    return None


def _anchor(field: Field) -> date | None:
    expected = "the date of a first period, such as 2026-01-31"
    text = field.text(expected)
    if text is None:
        return None
    try:
        anchor = date.fromisoformat(text)
    except ValueError:
        field.reject(expected)
        return None
    if anchor.isoformat() != text:
        field.reject(expected, meant=anchor.isoformat())
        return None
    return anchor


def _resolver(field: Field) -> Resolver | None:
    """Import the operator's callable; whatever its module raises is a problem of the policy."""
    expected = 'a callable as "module:name"'
    if isinstance(field.node, Scalar) and callable(field.node.value):
        return field.node.value
    text = field.text(expected)
    if text is None:
        return None
    module, _, name = text.partition(":")
    found = _imported(module, name)
    if not isinstance(found, str):
        return found
    field.reject(expected, because=found)
    return None


def _imported(module: str, name: str) -> Resolver | str:
    """Give the operator's callable, or say why there is none."""
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        return "which does not read as one"
    try:
        found: object = reduce(getattr, name.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the operator's module may raise anything
        return f"and importing it raised {type(error).__name__}{_missing(error)}"
    return found if callable(found) else f"which is a {type(found).__name__} and cannot be called"


def _missing(error: BaseException) -> str:
    """Name the module that was not found; whatever else an error says may be a value."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    is_name = name is not None and all(part.isidentifier() for part in name.split("."))
    return f", as there is no module {quoted(name)}" if name is not None and is_name else ""
