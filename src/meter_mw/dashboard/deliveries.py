"""The delivery page: what of this machine's journal waits for each sink, and what is parked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meter_mw.journal.parked import read_parked
from meter_mw.journal.surveying import survey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from meter_mw.dashboard.sources import Sources
    from meter_mw.journal.parked import Parked
    from meter_mw.journal.surveying import Survey

_MOST = 50
"""Parked events that are shown, the newest."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the delivery page shows; `fault` says why the journal cannot be read, "" where it can."""

    folder: Path
    estates: Sequence[Survey]
    waiting: Mapping[str, int]
    parked: Mapping[str, int]
    newest: Sequence[Parked]
    fault: str = ""

    @property
    def sinks(self) -> list[str]:
        """Every sink that has begun, or has something parked."""
        return sorted({*self.waiting, *self.parked})

    @property
    def is_well(self) -> bool:
        """Whether nothing is parked, and the journal can be read."""
        return not self.fault and not self.parked


def delivery(sources: Sources) -> Delivery:
    """Give the delivery page. Files are read, and none is changed."""
    folder = sources.policy.events.journal
    try:
        estates = list(survey(folder)) if folder.exists() else []
        parked = list(read_parked(folder))
    except OSError as error:
        return Delivery(folder, [], {}, {}, [], f"{error.filename or folder}: {error.strerror}")
    waiting: Counter[str] = Counter()
    for each in estates:
        waiting.update(each.lags)
    newest = sorted(parked, key=lambda each: -each.at)[:_MOST]
    return Delivery(folder, estates, dict(waiting), Counter(each.sink for each in parked), newest)
