"""Aggregating: usage goes into windows first, and to the sink as a record of each window that was sealed.

For destinations that do not take single events, or not so many. A kind of sink offers it by having
`WINDOW_OPTIONS` among its options, and passing what it opens through `aggregated`. The sealed records go
the way of all events: a courier brings them to the sink, from a supply of their own (journal/sealed.py).
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING

from meter_mw.model import WINDOW_EVENT
from meter_mw.sinks.base import Delivered, Outcome, Permanent, Retry, Totals
from meter_mw.sinks.kinds import Form, Option
from meter_mw.sinks.translating import Refused, read_usage
from meter_mw.sinks.windows import Windows
from meter_mw.sinks.windows.records import Addition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meter_mw.sinks.base import Sink
    from meter_mw.sinks.kinds import Service, Settings
    from meter_mw.sinks.translating import Usage

_DAY_S = 86_400

WINDOW_OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "window": Option(
            Form.LENGTH,
            "a time that divides a day, from 1 minute to 1 day, such as 1 hour",
            least=60,
            most=_DAY_S,
        ),
        "lateness": Option(
            Form.LENGTH, "a time such as 5 minutes, 1 s to 1 day", default=300.0, least=1, most=_DAY_S
        ),
        "remember": Option(
            Form.LENGTH,
            "a time such as 7 days, 3 to 60 days",
            default=7.0 * _DAY_S,
            least=3 * _DAY_S,
            most=60 * _DAY_S,
        ),
    }
)
"""`window` turns it on; `lateness` is waited for late events; so long ids are remembered."""


class Aggregate:
    """Adds events to windows in place of a sink, which gets the sealed records.

    An event is delivered when its window has it on the disk. `fields` are the quantities that are added.
    Its name is the sink's, so a cursor holds when aggregating begins or ends. It has no horizon: an event
    whose id it does not know any more it refuses, and adds none twice.
    """

    max_batch = 1000
    horizon = None

    def __init__(
        self,
        sink: Sink,
        windows: Windows,
        fields: Sequence[str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.sink = sink
        self.windows = windows
        self.name = sink.name
        self._fields = tuple(fields)
        self._clock = clock

    def __repr__(self) -> str:
        return f"Aggregate({self.sink!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Add the events, all together. A record that was parked goes to the sink as it is."""
        found: list[Outcome] = [Delivered()] * len(batch)
        additions: dict[int, Addition] = {}
        for place, payload in enumerate(batch):
            try:
                usage = read_usage(payload, self._fields)
            except Refused as refusal:
                found[place] = Permanent(str(refusal))
                continue
            if usage is not None and usage.type == WINDOW_EVENT:
                (found[place],) = self.sink.send([payload])
                self.sink.close()
            elif usage is not None and any(usage.quantities.values()):
                additions[place] = _addition(usage)
        for place, outcome in zip(additions, self._added(list(additions.values())), strict=True):
            found[place] = outcome
        return found

    def horizon_of(self, payload: bytes) -> float | None:
        """Give the horizon for what was parked: the sink's for a record, none for an event."""
        try:
            usage = read_usage(payload, ())
        except Refused:
            return None
        return self.sink.horizon if usage is not None and usage.type == WINDOW_EVENT else None

    def close(self) -> None:
        """Nothing is held between batches. The sink belongs to the courier of the sealed records."""

    def _added(self, additions: Sequence[Addition]) -> Sequence[Outcome]:
        if not additions:
            return []
        try:
            return self.windows.add(additions, int(self._clock() * 1_000_000))
        except OSError as error:
            return [Retry(reason=f"{self.windows.folder}: {error.strerror}")] * len(additions)


class _AskedAggregate(Aggregate):
    """One whose sink can be asked for totals."""

    def totals(self, subjects: Sequence[str], start_us: int, end_us: int) -> Mapping[tuple[str, str], int]:
        """Give what the sink's destination has."""
        if not isinstance(self.sink, Totals):
            raise TypeError(f"{self.sink!r} has no totals")
        try:
            return self.sink.totals(subjects, start_us, end_us)
        finally:
            self.sink.close()


def aggregated(sink: Sink, settings: Settings, service: Service, fields: Sequence[str]) -> Sink:
    """Put windows before a sink where the settings ask for it; raises `ValueError`."""
    if not settings.has("window"):
        return sink
    length = settings.seconds("window")
    if _DAY_S % length:
        raise ValueError(f"{sink.name}: a window of {length:g} s does not divide a day")
    windows = Windows(
        service.journal / folder_of(sink.name),
        service.source,
        length_us=int(length * 1_000_000),
        lateness_us=int(settings.seconds("lateness") * 1_000_000),
        remember_us=int(settings.seconds("remember") * 1_000_000),
    )
    return (_AskedAggregate if isinstance(sink, Totals) else Aggregate)(sink, windows, fields)


def folder_of(name: str) -> str:
    """Give the name of the folder, in the journal's, where the windows of a sink are."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:48]
    return f"windows-{readable}-{sha256(name.encode()).hexdigest()[:12]}"


def _addition(usage: Usage) -> Addition:
    moment_us = round(datetime.fromisoformat(usage.time).timestamp() * 1_000_000)
    quantities = {field: units for field, units in usage.quantities.items() if units}
    return Addition(usage.id, usage.subject, moment_us, quantities)
