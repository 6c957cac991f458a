"""The terms that a policy speaks in: limits and who shares them, plans, charges, what is a key's own."""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from meter_mw.quota import LETTERS, Cap, OnDeny, Quota

if TYPE_CHECKING:
    from datetime import date

    from meter_mw.model import Meter
    from meter_mw.policy.prices import PriceList


_SENDABLE = re.compile(r"[ !#-\[\]-~]+")
"""Characters that a String needs no escape for (RFC 9651, section 3.3.3)."""


class Failure(Enum):
    """What a limit does while the store does not answer."""

    OPEN = "open"
    CLOSED = "closed"


class Scope(Enum):
    """Who shares one count of a limit."""

    KEY = "key"
    """A caller without a key counts as its subject."""
    SUBJECT = "subject"
    ACCOUNT = "account"
    """A subject without an account is its own."""
    ROUTE = "route"
    """Everybody, on each route."""
    EVERYONE = "everyone"


class Speed(Enum):
    """Who decides a request that is far from a limit."""

    STRICT = "strict"
    """The store, each by itself."""
    AUTO = "auto"
    """This process, from a lease, where enough requests come for that to be worth it."""
    LEASED = "leased"
    """This process, from a lease, as soon as there is one."""


class OnExhausted(Enum):
    """What becomes of a response that has begun when the limit on its bytes is used up."""

    FINISH = "finish"
    CUT = "cut"


class Exemption(Enum):
    """Whether a route or a key is under limits."""

    NONE = "none"
    COUNTED = "counted"
    """Under no limit, and recorded like any other."""
    FREE = "free"
    """Neither limited nor recorded."""


def digest_of(*parts: str, size: int) -> str:
    """Give a URL-safe digest of `parts` in which no two different lists of parts meet."""
    hasher = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return urlsafe_b64encode(hasher.digest()).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Limit:
    """A quota on a meter, under the name that clients read.

    `route` is the name of the route that the limit belongs to, or `None` for one of a plan. The store
    knows a limit by `id`, made of what it limits and not of how much: changing an amount, or moving a
    subject to a plan with a limit of the same name, keeps the count. `reserve` units are held at
    admission where only the end will tell how many are used: of bytes and messages as many of them as there
    are, of a reported meter all of them, as an estimate. A shadow limit refuses nobody, and has a count of
    its own. `speed` says whether leases are taken of it.
    """

    name: str
    meter: Meter
    quota: Quota
    on_store_failure: Failure
    route: str | None = None
    scope: Scope = Scope.SUBJECT
    reserve: int = 0
    on_exhausted: OnExhausted = OnExhausted.FINISH
    shadow: bool = False
    speed: Speed = Speed.AUTO
    id: str = field(init=False)

    def __post_init__(self) -> None:
        """Name the limit for the store. Raises ValueError for a name that no header field can carry."""
        if not _SENDABLE.fullmatch(self.name):
            raise ValueError(f"the name of a limit cannot be sent to clients: {self.name!r}")
        letter = LETTERS[type(self.quota)]
        kind = letter + self.quota.period.word if isinstance(self.quota, Cap) else letter
        home = ("plan",) if self.route is None else ("route", self.route)
        shared = () if self.scope is Scope.SUBJECT else ("scope", self.scope.value)
        apart = ("shadow",) if self.shadow else ()
        digest = digest_of(*home, kind, self.meter.name, self.name, *shared, *apart, size=6)
        object.__setattr__(self, "id", letter + digest)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a subject may do, limits that apply to each of its requests, and what that costs from when on."""

    name: str
    limits: tuple[Limit, ...] = ()
    timezone: str | None = None
    prices: tuple[PriceList, ...] = ()


ANY_STATUS = frozenset(range(100, 600))


@dataclass(frozen=True, slots=True)
class ChargeRules:
    """What a request costs in the end: whether its status is one that is charged for.

    A request that is not charged for costs nothing on meters that count requests, and gives caps back what
    it took; rates keep it, as they protect the app, and bytes are counted as they passed. `on_deny` says
    which rates a refused request counts against all the same.
    """

    when: frozenset[int] = ANY_STATUS
    refund_on: frozenset[int] = frozenset()
    on_deny: OnDeny = OnDeny.NONE

    def charges(self, status: int) -> bool:
        """Say whether a request that ended with `status` is charged for."""
        return status in self.when and status not in self.refund_on


@dataclass(frozen=True, slots=True)
class Override:
    """Another amount for one limit of a plan, until a day begins in the key's zone; for good without one."""

    limit: str
    quota: Quota
    until: date | None = None


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What the operator says of a key: whose it is, and on what terms. `None` means the policy's default."""

    subject: str
    plan: str | None = None
    account: str | None = None
    anchor: date | None = None
    timezone: str | None = None
    exemption: Exemption = Exemption.NONE
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One limit as it bears on a request of one route and plan, priced beforehand; known by identity.

    `holder` names whose state it is where that is the same for all callers.
    """

    limit: Limit
    need: int
    take: int
    held: bool = False
    holder: str = ""
