"""A meter on hand-made limits, driven by hand, and what reaches its sink."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meter_mw.admission import Answer
from meter_mw.meter import Meter
from meter_mw.policy.terms import OnExhausted
from support.policies import EGRESS, cap, policy, request, sink

if TYPE_CHECKING:
    from pathlib import Path

    from meter_mw.exchange import Exchange
    from meter_mw.policy.terms import Limit


class Bench:
    """A meter, and what reaches its sink."""

    def __init__(self, folder: Path, limits: tuple[Limit, ...], **options: Any) -> None:
        self.usage = folder / "usage.jsonl"
        sinks = [sink("file", self.usage)]
        self.meter = Meter(policy(*limits, journal=folder / "journal", sinks=sinks, **options))

    def begin(self, **fields: Any) -> Exchange:
        """Take a request in."""
        admission = self.meter.admit(request(key="k", **fields))
        assert admission.answer is Answer.ALLOWED
        exchange = self.meter.exchange(admission, "GET")
        exchange.begin(200, None)
        return exchange

    def events(self) -> list[dict[str, object]]:
        """Have all delivered, and give the data of what arrived, with the type of each."""
        assert self.meter.flush()
        lines = self.usage.read_text().splitlines() if self.usage.exists() else []
        return [{"type": each["type"], **each["data"]} for each in map(json.loads, lines)]

    def used(self) -> dict[str, int | None]:
        """Give what is counted of each limit."""
        found = self.meter.usage(request(key="k"))
        return {each.standing.line.limit.name: each.standing.used for each in found.limits}  # type: ignore[union-attr]


def egress(units: int, *, cut: bool = False) -> Limit:
    """Make a cap on response bytes that holds 100 at a time."""
    ends = OnExhausted.CUT if cut else OnExhausted.FINISH
    return replace(cap(units, meter=EGRESS, name="egress"), reserve=100, on_exhausted=ends)
