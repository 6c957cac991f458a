"""What requests and keys are charged and allowed: charge rules, exemptions, own amounts, the registry."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from loading import ENVIRON, acme, complaints, good, of

from meter_mw.model import Count, Meter
from meter_mw.periods import Period
from meter_mw.policy.policy import Unknown
from meter_mw.policy.terms import ANY_STATUS, ChargeRules, Exemption, Override
from meter_mw.quota import Cap, OnDeny, Rate, Slots


def test_charge_rules_of_a_route_begin_from_those_of_the_policy() -> None:
    policy = good("charge")
    two, three, five = (frozenset(range(each, each + 100)) for each in (200, 300, 500))
    whole = ChargeRules(two | three | {404}, five | {304}, OnDeny.SELF)
    assert policy.charge == whole
    always, never_back, one, same, silent = (policy.rules_of(route) for route in policy.routes)
    assert always == replace(whole, when=ANY_STATUS)
    assert never_back == replace(whole, refund_on=frozenset(), on_deny=OnDeny.NONE)
    assert one == replace(whole, when=frozenset([200]))
    assert same == silent == whole
    assert [status for status in (200, 304, 404, 410, 500) if policy.charge.charges(status)] == [200, 404]


def test_routes_and_keys_may_be_exempt_counted_or_not() -> None:
    policy = good("exempt")
    exemptions = [Exemption.FREE, Exemption.COUNTED, Exemption.NONE]
    assert [route.exemption for route in policy.routes] == exemptions
    assert {each.subject: each.exemption for each in policy.keys.values()} == {
        "acme": Exemption.FREE,
        "other": Exemption.COUNTED,
    }


def test_cost_of_a_route_is_imported_or_passed() -> None:
    import os.path  # noqa: PLC0415

    def cost(request: object) -> int:
        return 5

    assert good("route_cost").routes[0].pricing is os.path.basename
    assert of(routes=[{"path": "/a", "cost": cost}]).routes[0].pricing is cost


def test_weeks_begin_and_exchanges_are_recorded_as_said() -> None:
    policy = good("week_and_checkpoint")
    assert (policy.week_start, policy.checkpoint_us) == (6, 120_000_000)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("1s", 1_000_000), ("1500ms", 1_500_000), ("5m", 300_000_000), ("60 seconds", 60_000_000)],
)
def test_checkpoints_are_durations(said: str, meant: int) -> None:
    assert of(checkpoint=said).checkpoint_us == meant


def test_units_may_be_told_by_a_field() -> None:
    assert good("meters_told").meters[1:] == (
        Meter("tokens", Count.REPORTED, "x-tokens"),
        Meter("pages", Count.REPORTED, "x-pages", strip=True),
        Meter("sent", Count.REQUEST_MESSAGES),
        Meter("received", Count.RESPONSE_MESSAGES),
    )


def test_keys_have_amounts_of_their_own() -> None:
    policy = good("key_limits")
    own, other = policy.keys.values()
    assert own.overrides == (
        Override("concurrent", Slots(20)),
        Override("egress", Cap(2**31, Period.MONTH)),
        Override(
            "requests-month",
            Cap(20_000, Period.MONTH, 2000, bills=True, ceiling=30_000, warn=(16_000,)),
            dt.date(2026, 12, 1),
        ),
        Override("requests-per-second", Rate(50, 1_000_000, 100)),
        Override("search-requests-per-second", Rate(5, 1_000_000, 5)),
    )
    assert other.overrides == (Override("search-requests-per-second", Rate(2, 60_000_000, 2)),)


def test_amounts_of_a_key_hold_until_a_midnight_in_its_zone() -> None:
    policy = good("key_limits")
    caller = policy.listed(acme(policy))
    assert caller is not None
    midnight = int(dt.datetime(2026, 11, 30, 23, tzinfo=dt.UTC).timestamp()) * 1_000_000

    def units(now_us: int) -> int:
        lines = policy.lines(policy.route("GET", "/elsewhere"), caller, now_us)
        return next(line.limit.quota.units for line in lines if line.limit.name == "requests-month")

    assert (units(midnight - 1), units(midnight)) == (20_000, 1000)


def test_order_of_amounts_makes_no_other_terms() -> None:
    limits = {"requests-day": {"cap": 9}, "requests-week": {"cap": 99}}
    policy = of(
        keys=[
            {"key": "one", "subject": "acme", "limits": limits},
            {"key": "two", "subject": "acme", "limits": dict(reversed(limits.items()))},
        ],
        plans={"default": {"limits": [{"cap": "1/day"}, {"cap": "1/week"}]}},
    )
    assert len(set(policy.keys.values())) == 1


def test_keys_of_an_account_agree_only_where_a_cap_is_shared() -> None:
    assert len(good("key_accounts").keys) == 2
    keys = [
        {"key": "one", "subject": "one", "account": "group", "timezone": "Asia/Tokyo"},
        {"key": "two", "subject": "two", "account": "group"},
    ]
    rate = {"default": {"limits": [{"rate": "1/second", "scope": "account"}]}}
    assert of(keys=keys, plans=rate)
    (found,) = complaints(
        {
            "version": 1,
            "service": "shop",
            "keys": keys,
            "routes": [{"path": "/a", "limits": [{"cap": "1/day", "scope": "account"}]}],
        }
    )
    assert 'the account "group" has another timezone at keys[0]' in found


def test_registered_keys_reject_others_unless_it_is_said() -> None:
    alone, beside = good("keys_registered"), good("keys_registered_and_file")
    assert (alone.registry, alone.identity.unknown, len(alone.keys)) == (True, Unknown.REJECT, 0)
    assert (beside.registry, beside.identity.unknown) == (True, Unknown.POOL)
    assert len(beside.keys) > 0
    both = of(store="redis://localhost", keys={"redis": True, "resolver": lambda _: None})
    assert both.registry
    assert both.resolver is not None
    neither = of(keys={"redis": False})
    assert (neither.registry, neither.identity.unknown) == (False, Unknown.ACCEPT)


def test_registered_keys_need_a_store_that_holds_them() -> None:
    source = {"version": 1, "service": "shop", "keys": {"redis": True}, "store": "${STORE}"}
    (found,) = complaints(source, {**ENVIRON, "STORE": "memory://"})
    assert found.startswith("keys.redis: keys in Redis are where the store is, and this store is in memory")
