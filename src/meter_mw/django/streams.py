"""Django's streamed responses, counted and held to their limits as the server takes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, cast

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse

from meter_mw.environ import StreamCut, cut
from meter_mw.exchange import enter
from meter_mw.model import Count

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    from meter_mw.exchange import Exchange
    from meter_mw.lasting import Room
    from meter_mw.meter import Meter

_R = TypeVar("_R", bound="HttpResponseBase")

_CLOSERS = "_resource_closers"
"""Where Django keeps what is to be closed with a response."""


def streamed(whole: HttpResponse) -> StreamingHttpResponse:
    """Give a response as a stream, which alone can break off."""
    response = StreamingHttpResponse([whole.content], status=whole.status_code, reason=whole.reason_phrase)
    response.headers, response.cookies = whole.headers, whole.cookies
    return closing(response, whole)


def closing(response: _R, replaced: HttpResponseBase) -> _R:
    """Have a response close what another one would have closed, in whose place it is sent."""
    setattr(response, _CLOSERS, getattr(replaced, _CLOSERS))
    return response


def counted(
    request: HttpRequest, response: StreamingHttpResponse, exchange: Exchange, meter: Meter
) -> _Stream | _AsyncStream:
    """Have a streamed response counted as the server takes it."""
    chunks = response.streaming_content
    if response.is_async:
        return _AsyncStream(cast("AsyncIterator[bytes]", chunks), exchange, meter)
    if hasattr(request, "scope"):
        return _AsyncStream(_listed(cast("Iterable[bytes]", chunks)), exchange, meter)
    return _Stream(cast("Iterable[bytes]", chunks), exchange, meter)


async def _listed(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Give a synchronous stream as Django serves one under ASGI: read whole, in a thread.

    Counted there it would be whole before the client has a byte of it, and stay so when the client leaves.
    """
    for chunk in await sync_to_async(lambda: list(chunks))():
        yield chunk


class _Counting:
    """What counts a streamed response; Django calls `close` when it is done with it."""

    def __init__(self, exchange: Exchange, meter: Meter) -> None:
        self._exchange = exchange
        self._meter = meter
        self._is_cut = False

    def _cut(self, chunk: bytes, room: Room) -> bytes:
        self._is_cut = True
        return cut(self._exchange, chunk, room)

    @property
    def _is_over(self) -> bool:
        return self._is_cut or self._exchange.completes()

    def close(self) -> None:
        self._meter.abandon(self._exchange)
        enter(None)


class _Stream(_Counting):
    """A stream that blocks."""

    def __init__(self, chunks: Iterable[bytes], exchange: Exchange, meter: Meter) -> None:
        super().__init__(exchange, meter)
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._is_cut:
            enter(None)
            raise StreamCut
        enter(self._exchange)
        try:
            chunk = next(self._chunks)
            size = self._exchange.clipped(len(chunk))
            room = self._meter.gate.lets(self._exchange, (Count.RESPONSE_BYTES, size))
            if room is not None:
                chunk = self._cut(chunk, room)
            if self._is_over:
                self._meter.conclude(self._exchange)
        except BaseException as end:
            if isinstance(end, StopIteration):
                self._meter.conclude(self._exchange)
            self.close()
            raise
        return chunk


class _AsyncStream(_Counting):
    """A stream that is awaited.

    The event loop gets a turn before each chunk: a stream that never waits would not let it hear of a
    client that left, and the server take the rest. One that is cut ends as for a client that left, which is
    what Django cleans up after.
    """

    def __init__(self, chunks: AsyncIterator[bytes], exchange: Exchange, meter: Meter) -> None:
        super().__init__(exchange, meter)
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._is_cut:
            enter(None)
            raise asyncio.CancelledError("a limit lets no more of this response pass")
        enter(self._exchange)
        try:
            await asyncio.sleep(0)
            chunk = await anext(self._chunks)
            size = self._exchange.clipped(len(chunk))
            room = await self._meter.gate.alets(self._exchange, (Count.RESPONSE_BYTES, size))
            if room is not None:
                chunk = self._cut(chunk, room)
            if self._is_over:
                await self._meter.aconclude(self._exchange)
        except BaseException as end:
            if isinstance(end, StopAsyncIteration):
                await self._meter.aconclude(self._exchange)
            self.close()
            raise
        return chunk
