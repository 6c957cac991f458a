"""The ports between a courier and where its events come from: a journal's estates, or a stream.

Rule 1: an event that was handed out stays in hand until `keep` finds it gone from its consignment:
        delivered, or parked. Only then may the supply forget it, and never before.
Rule 2: what `keep` was told outlives `kill -9`, and whoever takes the supply over: its `take` hands out
        what was in hand first, each consignment as it was, with the moments of its items.

A `Stock` holds events for any number of sinks; a `Supply` is one sink's share of it. Whoever wants
a courier to ship from somewhere else writes these two: `journal.holdings.Holdings` and
`journal.lanes.JournalSupply` are those of a journal. `Convoy(stock, sinks, parking)` runs the couriers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True, eq=False)
class Item:
    """An event in hand.

    `sent` is when it was first sent with an outcome that is still unknown (seconds since 1970);
    None where the destination surely does not have it.
    """

    payload: bytes
    sent: float | None = None


@dataclass(slots=True, eq=False)
class Consignment:
    """Events that are sent together, as they were, until some of them are accepted.

    `items` are those still in hand, in order. `more` says whether further events lay ready when this
    was handed out.
    """

    items: list[Item]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far behind a sink is: how many events it still needs, and the time of the oldest.

    `oldest` in seconds since 1970; None where there is none, or where the event does not say.
    """

    events: int = 0
    oldest: float | None = None


class Supply(Protocol):
    """The events for one sink. Used by the thread of that sink's courier alone."""

    def take(self, most: int) -> Consignment | None:
        """Hand out up to `most` events that were not handed out before; None when none lies ready.

        A consignment that was in hand when the process before ended comes first, as it was; in pieces
        where it is larger than `most`, as a sink may take fewer at once than it did.
        Blocks for a moment at most. What cannot be read now is logged and left for a later call.
        """

    def keep(self, consignment: Consignment) -> None:
        """Remember which items are still in hand, and since when each is in doubt.

        Called before each attempt and after it. An item that is gone from the consignment is done with.
        Raises `OSError` when it cannot be remembered; with the consignment emptied, another process has
        taken it over, and nothing of it is to be sent.
        """

    def backlog(self) -> Backlog:
        """Tell how far behind the sink is, what is in hand among it."""


class Stock(Protocol):
    """Events for several sinks. Thread-safe."""

    def supply(self, sink: str, *, durable: bool) -> Supply:
        """Begin a sink's share anew, by the sink's name.

        With `durable` what `keep` is told outlives a power cut too: the destination forgets ids.
        """

    def due(self) -> Callable[[float], bool]:
        """Note what is there now; give a call that waits until every sink has it, so many seconds at most.

        The call returns whether every sink has it, and may be made again.
        """

    def release(self) -> None:
        """Leave everything to other processes."""
