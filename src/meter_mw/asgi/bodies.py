"""The messages that carry a response body: what they stand for, and the first part of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.types import Message

BODIES = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})

_PIECE = 1 << 16


def size_of(message: Message) -> int:
    """Give the bytes of body that a message stands for."""
    if message["type"] == "http.response.body":
        return len(message.get("body", b""))
    match message["type"]:
        case "http.response.pathsend":
            return Path(message["path"]).stat().st_size
        case "http.response.zerocopysend":
            file = message["file"].fileno()
            offset = message["offset"] if "offset" in message else os.lseek(file, 0, os.SEEK_CUR)
            rest: int = os.fstat(file).st_size - offset
            return min(rest, int(message.get("count", rest)))
        case _:
            return 0


async def first_of(message: Message, size: int) -> AsyncGenerator[Message, None]:
    """Give messages for the first `size` bytes of what a message stands for, none of which is the last."""
    match message["type"]:
        case "http.response.pathsend":
            async for piece in _pieces(message["path"], size):
                yield {"type": "http.response.body", "body": piece, "more_body": True}
        case "http.response.zerocopysend":
            if size:  # a count of none would mean all
                yield {**message, "count": size, "more_body": True}
        case _:
            yield {**message, "body": message.get("body", b"")[:size], "more_body": True}


async def _pieces(path: str, size: int) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(Path(path).open, "rb") as file:
        while size > 0 and (piece := await asyncio.to_thread(file.read, min(size, _PIECE))):
            size -= len(piece)
            yield piece
