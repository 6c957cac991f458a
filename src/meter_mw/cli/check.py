"""`meter-mw check`: say everything that is wrong with a policy, or what it decides."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import click

from meter_mw.meter import open_stores
from meter_mw.model import Count
from meter_mw.policy.loader import load
from meter_mw.policy.policy import (
    FileSinkRule,
    HttpSinkRule,
    Limit,
    Mode,
    Plan,
    Policy,
    Route,
    SinkRule,
    Unknown,
)
from meter_mw.policy.problems import PolicyError, printable
from meter_mw.policy.units import in_words
from meter_mw.quota import Cap

if TYPE_CHECKING:
    from collections.abc import Iterator

    Lines: TypeAlias = Iterator[str]

_DEFAULT = "meter.yaml"

_MOST_SHOWN = 50
"""Routes and plans that the summary lists; of the rest it gives the number."""


@click.command()
@click.argument("policy", envvar="METER_POLICY", default=_DEFAULT, metavar="[POLICY]")
def check(policy: str) -> None:
    """Check a policy file (METER_POLICY, or else meter.yaml).

    Every problem is one line on standard error, with its place in the file, and the exit status is 1.
    """
    sys.path.insert(0, str(Path.cwd()))  # where servers look for the module of a resolver
    if policy == _DEFAULT and not os.environ.get("METER_POLICY") and not Path(policy).exists():
        click.echo(
            f"METER_POLICY is not set, or empty, and there is no {_DEFAULT} here; name a file", err=True
        )
        sys.exit(1)
    try:
        loaded = load(policy)
        open_stores(loaded.store)
    except PolicyError as error:
        for problem in error.problems:
            click.echo(str(replace(problem, file=problem.file or printable(policy))), err=True)
        sys.exit(1)
    for line in summary(loaded):
        click.echo(printable(line))


def summary(policy: Policy) -> Lines:
    """Give what a policy decides, in words; without secrets."""
    mode = "shadow (decides and records, refuses nobody)" if policy.mode is Mode.SHADOW else "enforce"
    yield f"service   {policy.service}"
    yield f"mode      {mode}"
    yield f"store     {store_in_words(policy.store)}, deadline {policy.deadline_us // 1000} ms"
    yield f"timezone  {policy.timezone}"
    yield f"keys      {_keys(policy)}"
    yield f"meters    {', '.join(f'{meter.name} ({meter.count.value})' for meter in policy.meters)}"
    yield "routes"
    for route in policy.routes[:_MOST_SHOWN]:
        yield from _route(route)
    yield from _rest(len(policy.routes), "routes")
    yield "  anything else: metered as <unmatched>"
    yield "plans"
    for plan in (*policy.plans.values(),)[:_MOST_SHOWN]:
        yield from _plan(plan)
    yield from _rest(len(policy.plans), "plans")
    yield f"journal   {policy.events.journal}"
    yield f"sinks     {', '.join(map(_sink, policy.events.sinks))}"


def store_in_words(url: str) -> str:
    """Give a store's URL without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def limit_in_words(limit: Limit) -> str:
    """Say a limit: `10 requests per second, 20 at once`."""
    quota = limit.quota
    match limit.meter.count:
        case Count.REQUEST_BYTES:
            unit, of = "bytes", " in"
        case Count.RESPONSE_BYTES:
            unit, of = "bytes", " out"
        case _:
            unit, of = limit.meter.name, ""
    amount = in_words(quota.units, unit) + of
    if isinstance(quota, Cap):
        return f"{amount} per calendar {quota.period.word}"
    return f"{amount} per {_span(quota.period_us)}, {_amount(quota.burst, unit)} at once"


def _amount(units: int, unit: str) -> str:
    return in_words(units, unit) if unit == "bytes" else str(units)


def _span(period_us: int) -> str:
    seconds = period_us // 1_000_000
    lengths = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    word, many = next((word, seconds // length) for word, length in lengths if seconds % length == 0)
    return word if many == 1 else f"{many} {word}s"


def _keys(policy: Policy) -> str:
    listed = "asked of the resolver" if policy.resolver else f"{len(policy.keys)} listed"
    unknown = "rejected" if policy.identity.unknown is Unknown.REJECT else "accepted on plan default"
    anonymous = policy.identity.anonymous
    without = f"on plan {anonymous.plan}, by address" if anonymous else "rejected"
    return f"{listed}; others are {unknown}; requests without one are {without}"


def _route(route: Route) -> Lines:
    methods = ",".join(sorted(route.methods)) if route.methods else "any method"
    costs = [f"{units} {name}" for name, units in route.costs if units != 1]
    notes = ["not metered"] if route.exempt else [f"costs {', '.join(costs)}"] if costs else []
    yield f"  {methods} {route.template}" + "".join(f", {note}" for note in notes)
    for limit in route.limits:
        yield f"    {limit.name}: {limit_in_words(limit)}"


def _plan(plan: Plan) -> Lines:
    yield f"  {plan.name}" + (f", days of {plan.timezone}" if plan.timezone else "")
    for limit in plan.limits:
        yield f"    {limit.name}: {limit_in_words(limit)}"
    if not plan.limits:
        yield "    no limits"


def _rest(many: int, what: str) -> Lines:
    if many > _MOST_SHOWN:
        yield f"  and {many - _MOST_SHOWN} more {what}"


def _sink(sink: SinkRule) -> str:
    if isinstance(sink, FileSinkRule):
        return f"file {sink.path}"
    if isinstance(sink, HttpSinkRule):
        parts = urlsplit(sink.url)
        return f"{parts.scheme}://{parts.netloc}/…, {'signed' if sink.secret else 'not signed'}"
    return "stdout"
