"""The section `signals`: from when on a change in how a subject uses the API is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.settings import read_date
from meter_mw.policy.signals import Kind, SignalRules
from meter_mw.policy.units import NotationError, share
from meter_mw.policy.yaml12 import Scalar

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

_KINDS = {each.value: each for each in Kind}
_SIGNALS = Names(("weeks", "deviations", "least", *_KINDS, "holidays"))

_OFF = "off"
_MOST_HOLIDAYS = 400


def _share(field: Field) -> float | None:
    expected = "a share from 1% to 100%, such as 50%"
    text = field.text(expected)
    if text is None:
        return None
    try:
        part = share(text)
    except NotationError as error:
        field.reject(expected, because=str(error), meant=error.meant)
        return None
    if part > 1:
        field.reject(expected, because="which is more than all")
        return None
    return float(part)


def _number(expected: str, least: float, most: float) -> Callable[[Field], float | None]:
    def read(field: Field) -> float | None:
        value = field.scalar()
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            return float(value)
        field.reject(expected)
        return None

    return read


def _whole(expected: str, least: int, most: int) -> Callable[[Field], int | None]:
    return lambda field: field.integer(expected, least=least, most=most)


_TIMES = _number("a number from 1.1 to 1000, such as 3", 1.1, 1_000)
_READERS: dict[str, Callable[[Field], float | None]] = {
    "weeks": _whole("a number of weeks from 3 to 52", 3, 52),
    "deviations": _number("a number of standard deviations from 1 to 100, such as 4", 1, 100),
    "least": _whole("a number of calls from 1 on, such as 50", 1, 10**9),
    "drop_share": _share,
    "drop_days": _whole("a number of days from 1 to 28", 1, 28),
    "silence_days": _whole("a number of days from 1 to 90", 1, 90),
    "spike_times": _TIMES,
    "pressure_level": _share,
    "pressure_time": _share,
    "pressure_refused": _share,
    "errors_share": _share,
    "errors_times": _TIMES,
    "new_route_calls": _whole("a number of calls from 1 on, such as 5", 1, 10**9),
}
"""How each setting is read, by its name in SignalRules; those of a kind begin with its name."""


def read_signals(field: Field) -> SignalRules | None:
    """Read the thresholds of signals; what is not said is as SignalRules has it."""
    fields = field.section(_SIGNALS)
    if fields is None:
        return None
    given: dict[str, float | None] = {
        name: _READERS[name](fields[name]) for name in ("weeks", "deviations", "least") if name in fields
    }
    off = set()
    for name, kind in _KINDS.items():
        if name not in fields:
            continue
        if _is_off(fields[name]):
            off.add(kind)
        else:
            given |= _of_kind(fields[name], name)
    holidays = _holidays(fields["holidays"]) if "holidays" in fields else frozenset()
    if None in given.values():
        return None
    return SignalRules(**given, off=frozenset(off), holidays=holidays)  # type: ignore[arg-type]  # each reader gives its own type


def settings_of(kind: str) -> tuple[str, ...]:
    """Give the names of the settings of a kind."""
    return tuple(name.removeprefix(f"{kind}_") for name in _READERS if name.startswith(f"{kind}_"))


def _is_off(field: Field) -> bool:
    return isinstance(field.node, Scalar) and field.node.value == _OFF


def _of_kind(field: Field, kind: str) -> dict[str, float | None]:
    names = settings_of(kind)
    if not names:
        field.reject(f"{_OFF}; {kind} has no settings")
        return {}
    if isinstance(field.node, Scalar):
        field.reject(f"{_OFF}, or a mapping of {', '.join(names)}")
        return {}
    fields = field.section(Names(names)) or {}
    return {f"{kind}_{name}": _READERS[f"{kind}_{name}"](each) for name, each in fields.items()}


def _holidays(field: Field) -> frozenset[date]:
    expected = "a list of days: [2026-12-25, 2026-12-26]"
    items = field.items(expected) or []
    if len(items) > _MOST_HOLIDAYS:
        field.complain(f"found {len(items)} holidays; expected {_MOST_HOLIDAYS} at most")
        return frozenset()
    read = [read_date(each, "a day such as 2026-12-25") for each in items]
    return frozenset(day for day in read if day is not None)
