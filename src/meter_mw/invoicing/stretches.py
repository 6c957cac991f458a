"""The days of a period into stretches: which plan and price list held on each, and what was used there. Pure.

Rule 1: usage is priced by the plan that its events name, on the list of the day that it lies in.
Rule 2: the plan of a day is the one that it was used on; the day of a change belongs to the new plan, a day
        without usage to the plan before it, and the days before the first usage to the first plan.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meter_mw.ledger.records import BUILT_IN
from meter_mw.policy.prices import list_on
from meter_mw.rating.percentiles import SAMPLE_S
from meter_mw.rating.usage import Stretch, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date

    from meter_mw.ledger.spans import Span
    from meter_mw.periods import Period
    from meter_mw.policy.prices import PriceList
    from meter_mw.policy.terms import Plan

_SAMPLE_US = SAMPLE_S * 1_000_000


@dataclass(slots=True)
class Day:
    """A day of a period, with the units that were used in it by plan and field, and its samples by field."""

    date: date
    span: Span
    used: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    samples: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    intervals: int = -1
    """The five minutes that count for a percentile; less than there are where the day is not over."""

    def __post_init__(self) -> None:
        """Count all of them where nothing else is said."""
        if self.intervals < 0:
            self.intervals = (self.span.end_us - self.span.start_us) // _SAMPLE_US


@dataclass(slots=True)
class _Held:
    """What has come together for one price list of one plan."""

    days: int = 0
    intervals: int = 0
    used: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


def stretches(
    days: Sequence[Day], plans: Mapping[str, Plan], listed: str, kind: Period
) -> tuple[list[Stretch], list[str]]:
    """Give the stretches that are billed by this kind of period, and notes on what none of them has.

    `listed` is the plan of a customer of whom no event tells. Requests and bytes are in every event, and
    are not noted where a plan has no charge for them.
    """
    found: dict[tuple[str, PriceList | None], _Held] = defaultdict(_Held)
    for day, plan in zip(days, plans_of(days, listed), strict=True):
        held = found[plan, _list_on(plans, plan, day.date)]
        held.days += 1
        held.intervals += day.intervals
        for name, units in day.samples.items():
            held.samples[name] += units
        for name, used in day.used.items():
            found[name, _list_on(plans, name, day.date)].used.update(used)
    billed = [
        Stretch(plan, prices, held.days, tuple(_usage(prices, held)), held.intervals)
        for (plan, prices), held in found.items()
        if prices is not None and prices.period is kind
    ]
    return billed, list(_notes(found, plans, kind))


def plans_of(days: Iterable[Day], listed: str) -> list[str]:
    """Give the plan of each day."""
    used = [sorted(name for name, units in day.used.items() if any(units.values())) for day in days]
    known = [names[0] if len(names) == 1 else None for names in used]
    later = listed
    for index in range(len(used) - 1, -1, -1):
        if len(used[index]) > 1:
            known[index] = later if later in used[index] else used[index][-1]
        later = known[index] or later
    held = next((each for each in known if each is not None), listed)
    plans = []
    for each in known:
        held = each or held
        plans.append(held)
    return plans


def _list_on(plans: Mapping[str, Plan], name: str, day: date) -> PriceList | None:
    return list_on(plans[name].prices, day) if name in plans else None


def _usage(prices: PriceList, held: _Held) -> Iterator[Usage]:
    """Give the usage of each meter that the list prices, once."""
    for meter in dict.fromkeys(each.meter for each in prices.tariffs):
        yield Usage(meter.name, held.used[meter.field], tuple(held.samples[meter.field]))


def _notes(
    found: Mapping[tuple[str, PriceList | None], _Held], plans: Mapping[str, Plan], kind: Period
) -> Iterator[str]:
    for (plan, prices), held in found.items():
        if not held.days and not any(held.used.values()):
            continue
        if plan not in plans:
            yield f"plan {plan} is none of the policy's, so nothing of it is billed{_said(held.used)}"
        elif prices is None:
            yield f"plan {plan} has no price then, so nothing of it is billed{_said(held.used)}"
        elif prices.period is not kind:
            yield f"plan {plan} is billed by {prices.period.word}{_said(held.used)}"
        else:
            priced = {each.meter.field for each in prices.tariffs}
            left = Counter({name: held.used[name] for name in held.used.keys() - priced - {*BUILT_IN}})
            if any(left.values()):
                yield f"plan {plan} has no charge for{_said(left, '')}"


def _said(used: Counter[str], joint: str = ":") -> str:
    said = ", ".join(f"{units:,} {name}" for name, units in sorted(used.items()) if units)
    return f"{joint} {said}" if said else ""
