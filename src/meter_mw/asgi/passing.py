"""What HTTP and WebSockets share: asking before more passes, closing the count before the last leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meter_mw.exchange import Exchange
    from meter_mw.lasting import Room
    from meter_mw.meter import Meter
    from meter_mw.model import Count


class Stopped(OSError):
    """Nothing more passes: a limit has ended this; servers raise the like for a client that left."""


async def wanting(
    meter: Meter, exchange: Exchange, count: Count, units: int, *, refuses: bool = False
) -> Room | None:
    """Count `units` more that are about to pass; where they do not fit, count nothing and give the room."""
    while not exchange.claims(count, units) and not exchange.ended:
        total = exchange.passed(count) + units
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
