"""The whole reconciliation: the journal, the sinks that can be asked, and the counters of the store."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from meter_mw.reconciling.counters import caller_of, counters
from meter_mw.reconciling.rows import JOURNAL, Amount, Row, rows, silent
from meter_mw.reconciling.sums import Adding
from meter_mw.sinks.aggregate import Aggregate
from meter_mw.sinks.base import Listing, Sink, Totals
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meter_mw.policy.policy import Policy
    from meter_mw.reconciling.counters import Counted
    from meter_mw.reconciling.sums import Sums
    from meter_mw.stores.port import Store

STORE = "store"


@runtime_checkable
class Ledger(Sink, Totals, Listing, Protocol):
    """A sink that finance stands on: it can be asked for totals, and knows who has any."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Compares one window of one policy's usage at every place that can be asked.

    What was recorded is told by the ledger where the policy has one (the first sink of kind `sql`), with
    what is under way to it, and else by the journal, which holds what is not older than its retention.
    """

    policy: Policy
    sinks: Sequence[Sink]
    ledger: Ledger | None
    subjects: Sequence[str] = ()
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By the name of a sink the fields that it counts, where it counts some alone."""

    def rows(self, window_us: tuple[int, int], now_us: int) -> Iterator[Row]:
        """Compare the sinks, and the journal with the ledger.

        Raises `OSError`, and `LookupError` where nothing tells any more what was recorded.
        """
        is_kept = self._is_kept(window_us[0], now_us)
        if self.ledger is None and not is_kept:
            raise LookupError(
                "the journal keeps nothing of that time (events.retention), and no sink is a ledger"
            )
        sums = self._sums(window_us)
        recorded = self._recorded(sums, window_us)
        if self.ledger is not None and is_kept:
            yield from self._compared(JOURNAL, window_us, recorded, sums.recorded, sums)
        for sink in self.sinks:
            if sink is not self.ledger and isinstance(sink, Totals):
                yield from self._asked(sink, window_us, recorded, sums)

    def counted(self, store: Store, now_us: int) -> Iterator[Row]:
        """Compare the store: each subject's caps, since their windows opened; raises `OSError`.

        Without a ledger those are left out of whose windows the journal has not all. What is recorded while
        this goes on is a drift, of which the next look knows nothing.
        """
        sums = self._sums((0, now_us))
        by_start: dict[int, list[Counted]] = defaultdict(list)
        for subject in self._subjects(sums, (0, now_us)):
            caller = caller_of(self.policy, subject, *sums.plans.get(subject, (None, None)))
            try:
                found = list(counters(self.policy, store, caller))
            except StoreUnavailable as outage:
                yield from silent(STORE, (0, now_us), {Amount(subject, ""): 0}, str(outage))
                continue
            for each in found:
                if self.ledger is not None or self._is_kept(each.start_us, now_us):
                    by_start[each.start_us].append(each)
        for start_us, counts in sorted(by_start.items()):
            yield from self._in_window(counts, (start_us, max(each.now_us for each in counts) + 1))

    def _in_window(self, counts: Sequence[Counted], window_us: tuple[int, int]) -> Iterator[Row]:
        """Compare what the store counts in one window; that is read once for all."""
        sums = self._sums(window_us)
        recorded = self._recorded(sums, window_us)
        for each in counts:
            amount = Amount(each.subject, each.field)
            yield from rows(
                f"{STORE}: {each.limit}",
                window_us,
                {amount: recorded.get(amount, 0)},
                {amount: each.used},
                in_flight={},
                parked={},
                late=sums.late,
            )

    def _is_kept(self, start_us: int, now_us: int) -> bool:
        """Say whether the journal surely has all of what was recorded from a time on."""
        return start_us >= now_us - self.policy.events.retention_us

    def _subjects(self, sums: Sums, window_us: tuple[int, int]) -> list[str]:
        """Give whose usage is compared: those that were named, or all that anyone knows of."""
        if self.subjects:
            return sorted({*self.subjects})
        listed = {entry.subject for entry in self.policy.keys.values()}
        has = () if self.ledger is None else self.ledger.subjects(*window_us)
        return sorted({*sums.plans, *listed, *has})

    def _sums(self, window_us: tuple[int, int]) -> Sums:
        policy = self.policy
        adding = Adding(policy.events.journal, policy.source, policy.quantities, window_us)
        sums = adding.read([sink.name for sink in self.sinks])
        for sink in self.sinks:
            if isinstance(sink, Aggregate):
                waiting = sink.windows.waiting(*window_us)
                sums.in_flight[sink.name].update({Amount(*each): units for each, units in waiting.items()})
        return sums

    def _recorded(self, sums: Sums, window_us: tuple[int, int]) -> Mapping[Amount, int]:
        """Give what was recorded; raises `ConnectionError` where the ledger does not answer."""
        if self.ledger is None:
            return self._chosen(sums.recorded)
        totals = self.ledger.totals(self._subjects(sums, window_us), *window_us)
        recorded = Counter({Amount(*each): units for each, units in totals.items()})
        name = self.ledger.name
        recorded.update(sums.in_flight[name])
        recorded.update(sums.parked[name])
        return self._chosen(recorded)

    def _asked(
        self, sink: Sink, window_us: tuple[int, int], recorded: Mapping[Amount, int], sums: Sums
    ) -> Iterator[Row]:
        if not isinstance(sink, Totals):
            return
        if sink.name in self.fields:
            counted = self.fields[sink.name]
            recorded = {amount: units for amount, units in recorded.items() if amount.field in counted}
        subjects = sorted({amount.subject for amount in recorded} | {*self.subjects})
        try:
            totals = sink.totals(subjects, *window_us) if subjects else {}
        except ConnectionError as error:
            yield from silent(sink.name, window_us, recorded, str(error))
            return
        found = {Amount(*each): units for each, units in totals.items()}
        yield from self._compared(sink.name, window_us, recorded, found, sums)

    def _compared(
        self,
        place: str,
        window_us: tuple[int, int],
        recorded: Mapping[Amount, int],
        found: Mapping[Amount, int],
        sums: Sums,
    ) -> Iterator[Row]:
        yield from rows(
            place,
            window_us,
            recorded,
            self._chosen(found),
            in_flight=sums.in_flight[place],
            parked=sums.parked[place],
            late=sums.late,
        )

    def _chosen(self, amounts: Mapping[Amount, int]) -> Mapping[Amount, int]:
        if not self.subjects:
            return amounts
        return {amount: units for amount, units in amounts.items() if amount.subject in self.subjects}
