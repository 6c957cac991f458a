"""The decided policy: frozen values that the request path asks, compiled beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias
from zoneinfo import ZoneInfo

from meter_mw.model import UNMATCHED, Count, Meter, SubjectId
from meter_mw.policy.matching import Matcher
from meter_mw.policy.signals import SignalRules
from meter_mw.policy.terms import (
    ChargeRules,
    Exemption,
    KeyEntry,
    Limit,
    Line,
    Override,
    Plan,
    Scope,
    Speed,
    digest_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date

    from meter_mw.model import Request
    from meter_mw.policy.addresses import TrustedProxies
    from meter_mw.policy.delivery import EventRules
    from meter_mw.policy.identity import KeyPlace
    from meter_mw.policy.keyring import Keyring
    from meter_mw.policy.templates import Template


_MOST_LINES = 65_536
"""Compiled lists of limits are kept for as many combinations of route, plan and override."""

STRANGERS = 4096
"""Callers that no entry describes are kept ready for their next request, as many as this."""

_PATHS = 8_192
"""Paths whose route is kept ready, as many as this."""

_LONGEST_PATH = 256
"""Characters of a path that is worth keeping."""


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
    """It is a subject of its own."""
    POOL = "pool"
    """All unknown keys are one subject, so that making up keys makes up no limits and no state."""
    REJECT = "reject"


Cost: TypeAlias = "Callable[[Request], object]"
"""The operator's own pricing of a request: units, or a mapping of meters to units."""


@dataclass(frozen=True, slots=True)
class Route:
    """A policy entry: methods and a path template, with what a request there costs.

    `costs` gives units for meters that count requests; one that it does not name costs 1. `pricing` may
    give others for each request, and estimates for reported meters. Without rules of its own for what is
    charged, those of the policy hold.
    """

    name: str
    template: Template | None = None
    methods: frozenset[str] | None = None
    exemption: Exemption = Exemption.NONE
    costs: tuple[tuple[str, int], ...] = ()
    limits: tuple[Limit, ...] = ()
    pricing: Cost | None = field(default=None, compare=False)
    charge: ChargeRules | None = None

    def cost(self, meter: Meter) -> int:
        """Give the units that one request costs on a meter that counts requests."""
        return dict(self.costs).get(meter.name, 1)


Resolver: TypeAlias = "Callable[[str], object]"
"""The operator's own look-up: a raw key to a KeyEntry, a mapping of its fields, None, or an awaitable."""


class Recovery(Enum):
    """What hard caps do while counts that the store has lost are brought back."""

    LEARN = "learn"
    """They answer as for a store that is away."""

    SERVE = "serve"
    """They go on with the counts there are."""


class StoreCheck(Enum):
    """What becomes of a store whose settings lose counts."""

    WARN = "warn"
    REFUSE = "refuse"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Anonymous:
    """How requests without a key are metered: each client address is a subject on `plan`."""

    plan: str


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """Where keys are looked for, and what becomes of requests that have none, or an unknown one."""

    places: tuple[KeyPlace, ...]
    keyring: Keyring
    unknown: Unknown
    anonymous: Anonymous | None
    trusted_proxies: TrustedProxies


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """Which limit fields an answer carries."""

    ietf: bool = True
    legacy: Legacy = Legacy.OFF


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, and on what terms.

    `tag` is what the store knows the subject by, `key_holder` and `account_holder` where limits of those
    scopes are kept. `overrides` are amounts of the caller's own by the µs until which they hold.
    """

    subject: SubjectId
    tag: str
    plan: Plan
    key: str | None
    account: str | None
    anchor: date | None
    timezone: str
    key_holder: str = ""
    account_holder: str = ""
    exemption: Exemption = Exemption.NONE
    overrides: tuple[tuple[Override, int | None], ...] = ()

    def holder(self, scope: Scope) -> str:
        """Give whose state a limit of this scope is, "" for the subject's."""
        if scope is Scope.KEY:
            return self.key_holder
        return self.account_holder if scope is Scope.ACCOUNT else ""


@dataclass(frozen=True)
class Policy:
    """Everything that one `meter.yaml` decides.

    `keys` are by their pseudonyms under the oldest secret; `aliases` give that for those under later ones.
    """

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
    charge: ChargeRules = field(default_factory=ChargeRules)
    week_start: int = 0
    checkpoint_us: int = 60 * 1_000_000
    registry: bool = False
    recovery: Recovery = Recovery.LEARN
    store_check: StoreCheck = StoreCheck.WARN
    speed: Speed = Speed.AUTO
    aliases: Mapping[str, str] = field(default_factory=dict, repr=False)
    signals: SignalRules = field(default_factory=SignalRules)
    source: str = field(init=False)
    told_by_header: tuple[Meter, ...] = field(init=False)
    _matcher: Matcher[Route] = field(init=False, repr=False, compare=False)
    _callers: dict[str, Caller] = field(init=False, repr=False, compare=False)
    _described: Callable[[KeyEntry, str | None], Caller] = field(init=False, repr=False, compare=False)
    _strangers: Callable[[str, str | None, str | None], Caller] = field(init=False, repr=False, compare=False)
    _routed: Callable[[str, str], Route | None] = field(init=False, repr=False, compare=False)
    _lines: dict[tuple[object, ...], tuple[Line, ...]] = field(init=False, repr=False, compare=False)
    _overridden: dict[tuple[object, ...], tuple[Limit, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile what each request would otherwise work out again."""
        entries = [(each.template, each.methods, each) for each in self.routes if each.template]
        object.__setattr__(self, "source", f"urn:meter-mw:{self.service}")
        object.__setattr__(self, "told_by_header", tuple(each for each in self.meters if each.from_header))
        object.__setattr__(self, "_matcher", Matcher(entries))
        object.__setattr__(self, "_routed", lru_cache(_PATHS)(self._matcher.resolve))
        object.__setattr__(self, "_lines", {})
        object.__setattr__(self, "_overridden", {})
        object.__setattr__(self, "_callers", {})
        object.__setattr__(self, "_described", lru_cache(STRANGERS)(self._caller))
        object.__setattr__(self, "_strangers", lru_cache(STRANGERS)(self._stranger))
        for key, entry in self.keys.items():
            self._callers[key] = self.caller(entry, key)
        for alias, key in self.aliases.items():
            # Limits of a key are kept under its first pseudonym, whichever its events have.
            self._callers[alias] = replace(self._callers[key], key=alias)

    @property
    def quantities(self) -> tuple[str, ...]:
        """The fields of an event's data that hold quantities."""
        requests = [each.name for each in self.meters if each.count is Count.REQUESTS]
        counts = {each.count for each in self.meters}
        messages = [
            field
            for count, field in (
                (Count.REQUEST_MESSAGES, "request_messages"),
                (Count.RESPONSE_MESSAGES, "response_messages"),
            )
            if count in counts
        ]
        reported = [each.name for each in self.meters if each.count is Count.REPORTED]
        return (*requests, "request_bytes", "response_bytes", *messages, *reported)

    def route(self, method: str, path: str) -> Route:
        """Give the first route that matches, or the one that stands for all that none does.

        Takes the path in any spelling; raises OddPath for one that could mean two routes.
        """
        resolve = self._routed if len(path) <= _LONGEST_PATH else self._matcher.resolve
        return resolve(method, path) or NO_ROUTE

    def listed(self, key: str) -> Caller | None:
        """Give the caller that the policy lists under a key's pseudonym."""
        return self._callers.get(key)

    def caller(self, entry: KeyEntry, key: str | None) -> Caller:
        """Give the caller that an entry describes, on plan `default` where it names none."""
        return self._described(entry, key)

    def _caller(self, entry: KeyEntry, key: str | None) -> Caller:
        plan = self.plans[entry.plan or "default"]
        tag = digest_of(self.service, entry.subject, size=16)
        zone = entry.timezone or plan.timezone or self.timezone
        return Caller(
            subject=SubjectId(entry.subject),
            tag=tag,
            plan=plan,
            key=key,
            account=entry.account,
            anchor=entry.anchor,
            timezone=zone,
            key_holder="" if key is None else f"{tag}:k{digest_of(key, size=9)}",
            account_holder="" if entry.account is None else self.holder(Scope.ACCOUNT, entry.account),
            exemption=entry.exemption,
            overrides=tuple((each, _until_us(each, zone)) for each in entry.overrides),
        )

    def holder(self, scope: Scope, name: str = "") -> str:
        """Give what the store knows a shared pool by."""
        return digest_of(self.service, scope.value, name, size=16)

    def stranger(self, subject: str, plan: str | None = None, key: str | None = None) -> Caller:
        """Give the caller whom no entry describes: by a pseudonym, on the terms of a plan."""
        return self._strangers(subject, plan, key)

    def _stranger(self, subject: str, plan: str | None, key: str | None) -> Caller:
        return self._caller(KeyEntry(subject, plan), key)

    def lines(self, route: Route, caller: Caller, now_us: int) -> tuple[Line, ...]:
        """Give every limit that bears on a request of this route and caller; a free route is under none."""
        plan = caller.plan
        active = tuple(each for each, until_us in caller.overrides if until_us is None or now_us < until_us)
        if route.pricing is not None:  # each request has a price of its own
            return self._priced(route, self._limits(route, plan, active))
        compiled = (route.name, route.costs, plan.name, *active)
        lines = self._lines.get(compiled)
        if lines is None:
            lines = self._priced(route, self._limits(route, plan, active))
            if len(self._lines) < _MOST_LINES:
                self._lines[compiled] = lines
        return lines

    def _limits(self, route: Route, plan: Plan, active: tuple[Override, ...]) -> tuple[Limit, ...]:
        limits = (*plan.limits, *route.limits)
        if not active:
            return limits
        overridden = (route.name, plan.name, *active)
        found = self._overridden.get(overridden)
        if found is None:
            found = _overridden(limits, active)
            if len(self._overridden) < _MOST_LINES:
                self._overridden[overridden] = found
        return found

    def _priced(self, route: Route, limits: tuple[Limit, ...]) -> tuple[Line, ...]:
        return tuple(line for line in (self._line(limit, route) for limit in limits) if line.need)

    def _line(self, limit: Limit, route: Route) -> Line:
        holder = ""
        if limit.scope is Scope.ROUTE:
            holder = self.holder(Scope.ROUTE, route.name)
        elif limit.scope is Scope.EVERYONE:
            holder = self.holder(Scope.EVERYONE)
        match limit.meter.count:
            case Count.REQUESTS:
                cost = route.cost(limit.meter)
                return Line(limit, cost, cost, holder=holder)
            case Count.CONCURRENT:
                return Line(limit, 1, 1, held=True, holder=holder)
            case Count.REPORTED:
                estimate = dict(route.costs).get(limit.meter.name, limit.reserve)
                return Line(limit, max(1, estimate), estimate, held=True, holder=holder)
            case _:
                return Line(limit, 1, limit.reserve, held=True, holder=holder)

    @property
    def lease_us(self) -> int:
        """How long what is held lasts without a sign of life (µs): two checkpoints."""
        return 2 * self.checkpoint_us

    def rules_of(self, route: Route) -> ChargeRules:
        """Give what is charged for on a route."""
        return route.charge or self.charge


NO_ROUTE = Route(UNMATCHED)
"""What stands for every path that no route matches."""


def _overridden(limits: tuple[Limit, ...], overrides: tuple[Override, ...]) -> tuple[Limit, ...]:
    amounts = {each.limit: each.quota for each in overrides}
    return tuple(
        replace(limit, quota=amounts[limit.name])
        if type(amounts.get(limit.name)) is type(limit.quota)
        else limit
        for limit in limits
    )


def _until_us(override: Override, zone: str) -> int | None:
    if override.until is None:
        return None
    midnight = datetime(override.until.year, override.until.month, override.until.day, tzinfo=ZoneInfo(zone))
    return int(midnight.timestamp()) * 1_000_000
