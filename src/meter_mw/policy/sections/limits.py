"""A list of limits, of a plan or of a route: rates, bursts and caps under the names that clients read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.model import LARGEST_COST, Count, Meter
from meter_mw.policy.policy import Failure, Limit
from meter_mw.policy.problems import quoted
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.meters import REQUESTS
from meter_mw.policy.sections.settings import FAILURES, StoreFailure
from meter_mw.policy.units import NotationError, PerPeriod, amount, cap, rate
from meter_mw.policy.yaml12 import Scalar
from meter_mw.quota import Cap, Quota, Rate

if TYPE_CHECKING:
    from meter_mw.policy.sections.meters import Meters

_LIMIT = Names(
    ("rate", "burst", "cap", "name", "meter", "on_store_failure", "scope"),
    later=(
        "concurrent",
        "warn",
        "overage",
        "ceiling",
        "grace",
        "reserve",
        "on_exhausted",
        "on_deny",
        "estimate",
        "mode",
        "shadow",
    ),
)
_SCOPES_LATER = ("key", "account", "route", "everyone")

_LONGEST_NAME = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NAME_EXPECTED = "a name of lower-case letters, digits, dots, hyphens and underscores, at most 64"

_BYTES = (Count.REQUEST_BYTES, Count.RESPONSE_BYTES)


@dataclass(frozen=True, slots=True)
class LimitRules:
    """What a limit may refer to, and what it does where it does not say."""

    meters: Meters
    failure: StoreFailure


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
    given = [name for name in ("rate", "cap") if name in fields]
    if len(given) == 2:
        field.complain("found both a rate and a cap; write a limit for each")
    elif not given and not field.has_others(_LIMIT.known):
        field.complain("found neither a rate nor a cap; a limit is one of them")
    if "burst" in fields and given == ["cap"]:
        fields["burst"].complain_of_name("a cap has no burst; only a rate has one")
    if "scope" in fields:
        fields["scope"].choice({"subject": None}, _SCOPES_LATER)
    own_failure = fields["on_store_failure"].choice(FAILURES) if "on_store_failure" in fields else None
    name = _name(fields["name"]) if "name" in fields else None
    meter = _meter(fields["meter"], rules.meters) if "meter" in fields else REQUESTS
    if meter is None or len(given) != 1:
        return None
    written = _per_period(fields[given[0]], meter, is_rate=given == ["rate"])
    quota = _quota(fields, written, meter)
    if quota is None or written is None or ("name" in fields and name is None):
        return None
    failure = own_failure or _default_failure(quota, rules.failure)
    return Limit(name or _default_name(meter, quota, written, route), meter, quota, failure, route)


def _default_failure(quota: Quota, failure: StoreFailure) -> Failure:
    return failure.cap if isinstance(quota, Cap) else failure.rate


def _name(field: Field) -> str | None:
    text = field.text(_NAME_EXPECTED, quotable=True)
    if text is None or _NAME.fullmatch(text):
        return text
    meant = _sanitised(text)[:_LONGEST_NAME]
    field.reject(_NAME_EXPECTED, because="which a header field cannot carry", meant=meant or None)
    return None


def _meter(field: Field, meters: Meters) -> Meter | None:
    text = field.text("the name of a meter")
    if text is None or text in meters:
        return meters.get(text or "")
    field.reject(
        f"one of the meters {', '.join(meters)}",
        because="which is no meter of this policy",
        meant=field.suggestion(text, meters),
    )
    return None


def _per_period(field: Field, meter: Meter, *, is_rate: bool) -> PerPeriod | None:
    sized = meter.count in _BYTES
    units = "5 MB" if sized else "10"
    expected = f"a rate such as {units}/second" if is_rate else f"a cap such as {units}000/month"
    expected = expected.replace("5 MB000", "1 GiB")
    text = field.text(expected)
    if text is None:
        return None
    try:
        return rate(text, sized=sized) if is_rate else cap(text, sized=sized)
    except NotationError as error:
        field.reject(expected, because=str(error), meant=error.meant)
        return None


def _quota(fields: dict[str, Field], written: PerPeriod | None, meter: Meter) -> Quota | None:
    has_burst = "burst" in fields and "rate" in fields
    burst = _burst(fields["burst"], meter) if has_burst else None
    if written is None or (has_burst and burst is None):
        return None
    if "cap" in fields:
        return Cap(written.units, written.period)
    return _rate(fields, written, written.units if burst is None else burst)


def _rate(fields: dict[str, Field], written: PerPeriod, burst: int) -> Rate | None:
    try:
        return Rate(written.units, written.seconds * 1_000_000, burst)
    except ValueError:
        field = fields.get("burst", fields["rate"])
        field.reject(
            "fewer units or a faster rate",
            because="which takes more than ten years to come back at this rate",
        )
        return None


def _burst(field: Field, meter: Meter) -> int | None:
    sized = meter.count in _BYTES
    expected = "units that may come at once, " + ("such as 20 MB" if sized else "such as 20")
    if not sized or (isinstance(field.node, Scalar) and not isinstance(field.node.value, str)):
        return field.integer(expected, least=1, most=LARGEST_COST)
    text = field.text(expected)
    if text is None:
        return None
    try:
        units = amount(text, sized=True)
    except NotationError as error:
        field.reject(expected, because=str(error), meant=error.meant)
        return None
    if units == 0:
        field.reject(expected, because="which allows nothing")
        return None
    return units


def _default_name(meter: Meter, quota: Quota, written: PerPeriod, route: str | None) -> str:
    """Name a limit after what it limits, not how much, so that a changed amount keeps its count."""
    base = f"{meter.name}-{written.span}" if isinstance(quota, Cap) else f"{meter.name}-per-{written.span}"
    prefix = _sanitised(route) if route is not None else ""
    name = f"{prefix}-{base}" if prefix else base
    if len(name) <= _LONGEST_NAME:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}-{mark}"


def _sanitised(text: str) -> str:
    return re.sub("[^a-z0-9._]+", "-", text.lower()).strip("-._")
