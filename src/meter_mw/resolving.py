"""Whose a key is that the policy does not list: asked of the registry, then of the operator's resolver.

Rule 1: nothing that a resolver says or raises is repeated: it may hold the key.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from typing import TYPE_CHECKING

from meter_mw.policy.problems import PolicyError, Problem
from meter_mw.policy.resolver import Answers, entry_of
from meter_mw.registry.calls import Asker, AsyncAsker
from meter_mw.registry.lookup import Ended, Lookup
from meter_mw.registry.records import GarbledRecord
from meter_mw.stores.port import StoreUnavailable
from meter_mw.talk import KeyEnded, Registered, ResolverUnavailable

if TYPE_CHECKING:
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.terms import KeyEntry
    from meter_mw.talk import Resolve

_log = logging.getLogger(__name__)


class ResolverDesk:
    """Asks whose a key is, the registry first, unless the answer is still known."""

    def __init__(self, policy: Policy, store: object = None, async_store: object = None) -> None:
        self._policy = policy
        self._answers = Answers()
        self._lookup = Lookup(policy) if policy.registry else None
        self._store = store if isinstance(store, Asker) else None
        self._async_store = async_store if isinstance(async_store, AsyncAsker) else None
        if policy.registry and (self._store is None or self._async_store is None):
            raise PolicyError([Problem("keys in redis need a store in redis: redis://host:6379/0", "keys")])

    def ask(self, command: Resolve) -> Registered | KeyEntry | None:
        """Ask and wait; raises ResolverUnavailable, or KeyEnded."""
        if self._lookup is not None and self._store is not None:
            try:
                known = self._lookup.ask(command.key, self._store, command.others)
            except _UNUSABLE as failure:
                raise _refused(failure) from None
            if known is not None:
                return Registered(known.key.pseudonym, known.entry)
        if self._policy.resolver is None:
            return None
        kept = self._answers.find(command.key, time.monotonic())
        if kept:
            return kept[0]
        answer = self._called(command)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise _unresolved("it is asynchronous, which a WSGI app cannot wait for")
        return self._learn(command, answer)

    async def aask(self, command: Resolve) -> Registered | KeyEntry | None:
        """Ask without holding up the event loop; raises as `ask` does."""
        if self._lookup is not None and self._async_store is not None:
            try:
                known = await self._lookup.aask(command.key, self._async_store, command.others)
            except _UNUSABLE as failure:
                raise _refused(failure) from None
            if known is not None:
                return Registered(known.key.pseudonym, known.entry)
        if self._policy.resolver is None:
            return None
        kept = self._answers.find(command.key, time.monotonic())
        if kept:
            return kept[0]
        if inspect.iscoroutinefunction(self._policy.resolver):
            answer = self._called(command)
        else:
            answer = await asyncio.to_thread(self._called, command)
        if inspect.isawaitable(answer):
            try:
                answer = await answer
            except Exception as failure:  # noqa: BLE001 - the operator's code may raise anything
                raise _unresolved(f"it raised {type(failure).__name__}") from None
        return self._learn(command, answer)

    def _called(self, command: Resolve) -> object:
        resolver = self._policy.resolver
        try:
            return None if resolver is None else resolver(command.credential.reveal())
        except Exception as failure:  # noqa: BLE001 - the operator's code may raise anything
            raise _unresolved(f"it raised {type(failure).__name__}") from None

    def _learn(self, command: Resolve, answer: object) -> KeyEntry | None:
        try:
            entry = entry_of(answer, self._policy)
        except (ValueError, TypeError) as mistake:
            raise _unresolved(str(mistake)) from None
        if entry is not None and command.credential.reveal() in (entry.subject, entry.account):
            raise _unresolved("it returned the key itself as subject or account, which events would show")
        self._answers.keep(command.key, entry, time.monotonic())
        return entry


_UNUSABLE = (StoreUnavailable, Ended, GarbledRecord)
"""What a look-up in the registry may raise."""


def _refused(failure: Exception) -> KeyEnded | ResolverUnavailable:
    """Give what the core is told when the registry has no usable answer; an outage is logged elsewhere."""
    if isinstance(failure, Ended):
        return KeyEnded(str(failure))
    if not isinstance(failure, StoreUnavailable):
        _log.error("the key registry gave no usable answer: %s", failure)
    return _unavailable()


def _unresolved(reason: str) -> ResolverUnavailable:
    _log.error("the key resolver gave no usable answer: %s", reason)
    return _unavailable()


def _unavailable() -> ResolverUnavailable:
    return ResolverUnavailable("the key cannot be checked at the moment")
