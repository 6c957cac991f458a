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
        "would_deny",
        "request_messages",
        "response_messages",
        "threshold",
        "exchange",
        "part",
        "charged",
        "cut",
        "reaped",
        "reason",
        "by",
        "window",
        "ip",
        "user_agent",
    ]
)
"""Names that usage events use for other things."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_METER = Names(("count", "from_header", "strip"))
_COUNTS = {each.value: each for each in Count if each is not Count.CONCURRENT}

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
"""A token (RFC 9110, section 5.6.2)."""

_TAKEN = frozenset(
    [
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "ratelimit",
        "ratelimit-policy",
        "retry-after",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    ]
)
"""Fields of a response that HTTP, or the meter itself, uses for something else."""


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
    if "count" not in fields and "from_header" not in fields:
        if not field.has_others(_METER.known):
            field.lacks("count", f"count is missing; expected one of {', '.join(_COUNTS)}")
        return None
    count = fields["count"].choice(_COUNTS) if "count" in fields else Count.REPORTED
    if count is None:
        return None
    if name == REQUESTS.name and count is not Count.REQUESTS:
        (fields.get("count") or fields["from_header"]).complain(
            f"found {count.value}; the meter requests is the one that counts requests"
        )
        return REQUESTS
    return _reported(name, count, fields)


def _reported(name: str, count: Count, fields: dict[str, Field]) -> Meter:
    """Give a meter with the field of a response that may tell its units."""
    if "from_header" in fields and count is not Count.REPORTED:
        fields["from_header"].complain_of_name(
            f"the meter {name} counts {count.value}; only a reported one is told by the app's responses"
        )
    elif "strip" in fields and "from_header" not in fields:
        fields["strip"].complain_of_name("found no from_header, whose field strip would take out")
    header = _header(fields["from_header"]) if "from_header" in fields else None
    strip = fields["strip"].boolean() if "strip" in fields else False
    return Meter(name, count, header, strip is True)


def _header(field: Field) -> str | None:
    """Read the name of a field of the response, in lower case."""
    expected = "the name of a field of the app's responses, such as X-Tokens"
    text = field.text(expected)
    if text is None:
        return None
    if not _FIELD_NAME.fullmatch(text):
        field.reject(expected)
    elif text.lower() in _TAKEN:
        field.reject(expected, because="which means something else already")
    else:
        return text.lower()
    return None
