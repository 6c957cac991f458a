"""What a policy decides, in words; without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from meter_mw.cli.limit_words import limit_in_words, quota_in_words
from meter_mw.cli.price_words import price_in_words
from meter_mw.policy.policy import Mode, Policy, Route, Unknown
from meter_mw.policy.sections.overrides import limits_met
from meter_mw.policy.sections.settings import DAYS
from meter_mw.policy.terms import ANY_STATUS, ChargeRules, Exemption, KeyEntry, Plan
from meter_mw.quota import OnDeny

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.policy.delivery import SinkRule

    Lines: TypeAlias = Iterator[str]

_MOST_SHOWN = 50
"""Routes, plans and subjects that the summary lists; of the rest it gives the number."""

_OTHERS = {
    Unknown.ACCEPT: "accepted on plan default",
    Unknown.POOL: "one subject on plan default",
    Unknown.REJECT: "rejected",
}
_EXEMPT = {
    Exemption.FREE: "not metered",
    Exemption.COUNTED: "counted, under no limit",
}
_ON_DENY = {
    OnDeny.NONE: "no rate",
    OnDeny.SELF: "the rates that refused it",
    OnDeny.ALL: "every rate",
}


def summary(policy: Policy) -> Lines:
    """Give what a policy decides, line by line."""
    is_shadow = policy.mode is Mode.SHADOW
    yield f"service   {policy.service}"
    yield f"mode      {'shadow (decides and records, refuses nobody)' if is_shadow else 'enforce'}"
    yield f"store     {store_in_words(policy.store)}, deadline {policy.deadline_us // 1000} ms"
    yield f"timezone  {policy.timezone}, weeks begin on {DAYS[policy.week_start]}"
    yield f"keys      {_keys(policy)}"
    yield from _terms(policy)
    yield f"meters    {', '.join(f'{meter.name} ({meter.count.value})' for meter in policy.meters)}"
    yield from _fields(policy)
    yield f"charge    {_charge(policy.charge)}"
    yield "routes"
    for route in policy.routes[:_MOST_SHOWN]:
        yield from _route(route, is_shadow=is_shadow)
    yield from _rest(len(policy.routes), "routes")
    yield "  anything else: metered as <unmatched>"
    yield "plans"
    for plan in (*policy.plans.values(),)[:_MOST_SHOWN]:
        yield from _plan(plan, is_shadow=is_shadow)
    yield from _rest(len(policy.plans), "plans")
    every_s = policy.checkpoint_us / 1_000_000
    yield f"journal   {policy.events.journal}, long exchanges in parts of {every_s:g} s"
    yield f"sinks     {', '.join(map(_sink, policy.events.sinks))}"


def store_in_words(url: str) -> str:
    """Give a store's URL without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _keys(policy: Policy) -> str:
    sources = [f"{len(policy.keys)} listed"] if policy.keys or not policy.registry else []
    if policy.resolver is not None:
        sources = ["asked of the resolver"]
    if policy.registry:
        sources.append("registered in the store")
    others = _OTHERS[policy.identity.unknown]
    anonymous = policy.identity.anonymous
    without = f"on plan {anonymous.plan}, by address" if anonymous else "rejected"
    return f"{' and '.join(sources)}; others are {others}; requests without one are {without}"


def _terms(policy: Policy) -> Lines:
    """Say which subjects are exempt, or have amounts of their own."""
    special = {
        each.subject: each for each in policy.keys.values() if each.overrides or each.exemption in _EXEMPT
    }
    for entry in (*special.values(),)[:_MOST_SHOWN]:
        yield from _subject(entry, policy)
    yield from _rest(len(special), "subjects")


def _subject(entry: KeyEntry, policy: Policy) -> Lines:
    note = f", {_EXEMPT[entry.exemption]}" if entry.exemption in _EXEMPT else ""
    yield f"  {entry.subject}{note}"
    met = limits_met(policy.plans[entry.plan or "default"], policy.routes)
    for override in entry.overrides:
        until = f", until {override.until}" if override.until else ""
        words = quota_in_words(override.quota, met[override.limit][0].meter)
        yield f"    {override.limit}: {words}{until}"


def _fields(policy: Policy) -> Lines:
    for meter in policy.meters:
        if meter.from_header is not None:
            stripped = ", which clients do not see" if meter.strip else ""
            yield f"  {meter.name}: from {meter.from_header} of a response{stripped}"


def _charge(rules: ChargeRules) -> str:
    return f"{_statuses_charged(rules)}; a refused request counts against {_ON_DENY[rules.on_deny]}"


def _statuses_charged(rules: ChargeRules) -> str:
    when = "always" if rules.when == ANY_STATUS else f"on {_statuses(rules.when)}"
    return when + (f", not on {_statuses(rules.refund_on)}" if rules.refund_on else "")


def _statuses(statuses: frozenset[int]) -> str:
    words: list[str] = []
    for first in range(1, 6):
        of_class = frozenset(range(first * 100, first * 100 + 100))
        some = sorted(of_class & statuses)
        words += [f"{first}xx"] if len(some) == len(of_class) else map(str, some)
    return ", ".join(words)


def _route(route: Route, *, is_shadow: bool) -> Lines:
    methods = ",".join(sorted(route.methods)) if route.methods else "any method"
    notes = [_EXEMPT[route.exemption]] if route.exemption in _EXEMPT else []
    costs = [f"{units} {name}" for name, units in route.costs if units != 1]
    notes += [f"costs {', '.join(costs)}"] if costs else []
    notes += ["priced by the app"] if route.pricing is not None else []
    notes += [f"charged {_charge(route.charge)}"] if route.charge is not None else []
    yield f"  {methods} {route.template}" + "".join(f", {note}" for note in notes)
    for limit in route.limits:
        yield f"    {limit.name}: {limit_in_words(limit, is_shadow=is_shadow)}"


def _plan(plan: Plan, *, is_shadow: bool) -> Lines:
    yield f"  {plan.name}" + (f", days of {plan.timezone}" if plan.timezone else "")
    for limit in plan.limits:
        yield f"    {limit.name}: {limit_in_words(limit, is_shadow=is_shadow)}"
    if not plan.limits:
        yield "    no limits"
    for prices in plan.prices:
        yield from (f"    {line}" for line in price_in_words(prices))


def _rest(many: int, what: str) -> Lines:
    if many > _MOST_SHOWN:
        yield f"  and {many - _MOST_SHOWN} more {what}"


def _sink(rule: SinkRule) -> str:
    signed = rule.kind.word in ("http", "webhook")
    notes = ["signed" if rule.settings.has("secret") else "not signed"] if signed else []
    notes += [] if rule.kind.for_billing else ["not for billing"]
    return ", ".join((rule.kind.shown(rule.settings), *notes))
