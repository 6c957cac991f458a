"""Limits of policies: concurrency, scopes, reserves, what lies beyond a cap, and shadow."""

from __future__ import annotations

from typing import Any

import pytest
from loading import ENVIRON, good, limits_of, of

from meter_mw.model import IN_FLIGHT
from meter_mw.periods import Period
from meter_mw.policy.loader import load
from meter_mw.policy.problems import PolicyError
from meter_mw.policy.terms import Failure, OnExhausted, Scope
from meter_mw.quota import Cap, Slots


def test_concurrency_is_a_limit_on_requests_in_flight() -> None:
    policy = good("concurrency")
    own, shared = policy.plans["default"].limits
    assert (own.name, own.meter, own.quota, own.scope) == ("concurrent", IN_FLIGHT, Slots(8), Scope.SUBJECT)
    assert own.on_store_failure is Failure.OPEN
    assert (shared.name, shared.scope, shared.on_store_failure) == (
        "all-requests",
        Scope.EVERYONE,
        Failure.CLOSED,
    )
    (export,) = policy.routes[0].limits
    assert (export.name, export.route, export.scope) == ("export-concurrent", "export", Scope.ACCOUNT)


def test_failure_of_the_store_is_for_concurrency_as_for_rates() -> None:
    policy = of(on_store_failure={"rate": "closed"}, plans={"default": {"limits": [{"concurrent": 1}]}})
    assert limits_of(policy)["concurrent"].on_store_failure is Failure.CLOSED


@pytest.mark.parametrize("scope", Scope)
def test_scopes_are_read(scope: Scope) -> None:
    policy = of(plans={"default": {"limits": [{"cap": "5/day", "scope": scope.value}]}})
    assert limits_of(policy)["requests-day"].scope is scope


def test_what_lies_beyond_a_cap_is_read_exactly() -> None:
    assert {name: limit.quota for name, limit in limits_of(good("beyond")).items()} == {
        "requests-day": Cap(3, Period.DAY, warn=(1, 3)),
        "requests-week": Cap(1000, Period.WEEK, grace=50, warn=(1050,)),
        "requests-month": Cap(1000, Period.MONTH, grace=50, bills=True, ceiling=1500),
        "requests-year": Cap(10, Period.YEAR, bills=True, warn=(100,)),
        "egress-month": Cap(
            2**30, Period.MONTH, 2**20, bills=True, ceiling=2**31, warn=(2**29, -(-(2**30) * 995 // 1000))
        ),
    }


@pytest.mark.parametrize(("share", "count"), [("80%", 8), ("81%", 9), ("80.1%", 9), ("1%", 1), ("100 %", 10)])
def test_thresholds_are_rounded_up_and_the_rest_down(share: str, count: int) -> None:
    limit = {"cap": "10/day", "warn": [share], "grace": "19%", "overage": "bill", "ceiling": "159%"}
    quota = limits_of(of(plans={"default": {"limits": [limit]}}))["requests-day"].quota
    assert quota == Cap(10, Period.DAY, 1, bills=True, ceiling=15, warn=(count,))


def test_reserves_are_what_is_said_or_a_part_of_what_there_is() -> None:
    reserved = {
        name: (limit.reserve, limit.on_exhausted) for name, limit in limits_of(good("reserves")).items()
    }
    assert reserved == {
        "egress-month": (65_536, OnExhausted.FINISH),
        "egress-day": (100, OnExhausted.CUT),
        "egress-week": (1, OnExhausted.FINISH),
        "egress-per-second": (200, OnExhausted.FINISH),
        "egress-year": (1_000_000, OnExhausted.FINISH),
        "frames-day": (1, OnExhausted.CUT),
        "frames-per-second": (5, OnExhausted.FINISH),
        "tokens-day": (0, OnExhausted.FINISH),
        "tokens-per-minute": (500, OnExhausted.FINISH),
    }
    assert limits_of(of(plans={"default": {"limits": [{"cap": "5/day"}]}}))["requests-day"].reserve == 0


def test_shadow_is_of_a_limit_a_plan_or_the_policy() -> None:
    policy = good("shadow_parts")
    assert [limit.shadow for limit in policy.plans["default"].limits] == [True, True, False, False]
    assert [limit.shadow for limit in policy.plans["trial"].limits] == [True]
    assert [limit.shadow for limit in policy.routes[0].limits] == [True, False]
    whole = of(
        mode="shadow",
        plans={"default": {"mode": "enforce", "limits": [{"cap": "5/day", "mode": "enforce"}]}},
        routes=[{"path": "/a", "limits": [{"cap": "5/week", "name": "a"}]}],
    )
    assert [limit.shadow for limit in whole.plans["default"].limits + whole.routes[0].limits] == [True, True]


def test_dear_routes_know_what_a_cap_serves_beyond_its_units() -> None:
    """Grace and overage count as room, and slots and other kinds of meters have no cost."""

    def complaint(*limits: dict[str, Any], units: int = 11, **route: object) -> list[str]:
        entry = {"path": "/a", "meters": {"requests": units}, **route}
        mapping = {"version": 1, "service": "shop", "plans": {"default": {"limits": [*limits]}}}
        try:
            load({**mapping, "routes": [entry]}, ENVIRON)
        except PolicyError as error:
            return [str(problem) for problem in error.problems]
        return []

    assert "(10)" in complaint({"cap": "10/day"})[0]
    assert complaint({"cap": "10/day", "grace": 1}) == []
    assert complaint({"cap": "10/day", "overage": "bill"}) == []
    assert complaint({"cap": "10/day", "overage": "bill", "ceiling": "110%"}) == []
    assert "(11)" in complaint({"cap": "10/day", "overage": "bill", "ceiling": 11}, units=12)[0]
    assert complaint({"concurrent": 1}) == []
    assert complaint({"cap": "10/day"}, exempt="counted") == []
    assert complaint({"cap": "10/day"}, units=0) == []
    assert complaint({"cap": "10/day"}, cost=len) == []


def test_limits_on_concurrency_are_not_on_a_meter_of_that_name() -> None:
    policy = of(
        meters={"concurrent": {"count": "requests"}},
        plans={"default": {"limits": [{"concurrent": 1}]}},
        routes=[{"path": "/a", "meters": {"concurrent": 5}}],
    )
    assert limits_of(policy)["concurrent"].meter is IN_FLIGHT
