"""The decided policy: frozen values that the request path asks, compiled beforehand."""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.model import UNMATCHED, Count, Meter, SubjectId
from meter_mw.policy.matching import Matcher
from meter_mw.quota import RATE_ID, Cap, Quota

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date
    from pathlib import Path

    from meter_mw.policy.addresses import TrustedProxies
    from meter_mw.policy.identity import KeyPlace
    from meter_mw.policy.templates import Template


STRANGERS = 4096
"""Callers that no entry describes are kept ready for their next request, as many as this."""

_SENDABLE = re.compile(r"[ !#-\[\]-~]+")
"""Characters that a String needs no escape for (RFC 9651, section 3.3.3)."""


class Failure(Enum):
    """What a limit does while the store does not answer."""

    OPEN = "open"
    CLOSED = "closed"


class Mode(Enum):
    """Whether denials are enforced, or decided and recorded only."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Legacy(Enum):
    """What the reset of the legacy field trio counts, where those fields are sent at all."""

    OFF = "off"
    EPOCH = "epoch"
    DELTA = "delta"


class Unknown(Enum):
    """What becomes of a key that the policy does not list."""

    ACCEPT = "accept"
    REJECT = "reject"


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
    subject to a plan with a limit of the same name, keeps the count.
    """

    name: str
    meter: Meter
    quota: Quota
    on_store_failure: Failure
    route: str | None = None
    id: str = field(init=False)

    def __post_init__(self) -> None:
        """Name the limit for the store. Raises ValueError for a name that no header field can carry."""
        if not _SENDABLE.fullmatch(self.name):
            raise ValueError(f"the name of a limit cannot be sent to clients: {self.name!r}")
        kind = "c" + self.quota.period.word if isinstance(self.quota, Cap) else RATE_ID
        home = ("plan",) if self.route is None else ("route", self.route)
        digest = digest_of(*home, kind, self.meter.name, self.name, size=6)
        object.__setattr__(self, "id", kind[0] + digest)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a subject may do: limits that apply to each of its requests."""

    name: str
    limits: tuple[Limit, ...] = ()
    timezone: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A policy entry: methods and a path template, with what a request there costs.

    `costs` gives units for meters that count requests; one that it does not name costs 1.
    """

    name: str
    template: Template | None = None
    methods: frozenset[str] | None = None
    exempt: bool = False
    costs: tuple[tuple[str, int], ...] = ()
    limits: tuple[Limit, ...] = ()

    def cost(self, meter: Meter) -> int:
        """Give the units that one request costs on a meter that counts requests."""
        return dict(self.costs).get(meter.name, 1)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What the operator says of a key: whose it is, and on what terms. `None` means the policy's default."""

    subject: str
    plan: str | None = None
    account: str | None = None
    anchor: date | None = None
    timezone: str | None = None


Resolver: TypeAlias = "Callable[[str], object]"
"""The operator's own look-up: a raw key to a KeyEntry, a mapping of its fields, None, or an awaitable."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """How requests without a key are metered: each client address is a subject on `plan`."""

    plan: str


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """Where keys are looked for, and what becomes of requests that have none, or an unknown one."""

    places: tuple[KeyPlace, ...]
    secret: bytes = field(repr=False)
    unknown: Unknown
    anonymous: Anonymous | None
    trusted_proxies: TrustedProxies


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """Which limit fields an answer carries."""

    ietf: bool = True
    legacy: Legacy = Legacy.OFF


@dataclass(frozen=True, slots=True)
class FileSinkRule:
    """Usage events appended to a file, one JSON object a line."""

    path: Path


@dataclass(frozen=True, slots=True)
class StdoutSinkRule:
    """Usage events on standard output, one JSON object a line."""


@dataclass(frozen=True, slots=True)
class HttpSinkRule:
    """Usage events posted as CloudEvents batches, signed where there is a secret."""

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)


SinkRule: TypeAlias = FileSinkRule | StdoutSinkRule | HttpSinkRule


@dataclass(frozen=True, slots=True)
class EventRules:
    """Where usage events wait and where they go."""

    journal: Path
    sinks: tuple[SinkRule, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, and on what terms. `tag` is what the store knows the subject by."""

    subject: SubjectId
    tag: str
    plan: Plan
    key: str | None
    account: str | None
    anchor: date | None
    timezone: str


@dataclass(frozen=True, slots=True)
class Line:
    """One limit as it bears on a request of one route and plan, priced beforehand."""

    limit: Limit
    need: int
    take: int


@dataclass(frozen=True)
class Policy:
    """Everything that one `meter.yaml` decides."""

    service: str
    digest: str
    mode: Mode
    store: str = field(repr=False)
    deadline_us: int
    timezone: str
    identity: IdentityRules
    keys: Mapping[str, KeyEntry] = field(repr=False)
    resolver: Resolver | None
    meters: tuple[Meter, ...]
    routes: tuple[Route, ...]
    plans: Mapping[str, Plan]
    headers: HeaderRules
    events: EventRules
    source: str = field(init=False)
    _matcher: Matcher[Route] = field(init=False, repr=False, compare=False)
    _callers: dict[str, Caller] = field(init=False, repr=False, compare=False)
    _strangers: Callable[[str, str | None, str | None], Caller] = field(init=False, repr=False, compare=False)
    _lines: dict[tuple[str, str], tuple[Line, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile what each request would otherwise work out again."""
        entries = [(each.template, each.methods, each) for each in self.routes if each.template]
        object.__setattr__(self, "source", f"urn:meter-mw:{self.service}")
        object.__setattr__(self, "_matcher", Matcher(entries))
        object.__setattr__(self, "_lines", {})
        object.__setattr__(self, "_callers", {})
        object.__setattr__(self, "_strangers", lru_cache(STRANGERS)(self._stranger))
        for key, entry in self.keys.items():
            self._callers[key] = self.caller(entry, key)

    def route(self, method: str, path: str) -> Route:
        """Give the first route that matches, or the one that stands for all that none does.

        Takes the path in any spelling; raises OddPath for one that could mean two routes.
        """
        return self._matcher.resolve(method, path) or NO_ROUTE

    def listed(self, key: str) -> Caller | None:
        """Give the caller that the policy lists under a key's pseudonym."""
        return self._callers.get(key)

    def caller(self, entry: KeyEntry, key: str | None) -> Caller:
        """Give the caller that an entry describes, on plan `default` where it names none."""
        plan = self.plans[entry.plan or "default"]
        return Caller(
            subject=SubjectId(entry.subject),
            tag=digest_of(self.service, entry.subject, size=16),
            plan=plan,
            key=key,
            account=entry.account,
            anchor=entry.anchor,
            timezone=entry.timezone or plan.timezone or self.timezone,
        )

    def stranger(self, subject: str, plan: str | None = None, key: str | None = None) -> Caller:
        """Give the caller whom no entry describes: by a pseudonym, on the terms of a plan."""
        return self._strangers(subject, plan, key)

    def _stranger(self, subject: str, plan: str | None, key: str | None) -> Caller:
        return self.caller(KeyEntry(subject, plan), key)

    def lines(self, route: Route, plan: Plan) -> tuple[Line, ...]:
        """Give every limit that bears on a request of this route and plan; a free route is under none."""
        lines = self._lines.get((route.name, plan.name))
        if lines is None:
            priced = (_line(limit, route) for limit in (*plan.limits, *route.limits))
            lines = tuple(line for line in priced if line.need)
            self._lines[route.name, plan.name] = lines
        return lines


NO_ROUTE = Route(UNMATCHED)
"""What stands for every path that no route matches."""


def _line(limit: Limit, route: Route) -> Line:
    if limit.meter.count is Count.REQUESTS:
        cost = route.cost(limit.meter)
        return Line(limit, need=cost, take=cost)
    return Line(limit, need=1, take=0)
