"""A list of limits, of a plan or of a route: rates, caps and slots under the names that clients read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.model import IN_FLIGHT, LARGEST_COST, Count, Meter
from meter_mw.policy.policy import Mode
from meter_mw.policy.problems import quoted
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.amounts import PASSING, is_sized, read_per_period, read_units
from meter_mw.policy.sections.caps import CAP_ALONE, read_cap
from meter_mw.policy.sections.meters import REQUESTS
from meter_mw.policy.sections.settings import FAILURES, StoreFailure, read_mode, read_speed
from meter_mw.policy.terms import Limit, OnExhausted, Scope, Speed
from meter_mw.quota import Cap, Quota, Rate, Slots

if TYPE_CHECKING:
    from meter_mw.policy.sections.meters import Meters
    from meter_mw.policy.units import PerPeriod

KINDS = {"rate": "a rate", "cap": "a cap", "concurrent": "concurrency"}
"""The names that make a limit what it is, and what it is called."""

_SHARED = ("name", "scope", "on_store_failure", "mode", "shadow")
_ALONE: dict[str, tuple[str, ...]] = {
    "burst": ("rate",),
    **dict.fromkeys(CAP_ALONE, ("cap",)),
    **dict.fromkeys(("meter", "reserve", "estimate", "speed"), ("rate", "cap")),
}
"""Names that not every kind of limit has, and the kinds that do."""

_LIMIT = Names((*KINDS, *_ALONE, *_SHARED))

_LONGEST_NAME = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NAME_EXPECTED = "a name of lower-case letters, digits, dots, hyphens and underscores, at most 64"

_BURST = "units that may come at once"
_LARGEST_RESERVE = 64 * 1024
_RESERVED_PART = 16
"""Bytes that are reserved where the policy does not say: this part of what there is, and at most that."""


@dataclass(frozen=True, slots=True)
class LimitRules:
    """What a limit may refer to, and what it does where it does not say."""

    meters: Meters
    failure: StoreFailure
    shadow: bool = False
    speed: Speed = Speed.AUTO


@dataclass(frozen=True, slots=True)
class Placed:
    """A limit and the field that it was read from, for problems that show only beside other limits."""

    limit: Limit
    field: Field


def read_limits(field: Field, rules: LimitRules, route: str | None = None) -> list[Placed]:
    """Read a list of limits; the names of one list differ."""
    found: dict[str, Placed] = {}
    for item in field.items("a list of limits: [{rate: 10/second}]") or ():
        limit = _limit(item, rules, route)
        if limit is None:
            continue
        if limit.name in found:
            first = found[limit.name].field.path
            item.complain(f"found a second limit {quoted(limit.name)}, after {first}; give one a name")
        else:
            found[limit.name] = Placed(limit, item)
    return list(found.values())


def _limit(field: Field, rules: LimitRules, route: str | None) -> Limit | None:
    fields = field.section(_LIMIT)
    if fields is None:
        return None
    problems = field.document.problems
    before = len(problems)
    kind = _kind(field, fields)
    name = _name(fields["name"]) if "name" in fields else None
    failure = fields["on_store_failure"].choice(FAILURES) if "on_store_failure" in fields else None
    scope = fields["scope"].choice({each.value: each for each in Scope}) if "scope" in fields else None
    shadow = _is_shadow(fields)
    meter = read_meter(fields["meter"], rules.meters) if "meter" in fields else REQUESTS
    if meter is None or kind is None:
        return None
    meter = IN_FLIGHT if kind == "concurrent" else meter
    written = None if kind == "concurrent" else read_per_period(fields[kind], meter, is_rate=kind == "rate")
    quota = _quota(fields, written, meter)
    if quota is None:
        return None
    reserve = _reserve(fields, meter, quota)
    on_exhausted = _on_exhausted(fields["on_exhausted"], meter) if "on_exhausted" in fields else None
    speed = _speed(fields["speed"], meter) if "speed" in fields else None
    if len(problems) > before:
        return None
    return Limit(
        name or _default_name(meter, quota, written, route),
        meter,
        quota,
        failure or (rules.failure.cap if isinstance(quota, Cap) else rules.failure.rate),
        route,
        scope or Scope.SUBJECT,
        reserve or 0,
        on_exhausted or OnExhausted.FINISH,
        shadow=rules.shadow or shadow,
        speed=speed or rules.speed,
    )


def _kind(field: Field, fields: dict[str, Field]) -> str | None:
    """Give what makes this a limit, and note the names that do not go with it."""
    given = [name for name in KINDS if name in fields]
    if len(given) > 1:
        field.complain(f"found both {' and '.join(KINDS[name] for name in given)}; write a limit for each")
        return None
    if not given:
        if not field.has_others(_LIMIT.known):
            field.complain("found neither a rate, a cap nor concurrency; a limit is one of them")
        return None
    for name, kinds in _ALONE.items():
        if name in fields and given[0] not in kinds:
            others = " or ".join(KINDS[each] for each in kinds)
            reason = ", as it refills" if (given[0], name) == ("rate", "on_exhausted") else ""
            fields[name].complain_of_name(f"{KINDS[given[0]]} has no {name}{reason}; only {others} has one")
            del fields[name]
    return given[0]


def _name(field: Field) -> str | None:
    text = field.text(_NAME_EXPECTED, quotable=True)
    if text is None or _NAME.fullmatch(text):
        return text
    meant = _sanitised(text)[:_LONGEST_NAME]
    field.reject(_NAME_EXPECTED, because="which a header field cannot carry", meant=meant or None)
    return None


def _is_shadow(fields: dict[str, Field]) -> bool:
    if "mode" in fields and "shadow" in fields:
        fields["shadow"].complain_of_name("found both mode and shadow; shadow: true is mode: shadow")
    mode = read_mode(fields["mode"]) if "mode" in fields else None
    return ("shadow" in fields and fields["shadow"].boolean() is True) or mode is Mode.SHADOW


def read_meter(field: Field, meters: Meters) -> Meter | None:
    """Read the name of one of the policy's meters."""
    text = field.text("the name of a meter")
    if text is None or text in meters:
        return meters.get(text or "")
    field.reject(
        f"one of the meters {', '.join(meters)}",
        because="which is no meter of this policy",
        meant=field.suggestion(text, meters),
    )
    return None


def _quota(fields: dict[str, Field], written: PerPeriod | None, meter: Meter) -> Quota | None:
    if "concurrent" in fields:
        return read_slots(fields["concurrent"])
    if "cap" in fields:
        return None if written is None else read_cap(fields, written, meter)
    return read_rate(fields, written, meter)


def read_slots(field: Field) -> Slots | None:
    """Read how many requests may be in flight."""
    units = field.integer("requests that may be in flight at once, such as 8", least=1, most=LARGEST_COST)
    return None if units is None else Slots(units)


def read_rate(fields: dict[str, Field], written: PerPeriod | None, meter: Meter) -> Rate | None:
    """Read the rate of a limit with its burst; without one the whole rate may come at once."""
    burst = read_units(fields["burst"], meter, _BURST, example=("20 MB", "20")) if "burst" in fields else None
    if written is None or ("burst" in fields and burst is None):
        return None
    try:
        return Rate(written.units, written.seconds * 1_000_000, written.units if burst is None else burst)
    except ValueError:
        field = fields.get("burst", fields["rate"])
        field.reject(
            "fewer units or a faster rate",
            because="which takes more than ten years to come back at this rate",
        )
        return None


def _reserve(fields: dict[str, Field], meter: Meter, quota: Quota) -> int | None:
    """Read what is held at admission where only the end tells how much it was."""
    is_reported, is_passing = meter.count is Count.REPORTED, meter.count in PASSING
    _refuse(fields, "reserve", meter, "bytes or messages", fits=is_passing)
    _refuse(fields, "estimate", meter, "what the app reports", fits=is_reported)
    if is_passing and "reserve" in fields:
        what = "units that are held when a request is admitted"
        return read_units(fields["reserve"], meter, what, example=("64 KiB", "10"))
    if is_sized(meter) and not isinstance(quota, Slots):
        most = quota.burst if isinstance(quota, Rate) else quota.units
        return min(_LARGEST_RESERVE, max(1, most // _RESERVED_PART))
    if is_reported and "estimate" in fields:
        return _estimate(fields["estimate"], quota)
    return 1 if is_passing else 0


def _estimate(field: Field, quota: Quota) -> int | None:
    expected = "units that a request is expected to use, such as 500"
    estimate = field.integer(expected, least=0, most=LARGEST_COST)
    most = largest(quota)
    if estimate is not None and 0 < most < estimate:
        field.reject(f"at most {most}", because="which is more than the limit ever has")
    return estimate


def largest(quota: Quota) -> int:
    """Give the most units that one request can ever have of a quota."""
    if isinstance(quota, Rate):
        return quota.burst
    return quota.most if isinstance(quota, Cap) else quota.units


def _on_exhausted(field: Field, meter: Meter) -> OnExhausted | None:
    _refuse({"on_exhausted": field}, "on_exhausted", meter, "bytes or messages", fits=meter.count in PASSING)
    return field.choice({each.value: each for each in OnExhausted})


def _speed(field: Field, meter: Meter) -> Speed | None:
    _refuse({"speed": field}, "speed", meter, "requests", fits=meter.count is Count.REQUESTS)
    return read_speed(field)


def _refuse(fields: dict[str, Field], name: str, meter: Meter, counted: str, *, fits: bool) -> None:
    """Note a name that does not go with what the meter counts."""
    if name in fields and not fits:
        fields[name].complain_of_name(
            f"found {name}, and the meter {meter.name} counts {meter.count.value};"
            f" only limits on {counted} have one"
        )


def _default_name(meter: Meter, quota: Quota, written: PerPeriod | None, route: str | None) -> str:
    """Name a limit after what it limits, not how much, so that a changed amount keeps its count."""
    base = meter.name
    if written is not None:
        base += f"-{written.span}" if isinstance(quota, Cap) else f"-per-{written.span}"
    prefix = _sanitised(route) if route is not None else ""
    name = f"{prefix}-{base}" if prefix else base
    if len(name) <= _LONGEST_NAME:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}-{mark}"


def _sanitised(text: str) -> str:
    return re.sub("[^a-z0-9._]+", "-", text.lower()).strip("-._")
