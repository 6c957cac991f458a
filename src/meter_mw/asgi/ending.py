"""How exchanges end: what stops an app, and leaving the context before the last message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.asgi.bodies import BODIES
from meter_mw.exchange import enter

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from meter_mw.exchange import Exchange


class Stopped(OSError):
    """Nothing more passes: a limit has ended this; servers raise the like for a client that left."""


def leaving(send: Send, exchange: Exchange, outer: Exchange | None) -> Send:
    """Have the last message handed on outside of the exchange.

    A server may begin the next request of the connection from within, in the context that it finds.
    """

    async def hand_on(message: Message) -> None:
        if message["type"] not in BODIES or message.get("more_body", False):
            await send(message)
            return
        enter(outer)
        try:
            await send(message)
        finally:
            enter(exchange)

    return hand_on
