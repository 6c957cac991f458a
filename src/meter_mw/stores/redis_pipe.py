"""One connection for all callers of an event loop: calls go out together, replies come back in order.

Rule 1: a reply belongs to a call by its place alone, so a call that its caller gave up keeps its place, and
its reply is dropped when it comes.
Rule 2: what a call waits for is counted in Redis' time and not in the loop's: the clock here advances by
little at a time, however long the loop was held, and each advance has looked at the socket.
Rule 3: a connection in doubt is closed at once and for all. After a loss each conversation decides for
itself; after a silence those with time left are asked again on the next connection, unknowing.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import deque
from typing import TYPE_CHECKING

from hiredis import Reader
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import InvalidResponse

from meter_mw.stores.redis_link import FAILURES, Breaker, Crowded, Transport, Unreached, greeting, unreached
from meter_mw.stores.redis_protocol import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.stores.redis_link import Address, Talk
    from meter_mw.stores.redis_protocol import Call

TICK = 0.005
"""Seconds between two advances of the clock while anyone waits."""

LONGEST_TICK = 0.02
"""Seconds that one advance counts at most: a loop that was held for longer was not waiting for Redis."""

MOST_WAITING = 4096
"""Round trips under way at most."""

MOST_BUFFERED = 4 << 20
"""Bytes that Redis has not taken, beyond which nothing more is asked of it."""

_MORE = object()
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Line:
    """The connection of one event loop, renewed when need be, and the clock of those who wait."""

    def __init__(self, address: Address) -> None:
        self.breaker = Breaker()
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._pipe: _Pipe | None = None
        self._clock = self._ticked = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def deadline(self, patience_us: int) -> float:
        """Give until when a caller waits, by the clock here."""
        # A tick more, as the clock may be behind by one, and that alone where lag has used all patience up.
        return self._clock + TICK + max(0, patience_us) / 1_000_000

    async def hold(self, talk: Talk, deadline: float, asked: Waiter | None) -> list[object]:
        """Hold a conversation; its first trip may be over."""
        try:
            trip = next(talk)
            waiter = asked or self.ask(trip.calls, deadline)
            while True:
                trip = talk.send(await waiter.answer())
                waiter = self.ask(trip.calls, deadline, waiter.pipe if trip.fresh else None)
        except StopIteration as end:
            replies: list[object] = end.value
            return replies
        finally:
            talk.close()

    async def close(self) -> None:
        """Let go of the connection; who still waits on it is told of a loss."""
        if self._pipe is not None:
            self._pipe.fail(Lost("the store was closed"))
            await self._pipe.closed()

    def ask(self, calls: Sequence[Call], deadline: float, doubted: _Pipe | None = None) -> Waiter:
        """Begin a round trip, on another connection than the `doubted` one."""
        pipe = self._pipe
        if pipe is None or pipe.over or pipe is doubted:
            pipe = self._current(doubted)
        waiter = Waiter(self._loop, pipe, calls, deadline)
        pipe.ask(waiter)
        if self._timer is None:
            self._ticked = self._loop.time()
            self._timer = self._loop.call_later(TICK, self._tick)
        return waiter

    def _current(self, doubted: _Pipe | None) -> _Pipe:
        """Give the connection, or a new one where there is none or it is the one in doubt."""
        pipe = self._pipe
        if pipe is None or pipe.over or pipe is doubted:
            self._pipe = _Pipe(self._address, self._loop)
            if pipe is not None:
                self._pipe.take_over(pipe)
            return self._pipe
        return pipe

    def _tick(self) -> None:
        """Advance the clock; who was overdue already at the last advance has now waited long enough."""
        pipe = self._pipe
        if pipe is not None and pipe.expire(self._clock):
            if pipe.waited_for:
                pipe = self._current(pipe)
            else:
                pipe.fail(Lost("it was silent"))
        now = self._loop.time()
        self._clock += min(now - self._ticked, LONGEST_TICK)
        self._ticked = now
        waited_for = pipe is not None and pipe.waited_for
        self._timer = self._loop.call_later(TICK, self._tick) if waited_for else None


class Waiter:
    """A round trip under way: what is asked, what has come of it, and until when it may take.

    The `future` gives the replies, or is failed by one of FAILURES.
    """

    __slots__ = ("_count", "_moved", "_replies", "deadline", "future", "packed", "pipe")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pipe: _Pipe, calls: Sequence[Call], deadline: float
    ) -> None:
        self.future: asyncio.Future[list[object]] = loop.create_future()
        self.pipe = pipe
        self.packed = pack(calls)
        self.deadline = deadline
        self._count = len(calls)
        self._moved = False
        self._replies: list[object] = []

    async def answer(self) -> Sequence[object] | Exception:
        """Wait for the replies, or for the failure that comes instead; either may be there already."""
        try:
            replies = await self.future
        except FAILURES as failure:
            return failure.with_traceback(None)
        # LOADING and the like: an answer, but none to the call.
        return next((each for each in replies if isinstance(each, Lost)), replies)

    def take(self, reply: object) -> bool:
        """Take the next reply; say whether it was the last."""
        self._replies.append(reply)
        if len(self._replies) < self._count:
            return False
        if not self.future.done():
            self.future.set_result(self._replies)
        return True

    def fail(self, failure: Exception) -> None:
        """Say that no reply will come; what was asked of a connection before may have arrived there."""
        if self._moved and isinstance(failure, Unreached):
            failure = Lost(str(failure))
        if not self.future.done():
            self.future.set_exception(failure)

    def move(self) -> None:
        """Begin again on another connection."""
        self._moved = True
        self._replies = []


class _Pipe(asyncio.Protocol):
    """One connection, from its opening to its end."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        self.over = False
        self._address = address
        self._loop = loop
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_MORE
        )
        self._waiting: deque[Waiter] = deque()
        self._soonest = math.inf
        self._unsent: list[bytes] = []
        self._ready = self._full = False
        self._transport: asyncio.Transport | None = None
        self._opening = loop.create_task(self._open())

    @property
    def waited_for(self) -> bool:
        """Whether anyone's time runs."""
        return bool(self._waiting) and self._soonest < math.inf

    def ask(self, waiter: Waiter) -> None:
        """Send: at once where nothing is under way, else with all that is asked in this turn of the loop."""
        waiting = self._waiting
        if self._full or len(waiting) >= MOST_WAITING:
            waiter.fail(Crowded(f"{len(waiting)} calls are waiting for it already"))
            return
        is_idle = not waiting
        waiting.append(waiter)
        self._soonest = min(self._soonest, waiter.deadline)
        if is_idle and self._ready and self._transport is not None:
            self._transport.write(waiter.packed)
            return
        if self._ready and not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(waiter.packed)

    def expire(self, clock: float) -> bool:
        """Fail those whose time is over; say whether one of them was asked of this connection alone."""
        if clock < self._soonest:
            return False
        silent = False
        self._soonest = math.inf
        for waiter in self._waiting:
            if waiter.deadline > clock:
                self._soonest = min(self._soonest, waiter.deadline)
            else:
                silent = silent or waiter.pipe is self
                waiter.fail(TimeoutError())
        return silent

    def take_over(self, other: _Pipe) -> None:
        """End another connection, and ask again what it has not answered."""
        for waiter in other._end():
            waiter.move()
            self.ask(waiter)

    def fail(self, failure: Exception) -> None:
        """End it, and tell all who wait."""
        for waiter in self._end():
            waiter.fail(failure)

    async def closed(self) -> None:
        """Wait until its socket is closed."""
        await asyncio.wait((self._opening,))
        await asyncio.sleep(0)  # asyncio closes a socket in the loop's next round

    def _end(self) -> list[Waiter]:
        """Close it, and give those who still wait."""
        self.over = True
        self._opening.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting = [each for each in self._waiting if not each.future.done()]
        self._waiting.clear()
        self._unsent.clear()
        return waiting

    # Opening

    async def _open(self) -> None:
        try:
            await self._connect()
            await self._greet()
        except FAILURES as failure:
            self.fail(unreached(failure).with_traceback(None))
        except ValueError as error:  # a host that cannot be a name
            self.fail(Unreached(str(error)))
        else:
            self._ready = True
            self._flush()

    async def _connect(self) -> None:
        options: dict[str, object] = self._address.options
        if self._address.transport is Transport.UNIX:
            await self._loop.create_unix_connection(lambda: self, str(options["path"]))
            return
        tls = self._address.tls
        await self._loop.create_connection(
            lambda: self,
            str(options.get("host", "localhost")),
            int(str(options.get("port", 6379))),
            ssl=None if tls is None else tls.get(),
        )

    async def _greet(self) -> None:
        """Say who we are before anything is asked, as it would be asked of the wrong database."""
        calls = greeting(self._address)
        if not calls or self._transport is None:
            return
        waiter = Waiter(self._loop, self, calls, math.inf)
        self._waiting.appendleft(waiter)
        self._transport.write(waiter.packed)
        for reply in await waiter.future:
            if isinstance(reply, Exception):
                raise reply

    def _flush(self) -> None:
        if self._unsent and self._transport is not None:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    # What asyncio tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is one
        """Take the transport."""
        self._transport = transport
        if self.over:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=MOST_BUFFERED)
        sock = transport.get_extra_info("socket")
        if self._address.transport is not Transport.UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def data_received(self, data: bytes) -> None:
        """Hand out replies, in the order of the calls."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _MORE:
                if self._waiting[0].take(reply):
                    self._waiting.popleft()
        except (InvalidResponse, IndexError):
            self.fail(Lost("what came is no reply of a Redis"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who wait."""
        self.fail(Lost(f"the connection was closed: {exc}" if exc else "the connection was closed"))

    def pause_writing(self) -> None:
        """Ask no more."""
        self._full = True

    def resume_writing(self) -> None:
        """Ask again."""
        self._full = False
