"""What says which keys are a subject's, and how much it used: the policy's list, the registry, the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.policy.problems import quoted
from meter_mw.policy.terms import digest_of
from meter_mw.privacy.held import Held
from meter_mw.reconciling.counters import caller_of, counters
from meter_mw.registry.calls import forget_call
from meter_mw.registry.office import Office

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.model import SubjectId
    from meter_mw.policy.policy import Policy
    from meter_mw.registry.calls import Asker
    from meter_mw.stores.port import Store

_PATIENCE_US = 5_000_000


class PolicyPlace:
    """The keys that the operator has listed himself."""

    name = "policy"
    remains = "as long as the operator lists them"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def held(self, subject: str) -> Iterator[Held]:
        """Give the entries of the list."""
        for key, entry in self._policy.keys.items():
            if entry.subject == subject:
                said = {"key": key, "plan": entry.plan, "account": entry.account, "timezone": entry.timezone}
                anchor = None if entry.anchor is None else entry.anchor.isoformat()
                yield Held(self.name, "key", {**said, "anchor": anchor})

    def obstacle(self, subject: str) -> str:
        """Name the list where it has the subject: the next request of its keys would begin it anew."""
        listed = any(True for _ in self.held(subject))
        return f"keys lists {quoted(subject)}; take it out there first, and restart the app" if listed else ""

    def erase(self, subject: str, tombstone: SubjectId) -> int:  # noqa: ARG002 - the list is the operator's
        """Change nothing."""
        return 0


class RegistryPlace:
    """The keys of the registry. Without its record nobody can tell any more whose a key was."""

    name = "registry"
    remains = ""

    def __init__(self, policy: Policy, store: Asker) -> None:
        self._office = Office(policy, store)
        self._service = policy.service
        self._store = store

    def held(self, subject: str) -> Iterator[Held]:
        """Give the keys of a subject, by their pseudonyms, and its terms."""
        for each in self._office.entries():
            if each.key.subject == subject:
                key = {"key": each.key.pseudonym, "created_us": each.key.created_us}
                end = {"expires_us": each.key.expires_us, "revoked_us": each.key.revoked_us}
                yield Held(self.name, "key", {**key, **end, "terms": dict(each.terms)})

    def obstacle(self, subject: str) -> str:  # noqa: ARG002 - a place is asked
        """Give nothing."""
        return ""

    def erase(self, subject: str, tombstone: SubjectId) -> int:  # noqa: ARG002 - nothing of it is an amount
        """Delete the keys of a subject and its terms; running workers know them for 2 seconds more."""
        keys = [str(each.record["key"]) for each in self.held(subject)]
        if keys:
            self._store.ask((forget_call(self._service, [*keys, subject]),), patience_us=_PATIENCE_US)
        return len(keys)


class StorePlace:
    """The counts of a subject's limits, kept under a digest of its name until they say nothing more.

    `keys` are the pseudonyms of its keys, for limits that count each key.
    """

    name = "store"
    remains = ""

    def __init__(self, policy: Policy, store: Store, asker: Asker, keys: tuple[str, ...]) -> None:
        self._policy = policy
        self._store = store
        self._asker = asker
        self._keys = keys

    def held(self, subject: str) -> Iterator[Held]:
        """Give what its caps have counted, and the names under which the store keeps any of it."""
        caller = caller_of(self._policy, subject, None, None)
        for each in counters(self._policy, self._store, caller):
            if each.used:
                count = {"limit": each.limit, "units": each.used, "since_us": each.start_us}
                yield Held(self.name, "count", count)
        for name in self._there(caller.tag):
            yield Held(self.name, "state", {"key": name})

    def obstacle(self, subject: str) -> str:  # noqa: ARG002 - a place is asked
        """Give nothing."""
        return ""

    def erase(self, subject: str, tombstone: SubjectId) -> int:  # noqa: ARG002 - what is open is not billed by it
        """Delete the counts."""
        names = list(self._there(caller_of(self._policy, subject, None, None).tag))
        if names:
            self._asker.ask([("DEL", name) for name in names], patience_us=_PATIENCE_US)
        return len(names)

    def _there(self, tag: str) -> Iterator[str]:
        """Give the keys of the store that are there, of all that the subject may have."""
        holders = [f"mw:{{{tag}}}", *(f"mw:{{{tag}}}:k{digest_of(key, size=9)}" for key in self._keys)]
        names = [name for holder in holders for name in (holder, f"{holder}:h")]
        replies = self._asker.ask([("EXISTS", name) for name in names], patience_us=_PATIENCE_US)
        return (name for name, reply in zip(names, replies, strict=True) if reply)
