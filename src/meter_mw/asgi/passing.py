"""What HTTP and WebSockets share: asking before more passes, closing the count before the last leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.model import Count

if TYPE_CHECKING:
    from meter_mw.exchange import Exchange
    from meter_mw.lasting import Room
    from meter_mw.meter import Meter

_NAMES = {
    Count.REQUEST_BYTES: ("request_bytes", "request_room"),
    Count.RESPONSE_BYTES: ("response_bytes", "response_room"),
    Count.REQUEST_MESSAGES: ("request_messages", "request_messages_room"),
    Count.RESPONSE_MESSAGES: ("response_messages", "response_messages_room"),
}
"""Where an exchange keeps what has passed of a count, and what may."""


class Stopped(OSError):
    """Nothing more passes: a limit has ended this; servers raise the like for a client that left."""


async def wanting(
    meter: Meter, exchange: Exchange, count: Count, units: int, *, refuses: bool = False
) -> Room | None:
    """Have room made for `units` more of a count; give what room there is where they do not fit."""
    passed, room_for = _NAMES[count]
    while not exchange.ended and (total := getattr(exchange, passed) + units) > getattr(exchange, room_for):
        room = await meter.atop_up(exchange, count, total, refuses=refuses)
        if room.denied_by or room.unavailable or room.passes < total:
            return room
    return None


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
