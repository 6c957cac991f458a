"""What HTTP and WebSockets share: what stops an app, and closing the count before the last byte leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meter_mw.exchange import Exchange
    from meter_mw.meter import Meter


class Stopped(OSError):
    """Nothing more passes: a limit has ended this; servers raise the like for a client that left."""


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
