"""Policies and requests built by hand, for tests that are not about the policy file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meter_mw.admission import Admission
from meter_mw.core import admit
from meter_mw.model import IN_FLIGHT, Count, Meter, Request, RequestId
from meter_mw.periods import Period
from meter_mw.policy.addresses import TrustedProxies
from meter_mw.policy.delivery import EventRules, SinkRule
from meter_mw.policy.identity import BearerKey, Credential, HeaderKey, pseudonym
from meter_mw.policy.keyring import Keyring
from meter_mw.policy.policy import (
    Anonymous,
    HeaderRules,
    IdentityRules,
    Mode,
    Policy,
    Route,
    Unknown,
)
from meter_mw.policy.templates import Template
from meter_mw.policy.terms import ChargeRules, Exemption, Failure, KeyEntry, Limit, Plan
from meter_mw.pricing import price
from meter_mw.quota import Cap, Rate, Slots
from meter_mw.sinks.kinds import find
from meter_mw.stores.port import Admit
from meter_mw.talk import Price

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.policy.identity import KeyPlace
    from meter_mw.policy.policy import Cost, Resolver
    from meter_mw.stores.memory import MemoryStore
    from meter_mw.talk import Reply

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US

SECRET = b"a secret of thirty-two bytes ...."

REQUESTS = Meter("requests", Count.REQUESTS)
INGRESS = Meter("ingress", Count.REQUEST_BYTES)
EGRESS = Meter("egress", Count.RESPONSE_BYTES)
TOKENS = Meter("tokens", Count.REPORTED)
METERS = (REQUESTS, INGRESS, EGRESS, TOKENS)


def rate(
    units: int,
    *,
    burst: int | None = None,
    period_us: int = SECOND_US,
    name: str = "rate",
    meter: Meter = REQUESTS,
    on: Failure = Failure.OPEN,
    route: str | None = None,
) -> Limit:
    """Make a limit of `units` a period, `burst` of which may come at once (all, if not said)."""
    return Limit(name, meter, Rate(units, period_us, burst or units), on, route)


def cap(
    units: int,
    period: Period = Period.MONTH,
    *,
    name: str = "cap",
    meter: Meter = REQUESTS,
    on: Failure = Failure.CLOSED,
    route: str | None = None,
) -> Limit:
    """Make a limit of `units` a calendar period."""
    return Limit(name, meter, Cap(units, period), on, route)


def slots(units: int, *, name: str = "slots", on: Failure = Failure.OPEN, route: str | None = None) -> Limit:
    """Make a limit of `units` requests at the same time."""
    return Limit(name, IN_FLIGHT, Slots(units), on, route)


def route(
    path: str,
    *limits: Limit,
    methods: Sequence[str] | None = None,
    name: str | None = None,
    exemption: Exemption = Exemption.NONE,
    costs: Mapping[str, int] | None = None,
    pricing: Cost | None = None,
    charge: ChargeRules | None = None,
) -> Route:
    """Make a route, named after its path if not otherwise."""
    return Route(
        name or path,
        Template.parse(path),
        None if methods is None else frozenset(methods),
        exemption,
        tuple((costs or {}).items()),
        limits,
        pricing,
        charge,
    )


def sink(word: str, main: object = True, **options: object) -> SinkRule:
    """Give the rule of a sink, as a policy reads it."""
    kind = find(word)
    assert kind is not None
    return SinkRule(kind, kind.set({word: main, **options}))


def key_of(key: str) -> str:
    """Give the pseudonym of a raw key under the secret of these policies."""
    return pseudonym(SECRET, Credential(key))


def policy(
    *limits: Limit,
    plans: Sequence[Plan] = (),
    routes: Sequence[Route] = (),
    keys: Mapping[str, KeyEntry] | None = None,
    meters: Sequence[Meter] = METERS,
    places: Sequence[KeyPlace] = (HeaderKey("X-API-Key"), BearerKey()),
    unknown: Unknown = Unknown.ACCEPT,
    anonymous: str | None = "default",
    trusted_proxies: Sequence[str] = (),
    resolver: Resolver | None = None,
    mode: Mode = Mode.ENFORCE,
    store: str = "memory://",
    deadline_us: int = 5_000_000,
    timezone: str = "UTC",
    service: str = "orders-api",
    headers: HeaderRules | None = None,
    journal: str | Path = "var/meter",
    sinks: Sequence[SinkRule] = (),
    charge: ChargeRules | None = None,
    week_start: int = 0,
    keyring: Keyring | None = None,
    checkpoint_us: int = 60 * SECOND_US,
) -> Policy:
    """Make a policy whose plan `default` has `limits`; each part can be said otherwise.

    `keys` maps raw keys to their entries; `anonymous` names the plan of requests without a key, or None
    where they are refused.
    """
    listed = (Plan("default", limits), *plans)
    return Policy(
        service=service,
        digest="digest-of-the-policy",
        mode=mode,
        store=store,
        deadline_us=deadline_us,
        timezone=timezone,
        identity=IdentityRules(
            places=tuple(places),
            keyring=keyring or Keyring.of(SECRET),
            unknown=unknown,
            anonymous=None if anonymous is None else Anonymous(anonymous),
            trusted_proxies=TrustedProxies.parse(trusted_proxies),
        ),
        keys={key_of(key): entry for key, entry in (keys or {}).items()},
        resolver=resolver,
        meters=tuple(meters),
        routes=tuple(routes),
        plans={plan.name: plan for plan in listed},
        headers=headers or HeaderRules(),
        events=EventRules(Path(journal), tuple(sinks)),
        charge=charge or ChargeRules(),
        week_start=week_start,
        checkpoint_us=checkpoint_us,
    )


def request(
    path: str = "/",
    method: str = "GET",
    *,
    key: str | None = None,
    query: str = "",
    peer: str | None = "192.0.2.7",
    is_socket: bool = False,
    **fields: str | Sequence[str],
) -> Request:
    """Make the facts of one request; `key` goes into X-API-Key, underscores in names stand for hyphens."""
    table: dict[str, Sequence[str]] = {
        name.replace("_", "-"): (value,) if isinstance(value, str) else tuple(value)
        for name, value in fields.items()
    }
    if key is not None:
        table["x-api-key"] = (key,)

    def field(name: str) -> Sequence[str]:
        return table.get(name, ())

    return Request(method, path, query, field, peer, frames=is_socket, is_socket=is_socket)


def preflight(path: str = "/", **fields: str) -> Request:
    """Make the CORS preflight of a POST from another origin."""
    return request(
        path, "OPTIONS", origin="https://app.example", access_control_request_method="POST", **fields
    )


def held(rules: Policy, asked: Request, store: MemoryStore) -> Admission:
    """Hold the whole conversation with a store."""
    talk = admit(rules, asked, RequestId(f"rid-{next(_numbers)}"), store.now_us())
    reply: Reply = None
    try:
        while True:
            command = talk.send(reply)
            if isinstance(command, Price):
                reply = price(rules, command)
                continue
            assert isinstance(command, Admit)
            reply = store.admit(command)
    except StopIteration as end:
        admission = end.value
        assert isinstance(admission, Admission)
        return admission


_numbers = iter(range(10**9))
