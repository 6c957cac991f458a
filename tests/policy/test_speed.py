"""The speed of a policy is that of all its limits, but for those that have their own."""

from __future__ import annotations

from meter_mw.policy.loader import load
from meter_mw.policy.terms import Speed


def speeds(*, top: str | None, own: str | None) -> tuple[Speed, list[Speed], list[Speed]]:
    limit = {"rate": "10/second"} | ({} if own is None else {"speed": own})
    policy = load(
        {
            "version": 1,
            "service": "shop",
            "identity": {"secret": "of at least 16 bytes"},
            "plans": {"default": {"limits": [limit, {"cap": "10/day"}]}},
            "routes": [{"path": "/search", "limits": [{"rate": "2/second", "name": "searches"}]}],
        }
        | ({} if top is None else {"speed": top})
    )
    of_plan = [each.speed for each in policy.plans["default"].limits]
    return policy.speed, of_plan, [each.speed for each in policy.routes[0].limits]


def test_leases_are_taken_where_nothing_is_said_and_they_are_worth_it() -> None:
    assert speeds(top=None, own=None) == (Speed.AUTO, [Speed.AUTO] * 2, [Speed.AUTO])


def test_a_policy_says_it_for_all_and_a_limit_for_itself() -> None:
    assert speeds(top="auto", own="leased") == (Speed.AUTO, [Speed.LEASED, Speed.AUTO], [Speed.AUTO])
    assert speeds(top="leased", own="strict") == (Speed.LEASED, [Speed.STRICT, Speed.LEASED], [Speed.LEASED])


def test_the_id_of_a_limit_does_not_tell_its_speed() -> None:
    """So that a changed speed keeps the count."""
    policies = [
        load(
            {
                "version": 1,
                "service": "shop",
                "identity": {"secret": "of at least 16 bytes"},
                "plans": {"default": {"limits": [{"cap": "10/day", "speed": speed}]}},
            }
        )
        for speed in ("strict", "leased")
    ]
    assert len({each.plans["default"].limits[0].id for each in policies}) == 1
