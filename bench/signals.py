"""How well signals tell changes: precision and recall on histories with planted changes, and on quiet ones.

Run as `python -m bench signals`; `--update docs/signals.md` puts the tables there. Every history is made up
from a seed, so the figures are the same on every machine.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from meter_mw.policy.signals import Kind, SignalRules
from meter_mw.signals.finding import Evidence, signals
from meter_mw.signals.history import History, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from meter_mw.signals.signal import Signal

FIRST, LAST = date(2026, 9, 1), date(2027, 1, 31)
"""Days of a history, with Christmas in them."""
LOOKED_AT = date(2026, 11, 15)
"""The first day on which signals are looked for, and changes may begin."""
CHANGES = (Kind.DROP, Kind.SILENCE, Kind.SPIKE, Kind.ERRORS)
SHOPS, CUSTOMERS = 4, 30
"""Shops of a shape, and customers of a shop, half of whom something happens to."""
PATIENCE = 10
"""Days within which a change has to be told."""
AFTERMATH = 28
"""Days after a change in which another signal of that customer is not counted as false."""

_WEEKEND = (5, 6)


@dataclass(frozen=True)
class Shape:
    """How customers of a kind call: the expected calls of a day."""

    name: str
    what: str
    mean: Callable[[random.Random, date], float]
    sizes: tuple[float, float]
    noise: float = 0.2
    has_holidays: bool = False
    at_stake: bool = True


def _weekday_heavy(_: random.Random, day: date) -> float:
    return 0.03 if day.weekday() in _WEEKEND else 1.0


def _bursty(dice: random.Random, _: date) -> float:
    return dice.lognormvariate(0, 1.0) if dice.random() < 0.35 else 0.02


def _growing(_: random.Random, day: date) -> float:
    return 1.015 ** (day - FIRST).days * (0.4 if day.weekday() in _WEEKEND else 1.0)


def _shrinking(_: random.Random, day: date) -> float:
    return 0.99 ** (day - FIRST).days


def _steady(_: random.Random, day: date) -> float:
    return 0.7 if day.weekday() in _WEEKEND else 1.0


SHAPES = (
    Shape("steady", "every day, less at weekends", _steady, (200, 5_000)),
    Shape("weekday-heavy", "offices: next to nothing at weekends", _weekday_heavy, (200, 5_000)),
    Shape("bursty", "every third day or so, by wildly different amounts", _bursty, (300, 5_000), noise=0.3),
    Shape("growing", "1.5 % more every day", _growing, (100, 1_000)),
    Shape("shrinking", "1 % less every day", _shrinking, (1_000, 10_000)),
    Shape("small", "a few calls a day", _steady, (2, 12)),
    Shape(
        "holiday",
        "weekday-heavy, and closed from 24 December to 3 January",
        _weekday_heavy,
        (200, 5_000),
        has_holidays=True,
    ),
)


@dataclass(frozen=True)
class Change:
    """What happens to a customer, from a day on."""

    kind: Kind
    day: date


@dataclass(frozen=True)
class Customer:
    """A made-up history, and what happens in it, if anything does."""

    history: History
    change: Change | None


def shop(shape: Shape, seed: int, rules: SignalRules, *, is_quiet: bool = False) -> list[Customer]:
    """Make up the customers of a shop."""
    dice = random.Random(f"{shape.name} {seed} {is_quiet}")
    return [_customer(shape, number, dice, rules, is_quiet=is_quiet) for number in range(CUSTOMERS)]


def _customer(
    shape: Shape, number: int, dice: random.Random, rules: SignalRules, *, is_quiet: bool
) -> Customer:
    change = None
    if not is_quiet and number % 2:
        begins = LOOKED_AT + timedelta(days=dice.randrange((LAST - LOOKED_AT).days - PATIENCE))
        while begins.weekday() in _WEEKEND or _is_closed(shape, begins):
            begins -= timedelta(days=1)
        change = Change(CHANGES[number // 2 % len(CHANGES)], begins)
    size = math.exp(dice.uniform(*map(math.log, shape.sizes)))
    usual_errors = dice.uniform(0.001, 0.02)
    days = {}
    for ordinal in range(FIRST.toordinal(), LAST.toordinal() + 1):
        day = date.fromordinal(ordinal)
        mean = size * shape.mean(dice, day) * dice.lognormvariate(0, shape.noise)
        if _is_closed(shape, day):
            mean *= 0.03
        calls = _poisson(dice, _changed(mean, change, day, size))
        share = (
            0.25
            if change and change.kind is Kind.ERRORS and 0 <= (day - change.day).days < 3
            else usual_errors
        )
        wrong = min(calls, _poisson(dice, calls * share * dice.lognormvariate(0, 0.3)))
        if calls:
            days[ordinal] = Told(calls, client_errors=wrong)
    return Customer(History(f"customer-{number:02}", days, rules), change)


def _is_closed(shape: Shape, day: date) -> bool:
    return shape.has_holidays and date(2026, 12, 24) <= day <= date(2027, 1, 3)


def _changed(mean: float, change: Change | None, day: date, size: float) -> float:
    """Give what a change makes of the calls of a day."""
    if change is None or day < change.day:
        return mean
    match change.kind:
        case Kind.DROP:
            return 0.2 * mean
        case Kind.SILENCE:
            return 0.0
        case Kind.SPIKE if day == change.day:
            return mean + max(5 * mean, 5 * size, 150)
        case _:
            return mean


def _poisson(dice: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(dice.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), dice.random(), 0
    while product > limit:
        product *= dice.random()
        count += 1
    return count


@dataclass(frozen=True)
class Score:
    """How signals of one kind, on one shape, compare with what was planted; `delays` are in days."""

    planted: int
    told: int
    false: int
    delays: tuple[int, ...]

    @property
    def precision(self) -> float | None:
        """The part of signals that tell of something."""
        return self.told / (self.told + self.false) if self.told + self.false else None

    @property
    def recall(self) -> float | None:
        """The part of changes that are told."""
        return self.told / self.planted if self.planted else None


def measured(shape: Shape, rules: SignalRules, *, is_quiet: bool = False) -> dict[Kind, Score]:
    """Give the scores of the kinds of changes on a shape."""
    planted, told, false = Counter[Kind](), Counter[Kind](), Counter[Kind]()
    delays: dict[Kind, list[int]] = {kind: [] for kind in CHANGES}
    for seed in range(SHOPS):
        customers = shop(shape, seed, rules, is_quiet=is_quiet)
        found = signals(
            Evidence([each.history for each in customers], FIRST.toordinal()), LOOKED_AT, LAST, rules
        )
        for customer in customers:
            own = [
                each for each in found if each.subject == customer.history.subject and each.kind in CHANGES
            ]
            change = customer.change
            if change is not None:
                planted[change.kind] += 1
                delay = next(_delays(own, change), None)
                if delay is not None:
                    told[change.kind] += 1
                    delays[change.kind].append(delay)
            false.update(each.kind for each in own if not _is_of(each, change))
    return {kind: Score(planted[kind], told[kind], false[kind], tuple(delays[kind])) for kind in CHANGES}


def _delays(own: Sequence[Signal], change: Change) -> Iterator[int]:
    for each in own:
        days = (each.day - change.day).days
        if each.kind is change.kind and 0 <= days <= PATIENCE:
            yield days


def _is_of(signal: Signal, change: Change | None) -> bool:
    return change is not None and 0 <= (signal.day - change.day).days <= AFTERMATH


def main(rules: SignalRules | None = None) -> str:
    """Give the tables."""
    rules = rules or SignalRules()
    days = SHOPS * CUSTOMERS * ((LAST - LOOKED_AT).days + 1)
    lines = [
        "| customers | "
        + " | ".join(f"{kind.value}: precision, recall" for kind in CHANGES)
        + " | false alarms of quiet ones |",
        "|---|" + "---|" * (len(CHANGES) + 1),
    ]
    sums = {kind: Score(0, 0, 0, ()) for kind in CHANGES}
    alarms = 0
    for shape in SHAPES:
        found = measured(shape, rules)
        quiet = sum(each.false for each in measured(shape, rules, is_quiet=True).values())
        alarms += quiet
        sums = {kind: _added(sums[kind], found[kind]) for kind in CHANGES}
        lines.append(row(f"{shape.name}: {shape.what}", found, quiet, days))
    lines.append(row("**all**", sums, alarms, days * len(SHAPES)))
    delays = ", ".join(f"{kind.value} {_median(sums[kind].delays)}" for kind in CHANGES)
    lines += ["", f"Days from a change to its signal, at the median: {delays}."]
    return "\n".join(lines)


def _added(a: Score, b: Score) -> Score:
    return Score(a.planted + b.planted, a.told + b.told, a.false + b.false, a.delays + b.delays)


def row(name: str, found: dict[Kind, Score], quiet: int, days: int) -> str:
    """Give the row of a shape in the table."""
    cells = [f"{_said(each.precision)}, {_said(each.recall)}" for each in found.values()]
    return f"| {name} | " + " | ".join(cells) + f" | {quiet} in {days:,} days |"


def _said(share: float | None) -> str:
    return "none" if share is None else f"{share:.2f}"


def _median(delays: Sequence[int]) -> int:
    return sorted(delays)[len(delays) // 2] if delays else 0


if __name__ == "__main__":
    print(main())
