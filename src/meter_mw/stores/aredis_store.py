"""The store in Redis, for callers on an event loop; what it says and how is `RedisStore`'s."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from meter_mw.stores.cluster_map import is_cluster, read_cluster_url
from meter_mw.stores.port import PATIENCE_US
from meter_mw.stores.redis_link import (
    FAILURES,
    Address,
    Leave,
    StoreClock,
    are_answers,
    converse,
    read_url,
)
from meter_mw.stores.redis_pipe import Line
from meter_mw.stores.redis_protocol import SERVER_CLOCK, admit_call, closed, closing_call, peek_call, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.cluster_astore import AsyncClusterStore
    from meter_mw.stores.port import Admit, Charge, Closed, Closing, Tally, TopUp
    from meter_mw.stores.redis_link import Errors
    from meter_mw.stores.redis_protocol import Call


def open_async_store(
    url: str, *, clock: Callable[[], int] | None = None, guess: StoreClock | None = None
) -> AsyncRedisStore | AsyncClusterStore:
    """Open a store by URL: see `open_store`; no loop need run yet."""
    if is_cluster(url):
        from meter_mw.stores.cluster_astore import AsyncClusterStore  # noqa: PLC0415 - it is made of these

        return AsyncClusterStore(read_cluster_url(url), clock=clock, guess=guess)
    return AsyncRedisStore(read_url(url), clock=clock, guess=guess)


class AsyncRedisStore:
    """Quota state in Redis; one per process is enough for all its event loops, and for its children.

    Each loop has one connection, on which all its calls share writes and reads.
    """

    def __init__(
        self, address: Address, *, clock: Callable[[], int] | None = None, guess: StoreClock | None = None
    ) -> None:
        self._address = address
        self._clock = clock
        self._store_clock = guess or StoreClock()
        self._pid = os.getpid()
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}
        self._left_to_parent: list[object] = []

    def now_us(self) -> int:
        """Give the server's time as the replies so far tell it."""
        return self._store_clock.now_us() if self._clock is None else self._clock()

    async def aclose(self) -> None:
        """Let go of the running loop's connection; the next command opens a new one."""
        await self._line().close()

    async def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        """Decide in one round trip; see `AsyncStore.admit`."""
        return await self._read(admit_call(command, self._time()), patience_us, urgent=True)

    async def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything; see `AsyncStore.peek`."""
        return await self._read(peek_call(tag, charges, self._time()), PATIENCE_US, urgent=False)

    async def settle(
        self, closings: Sequence[Closing], *, patience_us: int = PATIENCE_US
    ) -> Sequence[Closed]:
        """Apply in one round trip; see `AsyncStore.settle`."""
        clock = self._time()
        sent_us = self._store_clock.local()
        calls = [closing_call(each, clock) for each in closings]
        answers = [closed(each) for each in await self._ask(calls, patience_us, urgent=False)]
        for _, now_us in answers[-1:]:
            self._store_clock.learn(now_us, sent_us)
        return [answer for answer, _ in answers]

    async def ask(
        self, calls: Sequence[Call], *, patience_us: int, urgent: bool = True, values: Errors = ()
    ) -> list[object]:
        """Have other commands answered in one round trip, or raise StoreUnavailable; see `converse`."""
        return await self._ask(calls, patience_us, urgent=urgent, values=values)

    async def _read(self, call: Call, patience_us: int, *, urgent: bool) -> Tally:
        sent_us = self._store_clock.local()
        (reply,) = await self._ask((call,), patience_us, urgent=urgent)
        answer = tally(reply)
        self._store_clock.learn(answer.now_us, sent_us)
        return answer

    async def _ask(
        self, calls: Sequence[Call], patience_us: int, *, urgent: bool, values: Errors = ()
    ) -> list[object]:
        line = self._line()
        deadline = line.deadline(patience_us)
        leave = asked = None
        if not line.breaker.is_open:
            leave, asked = Leave.FREELY, line.ask(calls, deadline)
            try:
                replies = await asked.future
            except FAILURES:
                pass  # the conversation is told
            else:
                if are_answers(replies, calls):
                    line.breaker.answered()  # another's silence may have opened it meanwhile
                    return replies
        talk = converse(calls, self._address.place, line.breaker, urgent=urgent, values=values, leave=leave)
        return await line.hold(talk, deadline, asked)

    def _time(self) -> int:
        return SERVER_CLOCK if self._clock is None else self._clock()

    def _line(self) -> Line:
        """Give the running loop's connection.

        A connection holds on to its loop, so a weak mapping would keep it for ever; a loop that is closed
        is let go of when the next one comes. A fork's child keeps its parent's connections untouched: to
        close one would take it out of the selector that parent and child share.
        """
        loop = asyncio.get_running_loop()
        if os.getpid() != self._pid:
            self._left_to_parent.append(self._lines)
            self._lines = {}
            self._pid = os.getpid()
        line = self._lines.get(loop)
        if line is None:
            for other in [each for each in self._lines if each.is_closed()]:
                self._lines.pop(other, None)
            line = self._lines[loop] = Line(self._address)
        return line
