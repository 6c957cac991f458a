"""The notations of amounts, shares, rates, caps and durations: read exactly, or refused with a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import limits

from meter_mw.model import LARGEST_COST, MeterError
from meter_mw.periods import Period
from meter_mw.policy.problems import likely, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

_PERIODS = {period.word: period for period in Period}
_LONGEST = 100
_MOST_PERIODS = 10**9

_SECOND_US = 1_000_000
_SHORT_PERIODS = {"s": "second", "h": "hour", "d": "day", "w": "week", "y": "year"}
"""What one letter is short for; `m` may be a minute or a month."""

_THOUSANDS = {"k": 1000, "K": 1000, "M": 1000**2}
_SHORTEST_WORD = 4
"""Letters after a number that are surely a word, such as `requests`, and no prefix of a size."""

_MINUTE_US = 60 * _SECOND_US
_DURATIONS = {"us": 1, "ms": 1000, "s": _SECOND_US, "second": _SECOND_US, "seconds": _SECOND_US}
_DURATIONS |= {"m": _MINUTE_US, "minute": _MINUTE_US, "minutes": _MINUTE_US}
_HOUR_US = 60 * _MINUTE_US
_DURATIONS |= {"h": _HOUR_US, "hour": _HOUR_US, "hours": _HOUR_US}
_DAY_US = 24 * _HOUR_US
_DURATIONS |= {"d": _DAY_US, "day": _DAY_US, "days": _DAY_US}
_DURATIONS |= {"year": 366 * _DAY_US, "years": 366 * _DAY_US}  # none is longer

_LARGEST_SHARE = 10
_SHARE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) ?%")

_QUANTITY = re.compile(r"(?P<number>[0-9][0-9_,]*(?:\.[0-9]+)?)(?: ?(?P<unit>[A-Za-z]+))?")
_PER = re.compile(
    r"(?P<quantity>[^/]+?)\s*(?:/|per)\s*(?P<many>[0-9]*)\s*(?P<period>[A-Za-z]+)", re.ASCII | re.IGNORECASE
)
_SEVERAL = re.compile(r"[;,|]")


class NotationError(MeterError):
    """A text that is no such quantity; `meant` is what was probably meant."""

    def __init__(self, message: str, meant: str | None = None) -> None:
        super().__init__(message)
        self.meant = meant


@dataclass(frozen=True, slots=True)
class PerPeriod:
    """Units per so many periods, as a rate or a cap is written; `seconds` is what `limits` makes of it."""

    units: int
    many: int
    period: Period
    seconds: int

    @property
    def span(self) -> str:
        """The period in words: `second`, or `10-seconds`."""
        return self.period.word if self.many == 1 else f"{self.many}-{self.period.word}s"


def amount(text: str, *, sized: bool) -> int:
    """Read `1000`, or where bytes are counted `1.5 GiB`; at most 2^52.

    Raises NotationError.
    """
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise NotationError("which does not read as an amount")
    number, unit = match["number"], match["unit"]
    bare = re.sub("[_,]", "", number)
    if bare != number:
        raise NotationError("which has more than digits", text.replace(number, bare))
    if re.match("0[0-9]", number):
        raise NotationError("which has leading zeros", text.replace(number, number.lstrip("0") or "0"))
    if unit is not None and not sized:
        raise _no_size(number, unit)
    units = Fraction(number) * (_size(text, unit) if unit else 1)
    if units.denominator != 1:
        raise NotationError("which is not a whole number" + (" of bytes" if sized else ""))
    if units > LARGEST_COST:
        raise NotationError("which is more than 2^52")
    return int(units)


def share(text: str) -> Fraction:
    """Read `80%` as the part of a whole that it is, from 1% to 1000%. Raises NotationError."""
    match = _SHARE.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise NotationError("which does not read as a percentage")
    part = Fraction(match["number"]) / 100
    if not Fraction(1, 100) <= part <= _LARGEST_SHARE:
        raise NotationError("which is not 1% to 1000%")
    return part


def _no_size(number: str, unit: str) -> NotationError:
    """Say what is wrong with letters after a number where no bytes are counted."""
    if unit.lower() in {each.lower() for each in SIZES}:
        return NotationError("a size on a meter that does not count bytes")
    meant = number if len(unit) >= _SHORTEST_WORD else None
    if unit in _THOUSANDS and (units := Fraction(number) * _THOUSANDS[unit]).denominator == 1:
        meant = str(units)
    return NotationError(f"whose number is followed by {quoted(unit)}; a number is digits alone", meant)


def _size(text: str, unit: str) -> int:
    if unit in SIZES:
        return SIZES[unit]
    folded = {each.lower(): each for each in SIZES}
    # Another first letter, as of PB and B, is another size altogether.
    alike = [each for each in SIZES if each[0].lower() == unit[0].lower()]
    meant = folded.get(unit.lower()) or likely(unit, alike)
    raise NotationError(
        f"whose unit {quoted(unit)} is none of {', '.join(SIZES)}", meant and text.replace(unit, meant)
    )


def rate(text: str, *, sized: bool) -> PerPeriod:
    """Read `10/second`, `100 per 2 minutes` or, where bytes are counted, `5 MB/second`.

    Raises NotationError.
    """
    several = [each.strip() for each in _SEVERAL.split(text)]
    if len(several) > 1 and all(_PER.fullmatch(each) for each in several):
        written = ", ".join(f"{{rate: {each}}}" for each in several)
        raise NotationError(f"which is several rates; write a limit for each: {written}")
    found = _per_period(text, sized=sized)
    if found.units == 0:
        raise NotationError("which allows nothing; write a cap of 0, such as 0/day, to close")
    if found.period in (Period.MONTH, Period.YEAR):
        raise NotationError(
            f"and a {found.period.word} has no fixed length; write a number of days,"
            f" or a cap for the calendar's {found.period.word}"
        )
    return found


def cap(text: str, *, sized: bool) -> PerPeriod:
    """Read `10000/month` or, where bytes are counted, `1 GiB/month`. Raises NotationError."""
    found = _per_period(text, sized=sized)
    if found.many != 1:
        raise NotationError(f"and a cap counts one calendar {found.period.word}, not {found.many}")
    return found


def _per_period(text: str, *, sized: bool) -> PerPeriod:
    match = _PER.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise NotationError("which does not read as units per period")
    try:
        units = amount(match["quantity"], sized=sized)
    except NotationError as error:
        rest = text.strip()[match.end("quantity") :]
        raise NotationError(str(error), error.meant and error.meant + rest) from None
    word = match["period"].lower()
    period = _PERIODS.get(word) or _PERIODS.get(word.removesuffix("s"))
    if period is None:
        meant = _SHORT_PERIODS.get(word) or likely(word, _PERIODS)
        raise NotationError(
            f"whose period {quoted(match['period'])} is unknown",
            meant and text.strip()[: match.start("period")] + meant,
        )
    many = int(match["many"] or 1)
    if match["many"].startswith("0") or many > _MOST_PERIODS:
        raise NotationError(f"whose number of {period.word}s is not 1 to 10^9 without leading zeros")
    # `limits` knows no week, and is left to say how long the other periods are.
    days, word = (7, "day") if period is Period.WEEK else (1, period.word)
    item = limits.parse(f"{units} per {many * days} {word}")
    return PerPeriod(item.amount, many, period, item.get_expiry())


def duration_us(text: str) -> int:
    """Read `100ms`, `1.5 s` or `2 minutes` into microseconds. Raises NotationError."""
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", match["number"]):
        raise NotationError("which does not read as a duration")
    if match["unit"] is None:
        raise NotationError("which has no unit", f"{text.strip()}ms")
    if match["unit"] not in _DURATIONS:
        raise NotationError(f"whose unit {quoted(match['unit'])} is unknown")
    microseconds = Fraction(match["number"]) * _DURATIONS[match["unit"]]
    if microseconds.denominator != 1:
        raise NotationError("which is finer than a microsecond")
    return int(microseconds)


def in_words(units: int, unit: str) -> str:
    """Give an amount as it is said: `1 request`, `5 MB`, `64 KiB`."""
    if unit != "bytes":
        return f"{units} {unit}"
    for name, size in _largest_first():
        if units >= size and units % size == 0:
            return f"{units // size} {name}"
    return f"{units} B"


def _largest_first() -> Iterable[tuple[str, int]]:
    return sorted(SIZES.items(), key=lambda item: -item[1])
