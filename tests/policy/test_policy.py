"""The decided policy: names that never collide, callers with their terms, and lines priced beforehand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meter_mw.model import IN_FLIGHT, UNMATCHED, Count, Meter
from meter_mw.periods import Period
from meter_mw.policy import policy as policy_module
from meter_mw.policy.paths import OddPath
from meter_mw.policy.policy import NO_ROUTE, Caller, Route
from meter_mw.policy.terms import Exemption, Failure, KeyEntry, Limit, Override, Plan, Scope, digest_of
from meter_mw.quota import Cap, Rate, Slots
from support.policies import (
    DAY_US,
    EGRESS,
    INGRESS,
    METERS,
    REQUESTS,
    SECRET,
    TOKENS,
    cap,
    key_of,
    policy,
    rate,
    route,
    sink,
)

PARTS = st.lists(st.text(st.sampled_from(":/{}\0|,a\ud800\udc00\U00010000é")), max_size=4).map(tuple)


def slots(units: int) -> Limit:
    """Make a limit of `units` requests in flight."""
    return Limit("concurrent", IN_FLIGHT, Slots(units), Failure.OPEN)


# Names for the store


@given(PARTS, PARTS)
@example(("a", "b/c"), ("a/b", "c"))
@example(("a:b", "c"), ("a", "b:c"))
@example(("a\0b",), ("a", "b"))
@example(("a", ""), ("a",))
@example(("", "a"), ("a", ""))
@example((), ("",))
@example(("\ud800\udc00",), ("\U00010000",))
@example(("\ud800",), ("?",))
@example(("\0\0\0\0\0\0\0\1a",), ("", "a"))
def test_distinct_parts_have_distinct_digests(some: tuple[str, ...], others: tuple[str, ...]) -> None:
    """However parts are cut or joined, only the same list of them has the same digest."""
    assert (digest_of(*some, size=16) == digest_of(*others, size=16)) is (some == others)


def test_a_digest_is_the_same_in_every_process() -> None:
    """Workers meet in the store by it, so it is spelled out here; it fits into a URL."""
    assert digest_of("orders-api", "acme", size=16) == "onTuRtklCQzMPbXLQuGGGw"
    assert len(digest_of(size=6)) == 8


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 10**9))
def test_a_limit_keeps_its_id_when_amounts_change(units: int, burst: int, period_us: int) -> None:
    """Raised, lowered, of another length or failing otherwise: a rate goes on where it was."""
    changed = Limit("api", REQUESTS, Rate(units, period_us, burst), Failure.CLOSED)
    assert changed.id == rate(10, name="api").id
    assert cap(units, name="api").id == cap(7, name="api", on=Failure.OPEN).id


def test_limits_differ_by_what_they_limit() -> None:
    """Name, meter, route, kind and period make a limit; no two of these share a count."""
    homes = (None, "a", "b", "plan", "r", "api")
    limits = [
        Limit(name, meter, quota, Failure.OPEN, home)
        for name, meter, home, quota in itertools.product(
            ("api", "a", "requests"), METERS, homes, (Rate(1, DAY_US, 1), *(Cap(1, each) for each in Period))
        )
    ]
    assert len({limit.id for limit in limits}) == len(limits)


def test_an_id_tells_a_rate_from_a_cap() -> None:
    """Stores tell them apart by the first letter."""
    assert rate(1).id.startswith("r")
    assert cap(1).id.startswith("c")
    assert slots(1).id.startswith("s")


def test_plans_share_limits_of_one_name() -> None:
    """A subject that moves to another plan takes its count along; a route's limit is its own."""
    assert rate(1, name="api").id == rate(500, name="api").id
    assert rate(1, name="api", route="a").id != rate(1, name="api", route="b").id


@pytest.mark.parametrize("name", ["", 'a"b', "a\\b", "é", "a\r\nSet-Cookie: b", "a\0"])
def test_a_name_that_no_field_can_carry(name: str) -> None:
    """Clients read the name in a header field, so one that could break out of it is no limit's name."""
    with pytest.raises(ValueError, match="cannot be sent"):
        rate(1, name=name)


# Callers


def test_the_tag_is_of_service_and_subject() -> None:
    """Two services on one store never meet, however their names and their subjects are cut."""
    tags = {
        policy(service=service).caller(KeyEntry(subject), None).tag
        for service, subject in (("a", "bc"), ("ab", "c"), ("a", "b"), ("a:b", "c"), ("a", "b:c"))
    }
    assert len(tags) == 5
    rules = policy(plans=[Plan("pro")])
    whole = KeyEntry("acme", "pro", "group", date(2026, 1, 1), "Europe/Paris")
    assert rules.caller(whole, "k1_a").tag == rules.caller(KeyEntry("acme"), None).tag


def test_a_caller_has_the_terms_of_its_entry() -> None:
    """What the entry says, or the plan, or the policy, in this order."""
    rules = policy(plans=[Plan("pro", timezone="Asia/Kolkata"), Plan("basic")], timezone="America/New_York")

    def zone(plan: str | None, timezone: str | None) -> str:
        return rules.caller(KeyEntry("acme", plan, timezone=timezone), None).timezone

    assert zone("pro", "Europe/Paris") == "Europe/Paris"
    assert zone("pro", None) == "Asia/Kolkata"
    assert zone("basic", None) == zone(None, None) == "America/New_York"
    assert rules.caller(KeyEntry("acme"), None).plan is rules.plans["default"]


def test_listed_keys_are_found_by_their_pseudonym() -> None:
    """The raw key finds nothing, and a key that is not listed is nobody's."""
    rules = policy(keys={"k": KeyEntry("acme")})
    caller = rules.listed(key_of("k"))
    assert caller is not None
    assert (caller.subject, caller.key) == ("acme", key_of("k"))
    assert rules.listed("k") is None
    assert rules.listed(key_of("other")) is None


def test_a_stranger_is_the_caller_that_its_name_would_describe() -> None:
    """Whom no entry describes is kept ready, on the same terms as if it were worked out each time."""
    rules = policy(plans=[Plan("basic")])
    for plan, key in itertools.product((None, "basic"), (None, "k1_a")):
        caller = rules.stranger("k1_a", plan, key)
        assert caller == rules.caller(KeyEntry("k1_a", plan), key)
        assert rules.stranger("k1_a", plan, key) is caller


def test_strangers_take_a_bounded_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys somebody makes up, the ones before them are let go."""
    monkeypatch.setattr(policy_module, "STRANGERS", 8)
    rules = policy()
    first = rules.stranger("k1_0")
    others = [rules.stranger(f"k1_{number}") for number in range(1, 9)]
    assert rules.stranger("k1_8") is others[-1]
    again = rules.stranger("k1_0")
    assert again == first
    assert again is not first


# Routes


ROUTES = (
    route("/health"),
    route("/v1/items/{id}", methods=["GET"], name="items.read"),
    route("/v1/items/{id}", methods=["DELETE"], name="items.delete"),
    route("/v1/files/{name:path}", name="files"),
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/items/7", "items.read"),
        ("HEAD", "/v1/items/7", "items.read"),
        ("DELETE", "/v1/items/7", "items.delete"),
        ("POST", "/v1/items/7", UNMATCHED),
        ("GET", "/v1/items/7/", "items.read"),
        ("GET", "//v1//items/7", "items.read"),
        ("GET", "/a/../b", UNMATCHED),
        ("GET", "v1/items/7", "items.read"),
        ("GET", "http://host/v1/items/7", "items.read"),
        ("PUT", "/v1/files/a/b/c", "files"),
        ("GET", "/V1/items/7", UNMATCHED),
        ("GET", "", UNMATCHED),
        ("GET", "/health", "/health"),
        ("GET", "/health/", "/health"),
    ],
)
def test_a_route_in_any_spelling(method: str, path: str, expected: str) -> None:
    """Each spelling that a router could lead to the handler is on the handler's route."""
    assert policy(routes=ROUTES).route(method, path).name == expected


@pytest.mark.parametrize(
    "path", ["/v1/items/7\n", "/v1\\items/7", "/v1/items/\0", "/v1/items/\udc80", "\x7f"]
)
def test_a_path_that_has_no_meaning(path: str) -> None:
    """Controls, backslashes and halves of characters are on no route at all."""
    with pytest.raises(OddPath):
        policy(routes=ROUTES).route("GET", path)


def test_without_routes_nothing_matches() -> None:
    """Every request is on the route that stands for none."""
    assert policy().route("GET", "/") is NO_ROUTE
    assert (NO_ROUTE.name, NO_ROUTE.exemption, NO_ROUTE.limits) == (UNMATCHED, Exemption.NONE, ())


# Lines


def test_lines_are_priced_beforehand() -> None:
    """Requests cost what the route says, 1 if it says nothing; of the rest only what is reserved is held."""
    images = Meter("images", Count.REQUESTS)
    frames = Meter("frames", Count.RESPONSE_MESSAGES)
    limits = {
        cap(9): (5, 5, False),
        rate(9, meter=images, name="images"): (1, 1, False),
        rate(9, meter=INGRESS, name="in"): (1, 0, True),
        replace(rate(9, meter=EGRESS, name="out"), reserve=8): (1, 8, True),
        replace(rate(9, meter=frames, name="frames"), reserve=1): (1, 1, True),
        rate(9, meter=TOKENS, name="tokens"): (1, 0, True),
        replace(rate(9, meter=TOKENS, name="estimated"), reserve=3): (3, 3, True),
        slots(2): (1, 1, True),
    }
    own = rate(1, name="own", route="/x")
    dear = route("/x", own, costs={"requests": 5})
    rules = policy(*limits, routes=[dear])
    expected = [(limit, *price) for limit, price in {**limits, own: (5, 5, False)}.items()]
    caller = rules.stranger("a")
    lines = rules.lines(dear, caller, 0)
    assert [(each.limit, each.need, each.take, each.held) for each in lines] == expected
    assert lines is rules.lines(dear, rules.stranger("b"), 10**15)


def test_lines_are_of_their_route_and_plan() -> None:
    """Another route or plan has lines of its own, and a free route is under no limit."""
    free, dear = route("/free", costs={"requests": 0}), route("/dear", costs={"requests": 2})
    pro = Plan("pro", (rate(7, name="pro"),))
    rules = policy(rate(1), plans=[pro], routes=[free, dear])
    prices = {
        (each.name, plan): [
            (line.limit.name, line.need) for line in rules.lines(each, rules.stranger("a", plan), 0)
        ]
        for each in (free, dear, NO_ROUTE)
        for plan in rules.plans
    }
    assert prices == {
        ("/free", "default"): [],
        ("/free", "pro"): [],
        ("/dear", "default"): [("rate", 2)],
        ("/dear", "pro"): [("pro", 2)],
        (UNMATCHED, "default"): [("rate", 1)],
        (UNMATCHED, "pro"): [("pro", 1)],
    }


def test_amounts_of_a_caller_take_the_place_of_the_plan_until_they_are_over() -> None:
    """They are of the same kind and name, and the limit keeps its id, so that its count goes on."""
    rules = policy(cap(10), rate(10), slots(1))
    overrides = (
        Override("cap", Cap(20, Period.MONTH), date(2026, 1, 1)),
        Override("rate", Cap(5, Period.DAY)),
        Override("concurrent", Slots(7)),
    )
    caller = rules.caller(KeyEntry("acme", timezone="Asia/Tokyo", overrides=overrides), None)
    midnight_us = int(datetime(2025, 12, 31, 15, tzinfo=UTC).timestamp()) * 1_000_000

    def lines(now_us: int) -> list[tuple[str, int]]:
        found = rules.lines(NO_ROUTE, caller, now_us)
        assert [line.limit.id for line in found] == [each.id for each in rules.plans["default"].limits]
        return [(line.limit.name, line.limit.quota.units) for line in found]

    assert lines(midnight_us - 1) == [("cap", 20), ("rate", 10), ("concurrent", 7)]
    assert lines(midnight_us) == [("cap", 10), ("rate", 10), ("concurrent", 7)]


def test_shared_pools_have_holders_of_their_own() -> None:
    """Those of a key, an account, a route and everyone; a subject's own state has none."""
    rules = policy(*(replace(cap(9, name=each.value), scope=each) for each in Scope), routes=[route("/x")])
    acme = rules.caller(KeyEntry("acme", account="group"), "k1_a")
    other = rules.caller(KeyEntry("other", account="group"), "k1_b")
    alone = rules.caller(KeyEntry("alone"), None)

    def holders(caller: Caller, path: str = "/x") -> dict[Scope, str]:
        lines = rules.lines(rules.route("GET", path), caller, 0)
        return {each.limit.scope: each.holder or caller.holder(each.limit.scope) for each in lines}

    first, second, third = holders(acme), holders(other), holders(alone)
    assert first[Scope.SUBJECT] == second[Scope.SUBJECT] == ""
    assert first[Scope.KEY].startswith(f"{acme.tag}:")
    assert first[Scope.KEY] != second[Scope.KEY]
    assert first[Scope.ACCOUNT] == second[Scope.ACCOUNT] != third[Scope.ACCOUNT]
    assert (third[Scope.KEY], third[Scope.ACCOUNT]) == ("", "")
    assert first[Scope.ROUTE] == third[Scope.ROUTE] != holders(acme, "/y")[Scope.ROUTE]
    assert first[Scope.EVERYONE] == third[Scope.EVERYONE] == holders(acme, "/y")[Scope.EVERYONE]
    assert len({*first.values(), *second.values()}) == 6


def test_limits_that_are_shared_or_in_shadow_have_counts_of_their_own() -> None:
    """Moving a limit into shadow, or to another scope, begins another count."""
    limits = [
        replace(cap(9), scope=scope, shadow=shadow)
        for scope, shadow in itertools.product(Scope, (False, True))
    ]
    assert len({each.id for each in limits}) == len(limits)


def test_a_cost_is_of_its_meter() -> None:
    """A route that names one meter leaves the others at 1."""
    dear = Route("dear", costs=(("requests", 5), ("images", 0)))
    assert dear.cost(REQUESTS) == 5
    assert dear.cost(Meter("images", Count.REQUESTS)) == 0
    assert dear.cost(Meter("other", Count.REQUESTS)) == 1


# Secrets


def test_a_policy_shows_no_secret() -> None:
    """Neither the HMAC secret, nor keys, nor addresses with passwords are in its repr."""
    rules = policy(
        keys={"canary-key": KeyEntry("acme")},
        store="redis://:canary-password@host/0",
        sinks=[sink("http", "https://user:canary-url@host/", secret="canary-secret")],
    )
    assert "canary" not in repr(rules)
    assert SECRET.decode() not in repr(rules)


def test_the_source_is_of_the_service() -> None:
    """Events name the service as a URN, also after a part was replaced."""
    assert policy(service="a").source == "urn:meter-mw:a"
    assert replace(policy(service="a"), service="b").source == "urn:meter-mw:b"
