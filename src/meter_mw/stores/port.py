"""What is asked of a store, and what it answers.

Rule 1: a command is idempotent by its `rid`: a repeated `Admit` charges nothing more and is answered as
admitted, a repeated `Settle` or `Cancel` changes nothing, and a `TopUp` says what is to be held in all.
Rule 2: a command is fenced: one that arrives after `not_after_us` of the store's time is `LATE` and
changes nothing; one whose rid was settled or cancelled is `VOID`, whichever of the two came first.
Rule 3: an `Admit` is all or nothing: a denied one leaves the state as it was, but for what `on_deny` says.
Shadow charges are all or nothing among themselves, are charged only beside enforced ones that are, and
never deny.
Rule 4: time is the store's, in whole µs; a clock that goes back takes the rates' arrivals back with it.
Rule 5: a `Settle` cannot be refused; one whose `Admit` the store has lost is booked in full.
Rule 6: what is held comes back by itself: a `held` charge is a lease, given back when its time is over
unless it was settled or topped up before; a settlement that comes later still is booked in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, TypeAlias

from meter_mw.model import LARGEST_COST, MeterError, RequestId
from meter_mw.quota import AT_REST, LETTERS, Cap, OnDeny, Quota, Slots, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.periods import Windows

REMEMBERED_US = 15 * 60 * 1_000_000
"""A store remembers a rid for at least this long (µs): the horizon within which repeats are harmless."""

KEPT_US = 60 * 1_000_000
"""A state is kept for this long (µs) after it has stopped to say anything."""

NO_WINDOWS = (0, 0, 0, 0)

_LAST_US = 2**53

PATIENCE_US = 1_000_000
"""How long a look, or a batch of closings, may take (µs)."""


class StoreUnavailable(MeterError):
    """The store gave no usable answer in time. Whether it acted on the command is unknown."""


class NotAsked(StoreUnavailable):
    """Nothing was sent to the store, so it surely did not act on the command."""


class Refusal(StoreUnavailable):
    """The store is there, and answered the command with an error."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One quota, and the units asked of it.

    `need` units must be free, and `take` are charged. Less than needed: where only the end will tell, need
    1 and take 0. More than needed: a cap and slots give as much of it as they have, a rate all of it.
    What is `held` is reserved under the lease of its command, and settled to the truth. `windows` are the
    boundaries of a cap's periods around the store's now. `holder` names whose state it is: "" for the
    subject that the command's tag stands for, else a tag of its own or the subject's with a suffix,
    "tag" or "tag:suffix". In one command no two charges have the same id.
    """

    id: str
    quota: Quota
    need: int
    take: int
    windows: Windows | None = None
    held: bool = False
    shadow: bool = False
    holder: str = ""

    def __post_init__(self) -> None:
        """Refuse units that the stores' arithmetic cannot hold."""
        if not (0 <= self.take <= LARGEST_COST and 0 <= self.need <= LARGEST_COST):
            raise ValueError(f"a charge needs and takes 0 to 2^52 units, got {self}")
        if self.take > self.need and not self.held:
            raise ValueError(f"only a held charge takes more than it needs, got {self}")
        if (self.windows is None) is isinstance(self.quota, Cap):
            raise ValueError(f"a cap has windows, and nothing else has, got {self}")
        if not self.id.startswith(LETTERS[type(self.quota)]):
            raise ValueError(f"the id of a charge says of what kind its quota is, got {self}")
        if self.windows is not None and not 0 <= self.windows[0] <= self.windows[-1] <= _LAST_US:
            raise ValueError(f"windows lie between 1970 and 2^53 µs after, got {self}")
        if isinstance(self.quota, Slots) and not self.held:
            raise ValueError(f"slots are held, got {self}")


class _Booking(NamedTuple):
    charge: Charge
    actual: int
    window_us: int = 0


class Booking(_Booking):
    """What one charge turned out to be: `actual` units, whatever was taken or held for it.

    `window_us` is the opening of the window that a cap was charged in, 0 for other quotas.
    """

    __slots__ = ()

    def __new__(cls, charge: Charge, actual: int, window_us: int = 0) -> Self:
        """Refuse units that the stores' arithmetic cannot hold."""
        if not 0 <= actual <= LARGEST_COST:
            raise ValueError(f"a booking is 0 to 2^52 units, got {actual}")
        return tuple.__new__(cls, (charge, actual, window_us))


class _Admit(NamedTuple):
    rid: RequestId
    tag: str
    not_after_us: int
    charges: tuple[Charge, ...]
    lease_us: int = 0
    on_deny: OnDeny = OnDeny.NONE
    after: RequestId | None = None


class Admit(_Admit):
    """Charge all of `charges`, or none of them; `tag` stands for the subject, and keeps the rid.

    What is held comes back after `lease_us`. Slots that the rid `after` holds are handed over. A store may
    know the same `charges` again, which are cheaper then.
    """

    __slots__ = ()

    def __new__(  # noqa: PLR0917 - as the tuple has them
        cls,
        rid: RequestId,
        tag: str,
        not_after_us: int,
        charges: tuple[Charge, ...],
        lease_us: int = 0,
        on_deny: OnDeny = OnDeny.NONE,
        after: RequestId | None = None,
    ) -> Self:
        """Refuse to hold anything without an end."""
        if lease_us <= 0 and any(each.held for each in charges):
            raise ValueError(f"what is held is held for some time, got a lease of {lease_us} µs")
        return tuple.__new__(cls, (rid, tag, not_after_us, charges, lease_us, on_deny, after))


class _TopUp(NamedTuple):
    rid: RequestId
    tag: str
    not_after_us: int
    charges: tuple[Charge, ...]
    lease_us: int


class TopUp(_TopUp):
    """Hold for `rid` as many units of each held charge as it says in all, and renew the lease.

    `need` and `take` count what the rid holds already: a repeat takes nothing more, and an earlier one
    that comes late takes nothing away.
    """

    __slots__ = ()

    def __new__(
        cls, rid: RequestId, tag: str, not_after_us: int, charges: tuple[Charge, ...], lease_us: int
    ) -> Self:
        """Refuse to top up what is not held, or without an end."""
        if lease_us <= 0 or not all(each.held for each in charges):
            raise ValueError(f"a top-up is held, and for some time, got {charges} for {lease_us} µs")
        return tuple.__new__(cls, (rid, tag, not_after_us, charges, lease_us))


class Settle(NamedTuple):
    """Put the truth in place of what was taken and held."""

    rid: RequestId
    tag: str
    bookings: tuple[Booking, ...]


class Cancel(NamedTuple):
    """Give back what `rid` was charged of `charges`, if it was, and refuse it if it still comes."""

    rid: RequestId
    tag: str
    charges: tuple[Charge, ...] = ()

    @property
    def bookings(self) -> tuple[Booking, ...]:
        """What it turned out to be: nothing."""
        return tuple(Booking(each, 0) for each in self.charges)


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


class Reading(NamedTuple):
    """The state of one quota: a rate's theoretical arrival, or since when a cap has counted how much.

    `state` is as of after the charge when it was made. `fits` says whether the quota had room. Of caps and
    slots: the count goes on until `until_us`, and `granted` units are charged to the rid or held for it.
    `overage` of this charge lie beyond what the cap includes; thresholds above `warned[0]` up to
    `warned[1]` were reached by it, and this is the only answer that says so.
    """

    state: Span = AT_REST
    fits: bool = True
    until_us: int = 0
    granted: int = 0
    overage: int = 0
    warned: tuple[int, int] = (0, 0)


class Tally(NamedTuple):
    """The store's answer to an `Admit`, a `TopUp` or a look: one reading a charge, in their order."""

    verdict: Verdict
    now_us: int
    readings: tuple[Reading, ...] = ()


class Note(NamedTuple):
    """What a settlement turned out to be of one `booking`, by its number from 0: see `Reading`."""

    booking: int
    overage: int = 0
    warned: tuple[int, int] = (0, 0)


class Closed(NamedTuple):
    """The store's answer to a closing; `notes` only of bookings that there is something to say of.

    A repeat is answered with the same notes.
    """

    outcome: Outcome
    notes: tuple[Note, ...] = ()


class Store(Protocol):
    """Keeps quota state, for callers that may block."""

    def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        """Decide within `patience_us`, or raise StoreUnavailable."""
        ...

    def admit_many(
        self, commands: Sequence[Admit | TopUp], *, patience_us: int
    ) -> Sequence[Tally | StoreUnavailable]:
        """Decide each by itself, all within `patience_us`; give why not in place of a tally."""
        ...

    def settle(self, closings: Sequence[Closing], *, patience_us: int = PATIENCE_US) -> Sequence[Closed]:
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

    async def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        """Decide within `patience_us`, or raise StoreUnavailable."""
        ...

    async def settle(
        self, closings: Sequence[Closing], *, patience_us: int = PATIENCE_US
    ) -> Sequence[Closed]:
        """Apply all, each at most once, or raise StoreUnavailable; the whole batch may be repeated."""
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
