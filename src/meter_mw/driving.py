"""Holds the core's conversations with the store and the operator's code: one way blocks, its twin awaits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from meter_mw.pricing import price
from meter_mw.recovery.trail import cancel
from meter_mw.stores.outage import Outage
from meter_mw.stores.port import Admit, Cancel, StoreUnavailable, Verdict
from meter_mw.talk import KeyEnded, Peek, Price, Resolve, ResolverUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.policy.policy import Policy
    from meter_mw.recovery.trail import Trail
    from meter_mw.resolving import ResolverDesk
    from meter_mw.stores.access import Stores
    from meter_mw.stores.port import Tally, TopUp
    from meter_mw.talk import Command, Conversation, Reply

_T = TypeVar("_T")

_FAILURES = (StoreUnavailable, ResolverUnavailable, KeyEnded)
"""What a conversation is told of, and decides about."""


class Driver:
    """Answers the commands of a conversation; the store's answers come within the policy's deadline."""

    def __init__(
        self,
        policy: Policy,
        stores: Stores,
        resolver: ResolverDesk,
        trail: Trail,
        *,
        back: Callable[[], None] | None = None,
    ) -> None:
        self._policy = policy
        self._stores = stores
        self._resolver = resolver
        self._trail = trail
        meanwhile = "requests are decided as the policy says for a store that is away"
        self._outage = Outage(meanwhile, back=back)

    def drive(self, talk: Conversation[_T]) -> _T:
        """Hold the conversation with partners that block."""
        until_us = self._until_us()
        try:
            command = next(talk)
            while True:
                try:
                    reply = self._reply(command, until_us)
                except _FAILURES as outage:
                    command = talk.throw(outage)
                else:
                    if isinstance(command, Resolve):
                        until_us = self._until_us()  # the patience is the store's alone
                    command = talk.send(reply)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            talk.close()  # here and now: what it took is not given back by whoever collects garbage

    async def adrive(self, talk: Conversation[_T]) -> _T:
        """Hold the conversation with partners that are awaited; nothing else differs."""
        until_us = self._until_us()
        try:
            command = next(talk)
            while True:
                try:
                    reply = await self._areply(command, until_us)
                except _FAILURES as outage:
                    command = talk.throw(outage)
                else:
                    if isinstance(command, Resolve):
                        until_us = self._until_us()  # the patience is the store's alone
                    command = talk.send(reply)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            talk.close()  # here and now: what it took is not given back by whoever collects garbage

    def _until_us(self) -> int:
        return _monotonic_us() + self._policy.deadline_us

    def _reply(self, command: Command, until_us: int) -> Reply:
        if isinstance(command, Resolve):
            return self._resolver.ask(command)
        if isinstance(command, Price):
            return price(self._policy, command)
        try:
            if isinstance(command, Peek):
                tally = self._stores.blocking.peek(command.tag, command.charges)
            else:
                self._enter(command)
                tally = self._stores.blocking.admit(command, patience_us=until_us - _monotonic_us())
        except BaseException as failure:
            self._failed(command, failure)
            raise
        self._answered(command, tally)
        return tally

    async def _areply(self, command: Command, until_us: int) -> Reply:
        if isinstance(command, Resolve):
            return await self._resolver.aask(command)
        if isinstance(command, Price) or self._stores.awaited is None:
            return self._reply(command, until_us)
        try:
            if isinstance(command, Peek):
                tally = await self._stores.awaited.peek(command.tag, command.charges)
            else:
                self._enter(command)
                tally = await self._stores.awaited.admit(command, patience_us=until_us - _monotonic_us())
        except BaseException as failure:
            self._failed(command, failure)
            raise
        self._answered(command, tally)
        return tally

    def _enter(self, command: Admit | TopUp) -> None:
        """Have it known what is asked of the store, whatever becomes of this process."""
        if isinstance(command, Admit):
            self._trail.enter(command)

    def _answered(self, command: Admit | TopUp | Peek, tally: Tally) -> None:
        """Note that the store is there; what it did not charge needs no end."""
        self._outage.is_over()
        if tally.verdict is not Verdict.ADMITTED and isinstance(command, Admit):
            self._trail.leave(command.rid)

    def _failed(self, command: Admit | TopUp | Peek, failure: BaseException) -> None:
        """Say that the store is away; take back what an admission that nobody waits for was charged.

        A later part of an exchange goes on all the same, and is settled when that is over.
        """
        if isinstance(failure, StoreUnavailable):
            self._outage.goes_on(failure)
        elif isinstance(command, Admit) and command.after is None:
            cancel(self._trail, self._stores, Cancel(command.rid, command.tag, command.charges))


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1_000
