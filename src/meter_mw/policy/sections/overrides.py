"""The amounts of its own that a key has for limits of its plan, some of them until a day."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

from meter_mw.policy.problems import quoted
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.amounts import read_per_period, read_units
from meter_mw.policy.sections.limits import KINDS, read_rate, read_slots
from meter_mw.policy.sections.settings import read_date
from meter_mw.policy.terms import Limit, Override
from meter_mw.policy.yaml12 import Scalar
from meter_mw.quota import Cap, Quota, Rate, Slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from meter_mw.policy.policy import Route
    from meter_mw.policy.terms import Plan

_OVERRIDE = Names((*KINDS, "burst", "until"))
_WORDS: dict[type[Quota], str] = {Rate: "rate", Cap: "cap", Slots: "concurrent"}
_MOST_SHOWN = 20
_EXPECTED = "a mapping of limits: {requests-month: {cap: 20000, until: 2026-12-01}}"
_PER = re.compile(r"/|\bper\b", re.IGNORECASE)
_UNTIL = "the day on which it is over, such as 2026-12-01"


def limits_met(plan: Plan, routes: Iterable[Route]) -> dict[str, tuple[Limit, ...]]:
    """Give the limits that a subject on a plan may meet, on any route, by their names."""
    found: dict[str, tuple[Limit, ...]] = {}
    for limit in (*plan.limits, *(each for route in routes for each in route.limits)):
        found[limit.name] = (*found.get(limit.name, ()), limit)
    return found


def read_overrides(field: Field, limits: Mapping[str, Sequence[Limit]]) -> tuple[Override, ...]:
    """Read the amounts of a key, each for a limit that it may meet."""
    found = []
    for name, entry in (field.entries(_EXPECTED) or {}).items():
        shown = "a name" if field.private else quoted(name)
        if name not in limits:
            known = f"; it has {', '.join((*limits,)[:_MOST_SHOWN])}" if limits else ""
            entry.complain_of_name(
                f"found {shown}, which is no limit of the key's plan or of a route{known}",
                entry.suggestion(name, limits),
            )
        elif len({(each.quota, each.meter) for each in limits[name]}) > 1:
            entry.complain_of_name(
                f"found {shown}, the name of limits of several routes that differ; give each its own"
            )
        else:
            override = _override(entry, limits[name][0])
            found += [override] if override is not None else []
    return tuple(sorted(found, key=lambda each: each.limit))


def is_override(value: object, limits: Mapping[str, Sequence[Limit]]) -> bool:
    """Say whether a program made an override that fits the limits of its name, as one that is read does."""
    if not isinstance(value, Override):
        return False
    name: object = value.limit
    until: object = value.until
    met = limits.get(name, ()) if isinstance(name, str) and isinstance(until, date | None) else ()
    return bool(met) and all(_is_alike(value.quota, each.quota) for each in met)


def _is_alike(quota: Quota, other: Quota) -> bool:
    if isinstance(quota, Cap) and isinstance(other, Cap):
        return quota.period is other.period
    return type(quota) is type(other)


def _override(field: Field, limit: Limit) -> Override | None:
    fields = field.section(_OVERRIDE)
    if fields is None:
        return None
    until = read_date(fields["until"], _UNTIL) if "until" in fields else None
    word = _WORDS[type(limit.quota)]
    for other in KINDS:
        if other != word and other in fields:
            fields[other].complain_of_name(f"the limit {limit.name} is {KINDS[word]}, and not {KINDS[other]}")
    if "burst" in fields and word != "rate":
        fields["burst"].complain_of_name(f"{KINDS[word]} has no burst; only a rate has one")
    if word not in fields:
        if not (field.has_others(_OVERRIDE.known) or any(other in fields for other in KINDS)):
            field.lacks(word, f"{word} is missing; the limit {limit.name} is {KINDS[word]}")
        return None
    quota = _quota(fields, limit)
    if quota is None or ("until" in fields and until is None):
        return None
    return Override(limit.name, quota, until)


def _quota(fields: dict[str, Field], limit: Limit) -> Quota | None:
    if isinstance(limit.quota, Slots):
        return read_slots(fields["concurrent"])
    if isinstance(limit.quota, Rate):
        return read_rate(fields, read_per_period(fields["rate"], limit.meter, is_rate=True), limit.meter)
    return _cap(fields["cap"], limit, limit.quota)


def _cap(field: Field, limit: Limit, cap: Cap) -> Cap | None:
    units = _units(field, limit, cap)
    try:
        return None if units is None else cap.resized(units)
    except ValueError:
        field.reject("fewer units", because="which with the grace of the limit is more than 2^52")
        return None


def _units(field: Field, limit: Limit, cap: Cap) -> int | None:
    """Read the units of a cap, with the period that the limit has or with none."""
    if not (isinstance(field.node, Scalar) and _PER.search(field.node.text)):
        return read_units(field, limit.meter, "units of a cap", example=("1 GiB", "20000"), least=0)
    written = read_per_period(field, limit.meter, is_rate=False)
    if written is None or written.period is cap.period:
        return None if written is None else written.units
    field.reject(f"units per {cap.period.word}", because="which is another period than the limit's")
    return None
