"""The section `meters`: what is counted, under which names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.model import Count, Meter
from meter_mw.policy.problems import quoted
from meter_mw.policy.reading import Field, Names

if TYPE_CHECKING:
    from collections.abc import Mapping

    Meters: TypeAlias = Mapping[str, Meter | None]
    """The meters by name; `None` for one whose problem is already noted."""

REQUESTS = Meter("requests", Count.REQUESTS)

DEFAULT_METERS = {
    meter.name: meter
    for meter in (REQUESTS, Meter("ingress", Count.REQUEST_BYTES), Meter("egress", Count.RESPONSE_BYTES))
}

RESERVED = frozenset(
    [
        "request_bytes",
        "response_bytes",
        "route",
        "method",
        "status",
        "plan",
        "key",
        "account",
        "duration_us",
        "limited_by",
        "overage",
        "policy",
        "shadow",
        "amends",
    ]
)
"""Names that usage events use for other things."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_METER = Names(("count",), later=("from_header",))
_COUNTS = {each.value: each for each in Count}


def read_meters(field: Field) -> Meters:
    """Read the meters; one that counts requests as `requests` is always among them."""
    found: dict[str, Meter | None] = {}
    for name, entry in (field.entries("a mapping of meters: requests: {count: requests}") or {}).items():
        found[name] = _meter(name, entry)
    return {REQUESTS.name: REQUESTS} | found


def _meter(name: str, field: Field) -> Meter | None:
    if not _NAME.fullmatch(name):
        field.complain_of_name(
            f"found the meter {quoted(name)}; expected a name of a lower-case letter,"
            " then lower-case letters, digits and underscores, at most 63"
        )
    elif name in RESERVED:
        field.complain_of_name(f"the name {name} is taken: usage events use it for something else")
    fields = field.section(_METER)
    if fields is None:
        return None
    if "count" not in fields:
        if not field.has("from_header"):
            field.lacks("count", f"count is missing; expected one of {', '.join(_COUNTS)}")
        return None
    count = fields["count"].choice(_COUNTS)
    if count is None:
        return None
    if name == REQUESTS.name and count is not Count.REQUESTS:
        fields["count"].complain(f"found {count.value}; the meter requests is the one that counts requests")
        return REQUESTS
    return Meter(name, count)
