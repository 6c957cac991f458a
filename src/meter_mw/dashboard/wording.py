"""How numbers, moments and names are written on a page. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from meter_mw.policy.signals import Kind
from meter_mw.policy.units import in_words
from meter_mw.quota import Cap, Rate

if TYPE_CHECKING:
    from meter_mw.model import Meter
    from meter_mw.quota import Quota

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS = ("kB", "MB", "GB", "TB", "PB")
_BYTES = frozenset(("request_bytes", "response_bytes"))
_FIELDS = {"request_bytes": "data in", "response_bytes": "data out"}
_SPANS = (("day", 86_400_000_000), ("hour", 3_600_000_000), ("minute", 60_000_000), ("second", 1_000_000))

_KINDS = {
    Kind.DROP: "Usage dropped",
    Kind.SILENCE: "Went silent",
    Kind.SPIKE: "Usage jumped",
    Kind.PRESSURE: "Presses against a limit",
    Kind.ERRORS: "Unusually many errors",
    Kind.FIRST_USE: "First use",
    Kind.NEW_ROUTE: "Took up a route",
}


def number(value: float) -> str:
    """Write a number: `1,234`."""
    return f"{value:,}"


def size(value: float) -> str:
    """Write bytes, in powers of 1000: `640 B`, `1.2 GB`."""
    if abs(value) < 1000:
        return f"{value:,.0f} B"
    for step in _STEPS:
        value /= 1000
        if abs(value) < 999.95 or step == _STEPS[-1]:
            return f"{value:,.1f} {step}"
    raise AssertionError


def amount(value: float, field: str) -> str:
    """Write units of a field of events."""
    return size(value) if field in _BYTES else number(value)


def share(value: float) -> str:
    """Write a part of one: `3.2 %`; what is more than nothing is not written as nothing."""
    return "< 0.1 %" if 0 < value < 0.001 else f"{value * 100:.1f} %"


def length(value_us: float | None) -> str:
    """Write a length of time: `850 µs`, `12 ms`, `1.4 s`."""
    if value_us is None:
        return "-"
    if value_us < 1000:
        return f"{value_us:.0f} µs"
    return f"{value_us / 1000:.0f} ms" if value_us < 1_000_000 else f"{value_us / 1_000_000:.1f} s"


def away(value_us: int) -> str:
    """Write how far off a moment is: `3 days`, `40 minutes`."""
    for word, size_us in _SPANS:
        if value_us >= size_us:
            many = value_us // size_us
            return f"{many} {word}{'' if many == 1 else 's'}"
    return "less than a second"


def moment(at_us: int) -> str:
    """Write a moment in UTC: `2026-11-21 14:03:07 UTC`."""
    return f"{_EPOCH + timedelta(microseconds=at_us):%Y-%m-%d %H:%M:%S} UTC"


def day(at_us: int) -> str:
    """Write the day of UTC that a moment is in."""
    return f"{_EPOCH + timedelta(microseconds=at_us):%Y-%m-%d}"


def field(name: str) -> str:
    """Write what a field of events counts."""
    return _FIELDS.get(name, name)


def kind(value: Kind) -> str:
    """Write what a signal tells."""
    return _KINDS[value]


def quota(value: Quota, meter: Meter) -> str:
    """Write how much a limit allows: `1,000 per month`, `10 per second, 20 at once`."""
    unit = "bytes" if meter.field in _BYTES else ""

    def units(many: int) -> str:
        return in_words(many, unit) if unit else number(many)

    if isinstance(value, Cap):
        return f"{units(value.units)} per {value.period.word}"
    if isinstance(value, Rate):
        seconds = value.period_us / 1_000_000
        words = {1: "second", 60: "minute", 3600: "hour", 86_400: "day", 604_800: "week"}
        span = words.get(round(seconds), f"{seconds:g} s") if seconds.is_integer() else f"{seconds:g} s"
        return f"{units(value.units)} per {span}, {units(value.burst)} at once"
    return f"{number(value.units)} at the same time"
