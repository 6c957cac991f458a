"""What is asked of a store, and what it answers.

Rule 1: a command is idempotent by its `rid`: a repeated `Admit` charges nothing more and is answered as
admitted, a repeated `Settle` or `Cancel` changes nothing.
Rule 2: a command is fenced: an `Admit` that arrives after `not_after_us` of the store's time is `LATE` and
changes nothing; one whose rid was cancelled is `VOID`, whichever of the two came first.
Rule 3: an `Admit` is all or nothing: a denied one leaves the state as it was.
Rule 4: time is the store's, in whole µs; a clock that goes back takes the rates' arrivals back with it.
Rule 5: a `Settle` cannot be refused; one whose `Admit` the store has lost is booked in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from meter_mw.model import LARGEST_COST, MeterError, RequestId
from meter_mw.quota import AT_REST, RATE_ID, Quota, Rate, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.periods import Windows

REMEMBERED_US = 15 * 60 * 1_000_000
"""A store remembers a rid for at least this long (µs): the horizon within which repeats are harmless."""

KEPT_US = 60 * 1_000_000
"""A state is kept for this long (µs) after it has stopped to say anything."""

NO_WINDOWS = (0, 0, 0, 0)


class StoreUnavailable(MeterError):
    """The store gave no usable answer in time. Whether it acted on the command is unknown."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One quota of a subject, and the units asked of it.

    `need` units must be free, of which `take` are charged at once: equal where the cost is known
    beforehand, need 1 and take 0 where only the end of the exchange will tell. `windows` are the
    boundaries of a cap's periods around the store's now.
    """

    id: str
    quota: Quota
    need: int
    take: int
    windows: Windows | None = None

    def __post_init__(self) -> None:
        """Refuse units that the stores' arithmetic cannot hold."""
        if not 0 <= self.take <= self.need <= LARGEST_COST:
            raise ValueError(f"a charge takes 0 to 2^52 units and no more than it needs, got {self}")
        is_rate = isinstance(self.quota, Rate)
        if (self.windows is None) is not is_rate or self.id.startswith(RATE_ID) is not is_rate:
            raise ValueError(f"a cap has windows, a rate has none and an id that says so, got {self}")


@dataclass(frozen=True, slots=True)
class Booking:
    """What one charge turned out to be: `actual` units where `charge.take` were taken.

    `window_us` is the opening of the window that a cap was charged in, 0 for a rate.
    """

    charge: Charge
    actual: int
    window_us: int = 0

    def __post_init__(self) -> None:
        """Refuse units that the stores' arithmetic cannot hold."""
        if not 0 <= self.actual <= LARGEST_COST:
            raise ValueError(f"a booking is 0 to 2^52 units, got {self.actual}")


@dataclass(frozen=True, slots=True)
class Admit:
    """Charge all of `charges` to the subject that `tag` stands for, or none of them."""

    rid: RequestId
    tag: str
    not_after_us: int
    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    """Put the truth in place of what was taken at admission."""

    rid: RequestId
    tag: str
    bookings: tuple[Booking, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give back what `rid` was charged, if it was, and refuse it if it still comes."""

    rid: RequestId
    tag: str


Closing: TypeAlias = Settle | Cancel
"""What ends an admission."""


class Verdict(Enum):
    """What became of an `Admit`."""

    ADMITTED = "admitted"
    DENIED = "denied"
    LATE = "late"
    VOID = "void"
    REFRESH = "refresh"
    """The store's time lies outside of the windows that were sent: ask again with windows around it."""


class Outcome(Enum):
    """What became of a `Settle` or a `Cancel`."""

    APPLIED = "applied"
    RECOVERED = "recovered"
    """The store did not know the rid: a settlement was booked in full, a cancellation left its mark."""
    ALREADY = "already"
    """The rid was settled before."""
    VOID = "void"
    """The rid was cancelled before."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of one quota: a rate's theoretical arrival, or a cap's window and the units used in it.

    `state` is as of after the charge when it was admitted. `fits` says whether the quota had room.
    """

    state: Span = AT_REST
    fits: bool = True


@dataclass(frozen=True, slots=True)
class Tally:
    """The store's answer to an `Admit` or a look: one reading a charge, in their order."""

    verdict: Verdict
    now_us: int
    readings: tuple[Reading, ...] = ()


class Store(Protocol):
    """Keeps quota state, for callers that may block."""

    def admit(self, command: Admit, *, patience_us: int) -> Tally:
        """Decide within `patience_us`, or raise StoreUnavailable."""
        ...

    def settle(self, closings: Sequence[Closing]) -> Sequence[Outcome]:
        """Apply all, each at most once, or raise StoreUnavailable; the whole batch may be repeated."""
        ...

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything."""
        ...

    def now_us(self) -> int:
        """Give the best guess at the store's time, without asking it."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class AsyncStore(Protocol):
    """Keeps quota state, for callers on an event loop."""

    async def admit(self, command: Admit, *, patience_us: int) -> Tally:
        """Decide within `patience_us`, or raise StoreUnavailable."""
        ...

    async def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Read without changing anything."""
        ...

    def now_us(self) -> int:
        """Give the best guess at the store's time, without asking it."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
