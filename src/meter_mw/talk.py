"""What the core says while it decides: commands that it yields, and the replies that it is sent."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from meter_mw.model import MeterError
from meter_mw.stores.port import Admit, TopUp

if TYPE_CHECKING:
    from meter_mw.model import Request
    from meter_mw.policy.identity import Credential
    from meter_mw.policy.policy import Route
    from meter_mw.policy.terms import KeyEntry
    from meter_mw.stores.port import Charge, Tally


ROUNDS = 3
"""How often a store is asked again about windows or a fence that its clock has left behind."""

FENCE = 10
"""Deadlines until a store refuses a command as late.

More than one, as a busy event loop sends late; what is given up on before the fence is cancelled.
"""


class ResolverUnavailable(MeterError):
    """The operator's resolver gave no usable answer about a key."""


class KeyEnded(MeterError):
    """The key is known, and no longer good: it was revoked, or has expired."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask the registry, and the operator's resolver, whose key this is.

    `key` is its pseudonym; `others` are those under other secrets, which the registry may know it by.
    """

    key: str
    credential: Credential
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registered:
    """Whose a key of the registry is, and the pseudonym that it has there."""

    key: str
    entry: KeyEntry


@dataclass(frozen=True, slots=True)
class Price:
    """Ask the operator's pricing of a route what a request costs."""

    route: Route
    request: Request


@dataclass(frozen=True, slots=True)
class Peek:
    """Look how charges of a subject stand, and change nothing."""

    tag: str
    charges: tuple[Charge, ...]


Costs: TypeAlias = tuple[tuple[str, int], ...]

T = TypeVar("T")
Command: TypeAlias = Admit | TopUp | Peek | Resolve | Price
Reply: TypeAlias = "Tally | KeyEntry | Registered | Costs | None"
Conversation: TypeAlias = Generator[Command, Reply, T]
"""Yields an Admit, a TopUp or a Peek and is sent its Tally, a Resolve and is sent a KeyEntry, a Registered or
None, or a Price and is sent what each meter is charged, None where the pricing gave no usable answer."""
