"""What the operator does to keys, each in one step that happens as a whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from meter_mw.model import MeterError
from meter_mw.policy.identity import is_pseudonym
from meter_mw.policy.problems import quoted
from meter_mw.registry import calls
from meter_mw.registry.calls import Change
from meter_mw.registry.records import (
    Key,
    Terms,
    made,
    packed_key,
    packed_terms,
    read_key,
    read_terms,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meter_mw.policy.identity import Credential
    from meter_mw.policy.policy import Policy
    from meter_mw.registry.calls import Asker
    from meter_mw.stores.redis_protocol import Call

_PATIENCE_US = 5_000_000
_TRIES = 10
_MOST_NAMED = 5

T = TypeVar("T")


class RegistryError(MeterError):
    """What was asked cannot be done; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with the terms of its subject, and the two records that they were read from."""

    key: Key
    terms: Terms
    records: tuple[bytes, bytes] = field(default=(b"", b""), repr=False, compare=False)


class Office:
    """Makes and changes the keys of one service; raises RegistryError, GarbledRecord or StoreUnavailable."""

    def __init__(self, policy: Policy, store: Asker) -> None:
        self._service = policy.service
        self._keyring = policy.identity.keyring
        self._store = store

    def now_us(self) -> int:
        """Ask for Redis' time."""
        return calls.now_us(self._ask(("TIME",)))

    def entries(self, prefix: str = "") -> list[Entry]:
        """Give all keys by subject and age, or those whose id begins with a prefix."""
        records = dict(self._records(f"k*_{prefix}" if prefix else ""))
        found = []
        for name, record in records.items():
            if is_pseudonym(name):
                key = read_key(name, record)
                terms = records.get(key.subject) or self._record(key.subject)
                found.append(Entry(key, read_terms(key.subject, terms), (record, terms)))
        return sorted(found, key=lambda each: (each.key.subject, each.key.created_us, each.key.pseudonym))

    def find(self, name: str) -> Entry:
        """Give the key that an id names, or the beginning of one, or a whole pseudonym."""
        digits = name.partition("_")[2] if is_pseudonym(name) else name
        found = [
            each for each in self.entries(digits) if each.key.pseudonym.startswith(name) or name == digits
        ]
        if not found:
            raise RegistryError(f"found no key {quoted(name)}; meter-mw keys list shows the ids")
        if len(found) > 1:
            ids = ", ".join(each.key.pseudonym.partition("_")[2] for each in found[:_MOST_NAMED])
            raise RegistryError(f"found {len(found)} keys whose ids begin with {quoted(name)}: {ids}")
        return found[0]

    def create(self, subject: str, terms: Terms) -> tuple[Entry, Credential]:
        """Make a key; a subject that is here already keeps its terms, and `terms` may not contradict them."""

        def plan() -> tuple[tuple[Entry, Credential], list[Change]]:
            held = self._record(subject)
            kept = read_terms(subject, held) if held else terms
            differing = [name for name, value in terms.items() if kept.get(name) != value]
            if differing:
                raise RegistryError(differs(subject, differing, "in the registry"))
            entry, credential = self._made(subject, kept)
            changes = [
                Change(entry.key.pseudonym, "", packed_key(entry.key)),
                Change(subject, held.decode(), held.decode() or packed_terms(kept)),
            ]
            return (entry, credential), changes

        return self._changed(plan)

    def rotate(self, name: str, overlap_us: int) -> tuple[Entry, Entry, Credential]:
        """Make a key that takes over from another, which works on until the overlap is over."""

        def plan() -> tuple[tuple[Entry, Entry, Credential], list[Change]]:
            old = self.find(name)
            new, credential = self._made(old.key.subject, old.terms)
            how = old.key.ended(new.key.created_us)
            if how is not None:
                instead = f"create one for {quoted(old.key.subject)} instead"
                raise RegistryError(f"the key {old.key.id} is {how}, and none takes over from it; {instead}")
            end_us = new.key.created_us + overlap_us
            ending = replace(old.key, expires_us=min(end_us, old.key.expires_us or end_us))
            changes = [_rewritten(old, ending), Change(new.key.pseudonym, "", packed_key(new.key))]
            return (Entry(ending, old.terms), new, credential), changes

        return self._changed(plan)

    def revoke(self, name: str) -> Entry:
        """End a key now; one that was revoked before stays as it is."""

        def plan() -> tuple[Entry, list[Change]]:
            old = self.find(name)
            if old.key.revoked_us is not None:
                return old, []
            ended = replace(old.key, revoked_us=self.now_us())
            return Entry(ended, old.terms), [_rewritten(old, ended)]

        return self._changed(plan)

    def amend(self, name: str, amended: Callable[[Entry], Terms]) -> Entry:
        """Give the subject of a key, and so all of its keys, other terms."""

        def plan() -> tuple[Entry, list[Change]]:
            old = self.find(name)
            terms = amended(old)
            return Entry(old.key, terms), [
                Change(old.key.subject, old.records[1].decode(), packed_terms(terms))
            ]

        return self._changed(plan)

    def _made(self, subject: str, terms: Terms) -> tuple[Entry, Credential]:
        credential = made()
        now_us = self.now_us()
        name = self._keyring.at(now_us).pseudonym(credential)
        return Entry(Key(name, subject, now_us), terms), credential

    def _changed(self, plan: Callable[[], tuple[T, list[Change]]]) -> T:
        """Make a change; where another came in between, plan it anew on what is there now."""
        for _ in range(_TRIES):
            result, changes = plan()
            if not changes or self._ask(calls.change_call(self._service, changes)) == 1:
                return result
        raise RegistryError("the same keys are being changed by others; nothing was done, so try again")

    def _record(self, name: str) -> bytes:
        reply = self._ask(calls.read_call(self._service, name))
        return reply if isinstance(reply, bytes) else b""

    def _records(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        cursor = 0
        while True:
            cursor, records = calls.page(self._ask(calls.page_call(self._service, cursor, prefix)))
            yield from records.items()
            if cursor == 0:
                return

    def _ask(self, call: Call) -> object:
        (reply,) = self._store.ask((call,), patience_us=_PATIENCE_US)
        return reply


def differs(subject: str, names: list[str], place: str) -> str:
    """Say which terms of a subject are others than those that it has already."""
    return (
        f"the subject {quoted(subject)} has another {' and '.join(names)} {place};"
        " keys of one subject share its terms"
    )


def _rewritten(old: Entry, key: Key) -> Change:
    return Change(key.pseudonym, old.records[0].decode(), packed_key(key))
