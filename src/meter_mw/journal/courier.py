"""A courier: brings the events of a supply to one sink, one attempt a step.

Rule 1: an event leaves the courier's hands when the sink has it or it is parked.
Rule 2: a consignment of which nothing was accepted is sent again as it was, so that a receiver can tell.
Rule 3: there is no last attempt. The wait grows with full jitter up to a cap; a wait that the
        destination asked for is kept, up to `LONGEST_ORDER`.
Rule 4: before the first attempt the supply remembers what is about to be sent, and when. An event that
        may be at a destination which forgets ids is not sent again when that may have forgotten its id:
        it is parked, in doubt.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meter_mw.journal.horizons import has_passed
from meter_mw.journal.parked import park
from meter_mw.journal.supply import Backlog, Consignment, Item
from meter_mw.sinks.base import Delivered, Duplicate, Permanent, Retry, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meter_mw.journal.supply import Supply
    from meter_mw.sinks.base import Outcome, Sink

_log = logging.getLogger("meter_mw.journal")

LONGEST_ORDER = 3600.0
"""The longest wait in seconds that a destination can order (Retry-After) before it is asked again."""

FIRST_ALARM = 300.0
"""The age in seconds of the oldest undelivered event that is an error; then twice that, and so on."""

LOOK_EVERY = 5.0
"""Seconds between two looks at how far behind the sink is."""

MOST_IN_HAND = 8
"""Full batches of events that wait for another attempt, beyond which no new event is taken."""

_DOUBLINGS = 32

_DONE = frozenset((Delivered, Duplicate))


@dataclass(frozen=True, slots=True)
class Report:
    """How a sink is doing.

    `done` counts the events that were delivered or parked since the courier began, `failures` the
    attempts since the last one of which anything was; `error` is what the last failure said.
    """

    sink: str
    backlog: Backlog
    done: int
    failures: int
    error: str | None


@dataclass(slots=True, eq=False)
class _Hand:
    """A consignment, how often in a row it failed, and when it may be sent again.

    `seen` is how many attempts of the courier were accepted when it failed last.
    """

    consignment: Consignment
    failures: int = 0
    not_before: float = 0.0
    seen: int = 0


class Courier:
    """Steps through the events of a supply for one sink. Used by one thread at a time.

    `backoff` and `longest_backoff` are the first and the greatest bound of the random wait, in seconds.
    `clock` never goes back; `now` gives seconds since 1970. What is parked is kept in `directory`.
    """

    def __init__(
        self,
        sink: Sink,
        supply: Supply,
        directory: Path,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        random: Callable[[], float],
        backoff: float,
        longest_backoff: float,
    ) -> None:
        self.sink = sink
        self.behind = False
        """Whether more lay ready at the last attempt than it took."""
        self.takes_news = True
        """Whether new events would be sent before the wait that `step` gave is over."""
        self._supply = supply
        self._directory = directory
        self._clock = clock
        self._now = now
        self._random = random
        self._backoff = backoff
        self._longest_backoff = longest_backoff
        self._hands: list[_Hand] = []
        self._done = 0
        self._accepted = 0
        self._failures = 0
        self._error: str | None = None
        self._backlog = Backlog()
        self._alarm = FIRST_ALARM
        self._not_before = self._look_at = clock()
        self._ordered = False

    @property
    def report(self) -> Report:
        """How the sink is doing. May be asked by any thread."""
        return Report(self.sink.name, self._backlog, self._done, self._failures, self._error)

    def hurry(self) -> None:
        """Make the next attempt now, unless the destination asked for the wait."""
        if not self._ordered:
            self._not_before = self._clock()
            for hand in self._hands:
                hand.not_before = self._not_before

    def step(self) -> float | None:
        """Make at most one attempt, and return the seconds until the next; `None` when nothing waits."""
        wait = self._step()
        # After the attempt: to count a long backlog takes a while, and the first event is not to wait for it.
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._look()
        return wait

    def _step(self) -> float | None:
        now = self._clock()
        self.takes_news = self._not_before <= now
        if not self.takes_news:
            return self._not_before - now
        hand = self._next(now)
        if hand is not None:
            self._attempt(hand)
            return max(0.0, self._not_before - self._clock())
        if self._hands:
            return min(hand.not_before for hand in self._hands) - now
        self._backlog, self._alarm = Backlog(), FIRST_ALARM
        return None

    def _next(self, now: float) -> _Hand | None:
        """Return what failed and may be sent again, or else what is new."""
        for hand in self._hands:
            if hand.not_before <= now:
                return hand
        in_hand = sum(len(hand.consignment.items) for hand in self._hands)
        if in_hand > (MOST_IN_HAND - 1) * self.sink.max_batch:
            return None
        consignment = self._supply.take(self.sink.max_batch)
        if consignment is None:
            return None
        self._hands.append(_Hand(consignment))
        return self._hands[-1]

    def _attempt(self, hand: _Hand) -> None:
        consignment = hand.consignment
        self.behind = consignment.more
        before = len(consignment.items)
        failures = self._set_aside(consignment) or self._send(consignment)
        if failures is None:
            self._hands.remove(hand)
            return
        accepted = len(consignment.items) < before
        if accepted:
            self._failures = hand.failures = 0
            self._accepted += 1
        if failures:
            self._wait(hand, failures, accepted=accepted)
        else:
            self._not_before, self._ordered, self._error = self._clock(), False, None
        self._keep(consignment)
        self._done += before - len(consignment.items)
        if not consignment.items:
            self._hands.remove(hand)

    def _set_aside(self, consignment: Consignment) -> list[Retry | Unknown]:
        """Park what must not be sent again, and return why that failed, if it did."""
        if self.sink.horizon is None:
            return []
        now = self._now()
        stays: list[Item] = []
        failures: list[Retry | Unknown] = []
        for item in consignment.items:
            if item.sent is None or not has_passed(self.sink.horizon, item.sent, now):
                stays.append(item)
                continue
            at = datetime.fromtimestamp(item.sent, UTC).isoformat(timespec="seconds")
            why = f"in doubt: sent at {at}, the destination forgets ids after {self.sink.horizon:.0f} s"
            outcome = self._park(item, Permanent(why), sent=item.sent)
            if isinstance(outcome, Retry):
                stays.append(item)
                failures.append(outcome)
        consignment.items = stays
        return failures

    def _send(self, consignment: Consignment) -> list[Retry | Unknown] | None:
        """Send what is in hand; leave of it what failed, and return how.

        None where another process has it now.
        """
        items = consignment.items
        if not items:
            return []
        moments = [item.sent for item in items]
        now = self._now()
        for item in items:
            item.sent = now if item.sent is None else item.sent
        kept = self._keep(consignment)
        if not consignment.items:
            return None
        if not kept and self.sink.horizon is not None:
            outcomes: Sequence[Outcome] = [Retry(reason="not sent: no note of it can be kept")] * len(items)
        else:
            outcomes = self._outcomes(items)
        rest: list[Item] = []
        failures: list[Retry | Unknown] = []
        for item, moment, answer in zip(items, moments, outcomes, strict=True):
            if type(answer) in _DONE:
                continue
            outcome = self._park(item, answer) if isinstance(answer, Permanent) else answer
            if isinstance(outcome, Retry):
                item.sent = moment
            if isinstance(outcome, (Retry, Unknown)):
                rest.append(item)
                failures.append(outcome)
        consignment.items = rest
        return failures

    def _outcomes(self, items: Sequence[Item]) -> Sequence[Outcome]:
        try:
            outcomes = self.sink.send([item.payload for item in items])
        except Exception as error:  # a sink may be anybody's  # noqa: BLE001
            _log.exception("sink %s raised", self.sink.name)
            return [Unknown(type(error).__name__)] * len(items)
        if len(outcomes) != len(items):
            _log.error("sink %s: %d outcomes for %d events", self.sink.name, len(outcomes), len(items))
            return [Unknown("a wrong number of outcomes")] * len(items)
        return outcomes

    def _park(self, item: Item, outcome: Permanent, *, sent: float | None = None) -> Outcome:
        try:
            park(self._directory, self.sink.name, outcome.reason, item.payload, sent=sent)
        except OSError as error:
            return Retry(reason=f"not parked: {error.strerror}")
        _log.error("sink %s: an event is parked: %.200r", self.sink.name, outcome.reason)
        return outcome

    def _wait(self, hand: _Hand, failures: Sequence[Retry | Unknown], *, accepted: bool) -> None:
        """Put off what failed; the sink altogether where it took nothing, or asked for it."""
        self._error = failures[0].reason
        # What failed again, while others were accepted, is no trouble of the sink's.
        well = accepted or (hand.failures > 0 and hand.seen < self._accepted)
        hand.seen = self._accepted
        hand.failures += 1
        self._failures += not well
        now, chance = self._clock(), self._random()
        hand.not_before = now + chance * self._bound(hand.failures)
        retries = [failure for failure in failures if isinstance(failure, Retry)]
        orders = [retry.after for retry in retries if retry.after is not None]
        wait = 0.0 if well else chance * self._bound(self._failures)
        if orders:
            # Jitter on top: many processes were told the same moment.
            wait = min(max(orders), LONGEST_ORDER) + chance * self._backoff
            hand.not_before = now + wait
        self._ordered = bool(orders)
        self._not_before = now + wait
        _log.warning(
            "sink %s did not take %d events, which are sent again in %.2f s: %.200r",
            self.sink.name,
            len(failures),
            hand.not_before - now,
            self._error,
        )

    def _bound(self, failures: int) -> float:
        return min(self._longest_backoff, self._backoff * 2.0 ** min(failures - 1, _DOUBLINGS))

    def _keep(self, consignment: Consignment) -> bool:
        try:
            self._supply.keep(consignment)
        except OSError as error:
            _log.warning("sink %s: no note of a batch can be kept: %s", self.sink.name, error.strerror)
            return False
        return True

    def _look(self) -> None:
        """Learn how far behind the sink is, and say so when that is an error."""
        self._backlog = self._supply.backlog()
        oldest = self._backlog.oldest
        age = 0.0 if oldest is None else self._now() - oldest
        if age < FIRST_ALARM:
            self._alarm = FIRST_ALARM
        if age >= self._alarm:
            _log.error(
                "sink %s: %d events wait, the oldest for %.0f s: %.200r",
                self.sink.name,
                self._backlog.events,
                age,
                self._error,
            )
            while self._alarm <= age:
                self._alarm *= 2
