"""The operator's resolver, asked: blocking or awaited, its answers checked, and kept for a while.

Rule 1: nothing that a resolver says or raises is repeated: it may hold the key.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from typing import TYPE_CHECKING

from meter_mw.core import ResolverUnavailable
from meter_mw.policy.resolver import Answers, entry_of

if TYPE_CHECKING:
    from meter_mw.core import Resolve
    from meter_mw.policy.policy import KeyEntry, Policy

_log = logging.getLogger(__name__)


class ResolverDesk:
    """Asks the policy's resolver whose a key is, unless the answer is still known."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._answers = Answers()

    def ask(self, command: Resolve) -> KeyEntry | None:
        """Ask and wait; raises ResolverUnavailable."""
        kept = self._answers.find(command.key, time.monotonic())
        if kept:
            return kept[0]
        answer = self._called(command)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise _unresolved("it is asynchronous, which a WSGI app cannot wait for")
        return self._learn(command, answer)

    async def aask(self, command: Resolve) -> KeyEntry | None:
        """Ask without holding up the event loop; raises ResolverUnavailable."""
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


def _unresolved(reason: str) -> ResolverUnavailable:
    _log.error("the key resolver gave no usable answer: %s", reason)
    return ResolverUnavailable("the key cannot be checked at the moment")
