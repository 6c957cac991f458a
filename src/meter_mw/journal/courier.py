"""A courier: brings the events of all holdings to one sink, one attempt a step.

Rule 1: a cursor moves past an event only when the sink has it or it is parked.
Rule 2: a batch of which nothing was accepted is sent again as it was, so that a receiver can tell.
Rule 3: there is no last attempt. The wait grows with full jitter up to a cap; a wait that the
        destination asked for is kept, up to `LONGEST_ORDER`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meter_mw.journal.parked import park
from meter_mw.journal.reading import Entry, read_run
from meter_mw.sinks.base import Permanent, Retry, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meter_mw.journal.holdings import Holding, Holdings
    from meter_mw.journal.segments import Position
    from meter_mw.sinks.base import Outcome, Sink

_log = logging.getLogger("meter_mw.journal")

BATCH_BYTES = 1 << 20
"""A batch ends with the event that brings it to this size."""

LONGEST_ORDER = 3600.0
"""The longest wait in seconds that a destination can order (Retry-After) before it is asked again."""

_DOUBLINGS = 32


class Courier:
    """Steps through the events of the holdings for one sink. Used by one thread at a time.

    `backoff` and `longest_backoff` are the first and the greatest bound of the random wait, in seconds.
    """

    def __init__(
        self,
        sink: Sink,
        holdings: Holdings,
        directory: Path,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        backoff: float,
        longest_backoff: float,
    ) -> None:
        self.sink = sink
        self.behind = False
        """Whether more lay ready at the last attempt than it took."""
        self._holdings = holdings
        self._directory = directory
        self._clock = clock
        self._random = random
        self._backoff = backoff
        self._longest_backoff = longest_backoff
        self._lanes: dict[Holding, _Lane] = {}
        self._failures = 0
        self._not_before = clock()
        self._ordered = False

    def hurry(self) -> None:
        """Make the next attempt now, unless the destination asked for the wait."""
        if not self._ordered:
            self._not_before = self._clock()

    def step(self) -> float | None:
        """Make at most one attempt, and return the seconds until the next; `None` when nothing waits."""
        wait = self._not_before - self._clock()
        if wait > 0:
            return wait
        lanes = self._lanes_in_turn()
        for lane, stop in lanes:
            try:
                ready = lane.load(self.sink.max_batch, stop)
            except OSError as error:
                _log.error("%s: cannot be read: %s", lane.holding.estate.path, error.strerror)
                continue
            if ready:
                self.behind = any(other.is_behind(end) for other, end in lanes)
                self._attempt(lane)
                return max(0.0, self._not_before - self._clock())
            self._save(lane)
        return None

    def _lanes_in_turn(self) -> list[tuple[_Lane, Position]]:
        """Return the lanes, the one that was served last behind the others."""
        current = self._holdings.current()
        stops = dict(current)
        self._lanes = {holding: lane for holding, lane in self._lanes.items() if holding in stops}
        for holding, _ in current:
            if holding not in self._lanes:
                self._lanes[holding] = _Lane(holding, holding.marks[self.sink.name])
        return [(lane, stops[holding]) for holding, lane in self._lanes.items()]

    def _attempt(self, lane: _Lane) -> None:
        outcomes = [
            self._park(entry, outcome) if isinstance(outcome, Permanent) else outcome
            for entry, outcome in zip(lane.pending, self._send(lane.pending), strict=True)
        ]
        failures = [outcome for outcome in outcomes if isinstance(outcome, Retry | Unknown)]
        if len(failures) < len(outcomes):
            self._failures = 0
        if failures:
            self._failures += 1
            self._wait(failures)
        else:
            self._not_before, self._ordered = self._clock(), False
        lane.keep([isinstance(outcome, Retry | Unknown) for outcome in outcomes])
        self._save(lane)
        self._lanes[lane.holding] = self._lanes.pop(lane.holding)

    def _send(self, entries: Sequence[Entry]) -> Sequence[Outcome]:
        try:
            outcomes = self.sink.send([entry.payload for entry in entries])
        except Exception as error:  # a sink may be anybody's  # noqa: BLE001
            _log.exception("sink %s raised", self.sink.name)
            return [Unknown(type(error).__name__)] * len(entries)
        if len(outcomes) != len(entries):
            _log.error("sink %s: %d outcomes for %d events", self.sink.name, len(outcomes), len(entries))
            return [Unknown("a wrong number of outcomes")] * len(entries)
        return outcomes

    def _park(self, entry: Entry, outcome: Permanent) -> Outcome:
        try:
            park(self._directory, self.sink.name, outcome.reason, entry.payload)
        except OSError as error:
            return Retry(reason=f"not parked: {error.strerror}")
        _log.error("sink %s refuses an event for good, it is parked: %.200r", self.sink.name, outcome.reason)
        return outcome

    def _wait(self, failures: Sequence[Retry | Unknown]) -> None:
        retries = [failure for failure in failures if isinstance(failure, Retry)]
        orders = [retry.after for retry in retries if retry.after is not None]
        bound = min(self._longest_backoff, self._backoff * 2.0 ** min(self._failures - 1, _DOUBLINGS))
        wait = self._random() * bound
        if orders:
            # Jitter on top: many processes were told the same moment.
            wait = min(max(orders), LONGEST_ORDER) + self._random() * self._backoff
        self._ordered = bool(orders)
        self._not_before = self._clock() + wait
        _log.warning(
            "sink %s did not take %d events, next attempt in %.2f s: %.200r",
            self.sink.name,
            len(failures),
            wait,
            failures[0].reason,
        )

    def _save(self, lane: _Lane) -> None:
        if lane.cursor == lane.saved:
            return
        try:
            lane.holding.estate.save_cursor(self.sink.name, lane.cursor)
        except OSError as error:
            _log.warning("%s: cursor not kept: %s", lane.holding.estate.path, error.strerror)
        lane.saved = lane.cursor
        self._holdings.passed(lane.holding, self.sink.name, lane.cursor)


class _Lane:
    """Where one sink stands in one holding: what is in hand, and up to where it was read."""

    def __init__(self, holding: Holding, start: Position) -> None:
        self.holding = holding
        self.pending: list[Entry] = []
        self.saved = start
        self._read_to = start
        self._as_it_was = False

    @property
    def cursor(self) -> Position:
        """Return the place before which the sink needs nothing."""
        return self.pending[0].position if self.pending else self._read_to

    def is_behind(self, stop: Position) -> bool:
        """Whether there is more to read."""
        return self._read_to < stop

    def load(self, most: int, stop: Position) -> bool:
        """Fill the batch, and return whether there is anything to send; raises `OSError`."""
        if not self._as_it_was and len(self.pending) < most and self.is_behind(stop):
            live = stop if self.holding.end is None else None
            estate = self.holding.estate.path
            run = read_run(estate, self._read_to, live, count=most - len(self.pending), size=BATCH_BYTES)
            for damage in run.damages:
                _log.error("%s", damage)
            self.pending += run.entries
            self._read_to = run.after
        return bool(self.pending)

    def keep(self, failed: Sequence[bool]) -> None:
        """Drop from the batch what has not failed."""
        self._as_it_was = all(failed)
        self.pending = [entry for entry, kept in zip(self.pending, failed, strict=True) if kept]
