"""How exchanges end: what stops an app, closing the count before the last byte, leaving the context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.asgi.bodies import BODIES
from meter_mw.exchange import enter

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from meter_mw.exchange import Exchange
    from meter_mw.meter import Meter


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


async def conclude(meter: Meter, exchange: Exchange) -> None:
    """Close the count before the last of it leaves: the event is written, and slots are free."""
    settlement = meter.finish(exchange)
    if settlement is not None:
        await meter.arelease(exchange, settlement)


def abandon(meter: Meter, exchange: Exchange) -> None:
    """Close the count where nobody waits any more."""
    settlement = meter.finish(exchange)
    if settlement is not None:
        meter.release_later(exchange, settlement)
