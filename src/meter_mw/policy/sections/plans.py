"""The section `plans`: what the subjects on each plan may do, and what that costs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw.policy.policy import Mode
from meter_mw.policy.problems import quoted
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.limits import LimitRules, Placed, read_limits
from meter_mw.policy.sections.price import read_prices
from meter_mw.policy.sections.settings import read_mode, read_timezone
from meter_mw.policy.terms import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_PLAN = "default"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PLAN = Names(("limits", "timezone", "mode", "price"))


def read_plans(field: Field, rules: LimitRules) -> tuple[dict[str, Plan], list[Placed]]:
    """Read the plans, each with its limits; one named `default` is always among them."""
    plans = {DEFAULT_PLAN: Plan(DEFAULT_PLAN)}
    placed: list[Placed] = []
    for name, entry in (field.entries("a mapping of plans: default: {limits: […]}") or {}).items():
        if not _NAME.fullmatch(name):
            entry.complain_of_name(
                f"found the plan {quoted(name)}; expected a name of letters, digits, dots, hyphens and"
                " underscores, at most 64"
            )
        fields = entry.section(_PLAN) or {}
        mode = read_mode(fields["mode"]) if "mode" in fields else None
        own = replace(rules, shadow=rules.shadow or mode is Mode.SHADOW)
        limits = read_limits(fields["limits"], own) if "limits" in fields else []
        zone = read_timezone(fields["timezone"]) if "timezone" in fields else None
        prices = read_prices(fields["price"], rules.meters) if "price" in fields else ()
        plans[name] = Plan(name, tuple(each.limit for each in limits), zone, prices)
        placed += limits
    return plans, placed


def read_plan_name(field: Field, plans: Iterable[str]) -> str | None:
    """Read the name of a plan that the policy has."""
    known = tuple(plans)
    text = field.text("the name of a plan", quotable=True)
    if text is None or text in known:
        return text
    field.reject(
        f"one of the plans {', '.join(known[:20])}",
        because="which is no plan of this policy",
        meant=field.suggestion(text, known),
    )
    return None
