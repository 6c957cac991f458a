"""The section `identity`: where keys are looked for, and what becomes of requests without a known one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from meter_mw.periods import Period, calendar
from meter_mw.policy.addresses import AddressError, TrustedProxies
from meter_mw.policy.identity import BearerKey, HeaderKey, KeyPlace, QueryKey
from meter_mw.policy.keyring import Keyring, Secret, is_secret_id
from meter_mw.policy.policy import Anonymous, IdentityRules, Unknown
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.plans import read_plan_name
from meter_mw.policy.sections.settings import read_date
from meter_mw.policy.yaml12 import Entries, Items, Scalar
from meter_mw.quota import Cap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import date

    from meter_mw.policy.terms import Limit, Plan

SECRET_VARIABLE = "METER_KEY_SECRET"  # noqa: S105 - the variable's name

_IDENTITY = Names(("api_key", "secret", "secrets", "unknown", "anonymous", "trusted_proxies"))
_SECRET = Names(("id", "secret", "from"), needed=("id", "secret"))
_SECRETS = (
    "a list such as [{id: k2, secret: ${NEW_SECRET}, from: 2027-01-01}, {id: k1, secret: ${OLD_SECRET}}]"
)
_FROM = "the day on which it comes into force, such as 2027-01-01"
_DEFAULT_PLACES: tuple[KeyPlace, ...] = (HeaderKey("X-API-Key"), BearerKey())
_PLACE_EXPECTED = "{header: NAME}, bearer or {query: NAME}"
_PLACE = Names(("header", "query"), expected=_PLACE_EXPECTED)

_SHORTEST_SECRET = 16
_LONGEST_WORD = 64

_HOW = """python -c "import secrets; print(secrets.token_urlsafe(32))\""""


@dataclass(frozen=True, slots=True)
class _Place:
    kind: Callable[[str], KeyPlace]
    expected: str


@dataclass(frozen=True, slots=True)
class Edges:
    """Where periods begin: in which zone, and weeks so many days after Monday."""

    zone: str
    week_start: int


_PLACES = {
    "header": _Place(HeaderKey, "the name of a header field, such as X-API-Key"),
    "query": _Place(QueryKey, "the name of a query parameter, such as api_key"),
}


def read_identity(field: Field, plans: Iterable[str], zone: str) -> IdentityRules | None:
    """Read the rules of identity; without a usable secret there are none. Days begin in `zone`."""
    if not isinstance(field.node, Entries):
        field.as_private().reject("a mapping such as {secret: ${METER_KEY_SECRET}}")
        return None
    fields = field.section(_IDENTITY) or {}
    places = _places(fields["api_key"]) if "api_key" in fields else _DEFAULT_PLACES
    unknown = (
        fields["unknown"].choice({each.value: each for each in Unknown}) if "unknown" in fields else None
    )
    anonymous = _anonymous(fields["anonymous"], plans) if "anonymous" in fields else None
    proxies = _proxies(fields["trusted_proxies"]) if "trusted_proxies" in fields else TrustedProxies()
    if "secret" in fields and "secrets" in fields:
        fields["secret"].complain("found both secret and secrets; write all in secrets, or the one in secret")
        return None
    keyring = _keyring(fields["secrets"], zone) if "secrets" in fields else _one(field, fields.get("secret"))
    if keyring is None:
        return None
    return IdentityRules(places, keyring, unknown or Unknown.ACCEPT, anonymous, proxies)


def _one(identity: Field, field: Field | None) -> Keyring | None:
    """Read the one secret of the policy, or that of the environment where the policy has none."""
    secret = _secret(identity, field)
    return None if secret is None else Keyring.of(secret)


def _keyring(field: Field, zone: str) -> Keyring | None:
    """Read secrets that follow each other; the earliest is in force before all others too."""
    before = len(field.document.problems)
    items = field.as_private().items(_SECRETS)
    if items is not None and not items:
        field.complain(f"found no secret; expected {_SECRETS}")
    read = [_version(item, zone) for item in items or ()]
    if len(field.document.problems) > before:
        return None
    secrets = sorted((each for each in read if each is not None), key=lambda each: each.since_us)
    ids = [each.id for each in secrets]
    if len(set(ids)) < len(ids):
        field.complain(f"found the ids {', '.join(ids)}; each secret has an id of its own")
    elif len({each.since_us for each in secrets}) < len(secrets):
        field.complain("found two secrets from the same day on; only the oldest goes without from")
    elif len({each.value for each in secrets}) < len(secrets):
        field.complain("found one secret twice; pseudonyms of a new id need a new secret")
    else:
        return Keyring((replace(secrets[0], since_us=0), *secrets[1:]))
    return None


def _version(item: Field, zone: str) -> Secret | None:
    fields = item.section(_SECRET) or {}
    if not ("id" in fields and "secret" in fields):
        return None
    name = fields["id"].as_shown().text("an id from k1 to k99")
    if name is not None and not is_secret_id(name):
        fields["id"].as_shown().reject("an id from k1 to k99")
    value = _secret(item, fields["secret"])
    since = read_date(fields["from"].as_shown(), _FROM) if "from" in fields else None
    if name is None or value is None or not is_secret_id(name):
        return None
    return Secret(name, value, 0 if since is None else _midnight_us(since, zone))


def _midnight_us(day: date, zone: str) -> int:
    """Give when a day begins in a zone (µs since 1970)."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone))
    return calendar(Period.DAY, zone, None).windows(int(noon.timestamp()) * 1_000_000)[1]


def complain_of_edges(
    field: Field, identity: IdentityRules, plans: Sequence[Plan], limits: Sequence[Limit], edges: Edges
) -> None:
    """Note each secret that comes into force in the middle of a period of keys that no list names.

    `plans` are those of such keys, and `limits` further ones that bear on them.
    """
    periods = {
        (limit.quota.period, plan.timezone or edges.zone): f"the cap {limit.name}"
        for plan in plans
        for limit in (*plan.limits, *limits)
        if isinstance(limit.quota, Cap)
    }
    periods |= {
        (prices.period, plan.timezone or edges.zone): f"the price of plan {plan.name}"
        for plan in plans
        for prices in plan.prices
    }
    secrets = (field.entries("a mapping") or {}).get("secrets", field)
    for secret in identity.keyring.secrets[1:]:
        for (period, zone), whose in periods.items():
            _, start_us, end_us, _ = calendar(period, zone, None, edges.week_start).windows(secret.since_us)
            if start_us != secret.since_us:
                edge = datetime.fromtimestamp(end_us / 1_000_000, ZoneInfo(zone))
                secrets.complain(
                    f"the secret {secret.id} would come into force in the middle of a {period.word} of"
                    f" {whose}, and keys that are not listed would begin anew there;"
                    f" expected the edge of one, such as {edge.date().isoformat()} in {zone}"
                )
                break


def _secret(identity: Field, field: Field | None) -> bytes | None:
    """Read a secret, or that of the environment where the policy has none."""
    expected = "a secret by reference: ${" + SECRET_VARIABLE + "}"
    if field is not None:
        text = field.secret(expected, f"; make a secret with {_HOW}")
        complain = field.complain
    else:
        text = identity.document.environ.get(SECRET_VARIABLE, "")
        complain = identity.child(Scalar(None, "", identity.node.at), "secret").complain
        if not text:
            complain(f"no secret: set the environment variable {SECRET_VARIABLE}; make one with {_HOW}")
            return None
    if text is None:
        return None
    secret = text.encode()
    if len(secret) < _SHORTEST_SECRET:
        complain(
            f"the secret has {len(secret)} bytes; it needs at least {_SHORTEST_SECRET}; make one with {_HOW}"
        )
        return None
    return secret


def _places(field: Field) -> tuple[KeyPlace, ...]:
    if not isinstance(field.node, Items):  # it may be a key in the wrong place
        field.as_private().reject(f"a list of places: {_PLACE_EXPECTED}")
        return ()
    items = field.items("a list")
    if items is not None and not items:
        field.complain("found no place; leave api_key out for the header X-API-Key and then bearer")
    places: list[KeyPlace] = []
    for item in items or ():
        place = _place(item)
        if place in places:
            item.complain(f"found {place} a second time")
        elif place is not None:
            places.append(place)
    return tuple(places)


def _place(field: Field) -> KeyPlace | None:
    if not isinstance(field.node, Entries):
        return _named_place(field)
    if field.has("bearer"):
        field.complain("found a mapping; bearer is a word alone, with nothing after it", "bearer")
        return None
    fields = field.section(_PLACE) or {}
    if len(fields) == 1:
        (name, entry), *_ = fields.items()
        return _place_at(name, entry)
    if not field.has_others(_PLACE.known):
        field.reject(f"one of {_PLACE_EXPECTED}")
    return None


def _named_place(field: Field) -> KeyPlace | None:
    text = field.text(_PLACE_EXPECTED)
    if text == "bearer":
        return BearerKey()
    if text is not None:
        meant = field.suggestion(text, ("bearer",))
        (field if meant else field.as_private()).reject(_PLACE_EXPECTED, meant=meant)
    return None


def _place_at(name: str, field: Field) -> KeyPlace | None:
    place = _PLACES[name]
    text = field.text(place.expected)
    if text is None:
        return None
    if name == "header" and text.lower() == "authorization":
        field.complain("this field is not the key alone: a scheme such as Bearer stands before it", "bearer")
        return None
    try:
        if text.isprintable() and len(text) <= _LONGEST_WORD:
            return place.kind(text)
    except ValueError:
        pass
    field.reject(place.expected)
    return None


def _anonymous(field: Field, plans: Iterable[str]) -> Anonymous | None:
    if not isinstance(field.node, Entries):
        field.choice({"reject": None, "{plan: NAME, by: ip}": None})
        return None
    fields = field.section(Names(("plan", "by"), needed=("plan",))) or {}
    if "by" in fields:
        fields["by"].choice({"ip": None})
    plan = read_plan_name(fields["plan"], plans) if "plan" in fields else None
    return Anonymous(plan) if plan is not None else None


def _proxies(field: Field) -> TrustedProxies:
    words: list[str] = []
    for item in field.items("a list of networks: [10.0.0.0/8]") or ():
        expected = "a network such as 10.0.0.0/8, an address, or unix"
        text = item.text(expected)
        if text is None:
            continue
        try:
            TrustedProxies.parse([text])
        except AddressError:
            item.reject(expected, meant=_network_of(text))
        else:
            words.append(text)
    return TrustedProxies.parse(words)


def _network_of(text: str) -> str | None:
    try:
        return str(ip_network(text[:_LONGEST_WORD], strict=False))
    except ValueError:
        return None
