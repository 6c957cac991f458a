"""Requests per second of real servers, and how long each took: every turn has a fresh server."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.figures import Figures
from bench.load import generate
from bench.serving import CONNECTIONS, server_cores, serving

if TYPE_CHECKING:
    from bench.contenders import Contender
    from bench.workload import Setting


@dataclass(frozen=True, slots=True)
class Effort:
    """How long it goes on: rounds, and requests in each turn after a warm-up.

    After `seconds` no further round is begun, if there were `least`.
    """

    rounds: int
    warmup: int
    requests: int
    seconds: float = 600.0
    least: int = 1


class Served:
    """What came of it: requests per second, µs of a request, and how busy the load generator was at most."""

    def __init__(self) -> None:
        self.per_second = Figures()
        self.p50_us = Figures()
        self.p99_us = Figures()
        self.busiest = 0.0
        self.amiss: dict[str, float] = {}
        """The largest share of answers that were not good, where there were any; they were not counted."""

    def measure(self, contenders: list[Contender], settings: list[Setting], effort: Effort) -> None:
        """Have everyone take a turn in every setting, round after round."""
        end = time.monotonic() + effort.seconds
        for turn in range(effort.rounds):
            if turn >= effort.least and time.monotonic() > end:
                break
            for setting in settings:
                for each in contenders:
                    if each.fits(setting) and each.has_server:
                        self._turn(each, setting, effort)

    def _turn(self, contender: Contender, setting: Setting, effort: Effort) -> None:
        with serving(contender, setting, server_cores()) as server:
            outcome = generate(
                server.port,
                connections=CONNECTIONS[contender.edge],
                warmup=effort.warmup,
                requests=effort.requests,
                fields=contender.fields,
            )
        self.per_second.add(contender, setting, outcome.per_second)
        self.p50_us.add(contender, setting, outcome.p50_us)
        self.p99_us.add(contender, setting, outcome.p99_us)
        self.busiest = max(self.busiest, outcome.busy)
        if outcome.amiss:
            name = f"{contender.title} ({setting.title})"
            self.amiss[name] = max(self.amiss.get(name, 0), outcome.amiss)
