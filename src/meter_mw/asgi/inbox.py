"""What the server has to say of a request, read for the app and for us."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message, Receive


class Inbox:
    """The messages of one request, for the app and for us.

    Servers go on taking what is sent to a client that has left; only `receive` tells. So while the app
    streams and does not look itself, this does. What comes in is kept for the app: at most one part of a
    body that it has not read.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._watch: asyncio.Task[None] | None = None
        self._asked = 0
        self.gone = False

    async def take(self) -> Message:
        """Give the app its next message."""
        while self._watch is not None and not self._kept and not self._watch.done():
            await asyncio.wait((self._watch,))
        if self._kept:
            return self._kept.popleft()
        self._asked += 1
        try:
            return await self._next()
        finally:
            self._asked -= 1

    def put_back(self, message: Message) -> None:
        """Keep a message that the app did not get after all."""
        self._kept.appendleft(message)

    def watch(self) -> None:
        """Look out for the client's leaving, unless the app does, or has something to read first."""
        looking = self._asked or (self._watch is not None and not self._watch.done())
        unread = bool(self._kept) and self._kept[-1].get("more_body", False)
        if not (looking or unread or self.gone):
            self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        self._kept.append(await self._next())

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
        return message

    def close(self) -> None:
        """Look no more."""
        if self._watch is not None:
            self._watch.cancel()
