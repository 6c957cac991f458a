"""The section `routes`: which requests belong together, and what they cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meter_mw.model import LARGEST_COST, UNMATCHED, Count
from meter_mw.policy.matching import Matcher
from meter_mw.policy.policy import Route
from meter_mw.policy.problems import quoted
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.callables import read_callable
from meter_mw.policy.sections.charge import read_charge
from meter_mw.policy.sections.exempt import read_exempt
from meter_mw.policy.sections.limits import LimitRules, Placed, largest, read_limits
from meter_mw.policy.sections.methods import read_methods
from meter_mw.policy.templates import Template, TemplateError
from meter_mw.policy.terms import ChargeRules, Exemption
from meter_mw.policy.yaml12 import Scalar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meter_mw.policy.sections.meters import Meters

_ROUTE = Names(
    ("path", "methods", "name", "exempt", "meters", "cost", "limits", "charge"),
    needed=("path",),
)
_NEEDLESS = {
    Exemption.FREE: ("not metered", ("meters", "cost", "limits", "charge")),
    Exemption.COUNTED: ("under no limit", ("limits",)),
}
"""What exempt routes are, and the names that they have no use for."""

_LONGEST_PATH = 2048
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_REGULAR_EXPRESSION = re.compile(r"^\^|\(\?|/\$$")
"""What only a pattern for Django's `re_path` has: a caret first, a named group, a dollar behind a slash."""

_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class RouteRules:
    """What routes refer to: meters and defaults of limits, what is charged for, the limits of plans."""

    limits: LimitRules
    charge: ChargeRules
    of_plans: list[Placed]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A route, its field, and its limits with theirs."""

    route: Route
    field: Field
    limits: tuple[Placed, ...]


def read_routes(field: Field, rules: RouteRules) -> tuple[Route, ...]:
    """Read the routes in their order, and check them beside each other and the plans' limits."""
    entries: dict[str, _Entry] = {}
    for item in field.items("a list of routes: [{path: /v1/items}]") or ():
        entry = _entry(item, rules)
        if entry is None:
            continue
        name = entry.route.name
        if name in entries:
            item.complain(
                f"found a second route {quoted(name)}, after {entries[name].field.path};"
                " give one another name, or join them"
            )
        else:
            entries[name] = entry
    _complain_of_unreachable(entries)
    _complain_of_shared_names(entries, rules.of_plans)
    _complain_of_dear(entries, rules.of_plans)
    return tuple(entry.route for entry in entries.values())


def _entry(field: Field, rules: RouteRules) -> _Entry | None:
    fields = field.section(_ROUTE)
    if fields is None:
        return None
    template = _template(fields["path"]) if "path" in fields else None
    methods = read_methods(fields["methods"]) if "methods" in fields else None
    name = _name(fields["name"]) if "name" in fields else None
    exemption = read_exempt(fields["exempt"]) if "exempt" in fields else Exemption.NONE
    _complain_of_needless(fields, exemption)
    costs = _costs(fields["meters"], rules.limits.meters) if "meters" in fields else ()
    pricing = read_callable(fields["cost"]) if "cost" in fields else None
    charge = read_charge(fields["charge"], rules.charge) if "charge" in fields else None
    route_name = name or " ".join(filter(None, (",".join(sorted(methods or ())), str(template))))
    limits = read_limits(fields["limits"], rules.limits, route_name) if "limits" in fields else []
    if template is None or ("methods" in fields and methods is None) or ("name" in fields and name is None):
        return None
    own = tuple(each.limit for each in limits)
    route = Route(route_name, template, methods, exemption, costs, own, pricing, charge)
    return _Entry(route, field, tuple(limits))


def _complain_of_needless(fields: dict[str, Field], exemption: Exemption) -> None:
    what, names = _NEEDLESS.get(exemption, ("", ()))
    for name in names:
        if name in fields:
            fields[name].complain_of_name(f"an exempt route is {what}, so it has no {name}")


def _template(field: Field) -> Template | None:
    expected = "a path template such as /v1/items/{id}"
    if isinstance(field.node, Scalar) and _REGULAR_EXPRESSION.search(field.node.text):
        field.complain(f"found a regular expression; expected {expected}")
        return None
    text = field.text(expected)
    if text is None:
        return None
    if _URL.match(text):
        field.reject(f"only its path, {expected}", because="a URL", meant=_path_of(text))
        return None
    if len(text) > _LONGEST_PATH:
        field.reject(f"a path template of at most {_LONGEST_PATH} characters")
        return None
    try:
        return Template.parse(text)
    except TemplateError as error:
        if field.is_hidden:
            field.reject(expected)
        else:
            field.complain(str(error))
        return None


def _path_of(url: str) -> str | None:
    try:
        return urlsplit(url).path or "/"
    except ValueError:
        return None


def _name(field: Field) -> str | None:
    expected = f"a name of 1 to {_LONGEST_NAME} printable characters"
    text = field.text(expected, quotable=True)
    if text is None:
        return None
    if text == UNMATCHED:
        field.reject("another name", because="which stands for what no route matches")
    elif not text.strip() or len(text) > _LONGEST_NAME or not text.isprintable():
        field.reject(expected)
    else:
        return text
    return None


def _costs(field: Field, meters: Meters) -> tuple[tuple[str, int], ...]:
    costs: dict[str, int] = {}
    for name, entry in (field.entries("a mapping of meters to units: {requests: 5}") or {}).items():
        meter = meters.get(name)
        if name not in meters:
            entry.complain_of_name(
                f"found {quoted(name)}, which is no meter of this policy", entry.suggestion(name, meters)
            )
        elif meter is not None and meter.count is not Count.REQUESTS:
            entry.complain_of_name(
                f"the meter {name} counts {meter.count.value}; only one that counts requests has a cost here"
            )
        units = entry.integer("whole units from 0 to 2^52", least=0, most=LARGEST_COST)
        if units is not None:
            costs[name] = units
    return tuple(costs.items())


def _complain_of_unreachable(entries: dict[str, _Entry]) -> None:
    triples = (
        (entry.route.template, entry.route.methods, entry)
        for entry in entries.values()
        if entry.route.template is not None
    )
    for entry, earlier in Matcher(triples).unreachable():
        entry.field.complain(
            f"this route can never match: {earlier.field.path} ({quoted(earlier.route.name)})"
            " takes all of its requests first; move it up"
        )


def _complain_of_shared_names(entries: dict[str, _Entry], of_plans: list[Placed]) -> None:
    plans = {each.limit.name: each.field.path for each in reversed(of_plans)}
    for entry in entries.values():
        for placed in entry.limits:
            other = plans.get(placed.limit.name)
            if other is not None:
                placed.field.complain(
                    f"found a second limit {quoted(placed.limit.name)}, after {other}, and a request may meet"
                    " both; give one a name"
                )


def _complain_of_dear(entries: dict[str, _Entry], of_plans: list[Placed]) -> None:
    """Note the routes that cost more than a limit ever has, by their own or on every plan with one."""
    plans: dict[str, list[Placed]] = {}
    for placed in of_plans:
        plans.setdefault(placed.field.path.rpartition(".limits[")[0], []).append(placed)
    for entry in entries.values():
        for meter, cost in entry.route.costs if _is_priced_here(entry.route) else ():
            lists = [_on(meter, placed) for placed in plans.values()]
            by_plans = [_too_small(cost, each) for each in lists if each]
            own = _too_small(cost, _on(meter, entry.limits))
            first = own or (by_plans[0] if all(by_plans) and by_plans else None)
            if first is not None:
                entry.field.complain(
                    f"a request costs {cost} {meter}, more than {first.field.path} ever has"
                    f" ({largest(first.limit.quota)}); every request there would be refused for ever"
                )


def _is_priced_here(route: Route) -> bool:
    """Say whether a route is under limits at the costs that the policy gives, not at those of the app."""
    return route.exemption is Exemption.NONE and route.pricing is None


def _on(meter: str, limits: Iterable[Placed]) -> list[Placed]:
    return [
        each for each in limits if each.limit.meter.name == meter and each.limit.meter.count is Count.REQUESTS
    ]


def _too_small(cost: int, limits: list[Placed]) -> Placed | None:
    """Give a limit that no request of this cost passes; a cap of 0 is there to close."""
    return next((each for each in limits if 0 < largest(each.limit.quota) < cost), None)
