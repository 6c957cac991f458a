"""The port of a destination of usage events, and the answers it gives for each event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has the event, as durably as it ever will."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The destination had the event already: as good as delivered."""


@dataclass(frozen=True, slots=True)
class Permanent:
    """The destination will never take this event; it is parked with the reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The destination does not have the event and may take it later.

    `after` is the least number of seconds to wait, `None` when the destination named none.
    """

    after: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The event was sent and may have arrived; sent again, its id makes a second copy harmless.

    `after` is the least number of seconds to wait, `None` when the destination named none.
    """

    reason: str = ""
    after: float | None = None


Outcome: TypeAlias = Delivered | Duplicate | Permanent | Retry | Unknown


class Sink(Protocol):
    """A destination of usage events, used by one thread at a time.

    A sink works in whichever process calls it: after a fork the child's first `send` opens its own
    connections. `repr` names the destination without its credentials.
    """

    @property
    def name(self) -> str:
        """The name that cursors are kept under: unique in a policy, the same after a restart."""

    @property
    def max_batch(self) -> int:
        """The most events that one `send` takes."""

    @property
    def horizon(self) -> float | None:
        """The seconds for which the destination surely knows an id again.

        None where it knows ids for ever, or never: such a sink is at-least-once.
        """

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Deliver CloudEvents objects (UTF-8 JSON) and answer for each, in their order.

        Blocks for a bounded time. A failure is an outcome, not an exception.
        """

    def close(self) -> None:
        """Let go of files and connections; a later `send` opens them again."""


@runtime_checkable
class Totals(Protocol):
    """A sink whose destination can be asked what it has, for reconciliation."""

    def totals(self, subjects: Sequence[str], start_us: int, end_us: int) -> Mapping[tuple[str, str], int]:
        """Give the quantity that the destination has of each (subject, field) in [start, end).

        Times are µs since 1970, whole minutes. What it has nothing of may be left out. Raises
        `ConnectionError` when the destination does not answer, with what it said.
        """


@runtime_checkable
class Listing(Protocol):
    """A sink whose destination knows by itself who has used anything: a ledger."""

    def subjects(self, start_us: int, end_us: int) -> Sequence[str]:
        """Give the subjects with usage in [start, end), and maybe some around it; see `Totals`."""
