"""What the pages are told by: the ledger, and where they answer the store and the registry."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from meter_mw.dashboard.periods import start_of_day
from meter_mw.ledger.daily import extent, kept_since
from meter_mw.ledger.database import SCHEMES, Database, fault_of_address, within
from meter_mw.ledger.records import DAY_US
from meter_mw.meter import open_stores
from meter_mw.model import MeterError
from meter_mw.registry.calls import Asker
from meter_mw.registry.office import Office, RegistryError
from meter_mw.registry.records import GarbledRecord, entry
from meter_mw.reporting import usage_of
from meter_mw.signals.caps import day_of
from meter_mw.signals.looking import look
from meter_mw.sinks.sql import address_of
from meter_mw.stores.port import StoreUnavailable
from meter_mw.talk import Peek

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from meter_mw.policy.policy import Caller, Policy
    from meter_mw.policy.terms import KeyEntry
    from meter_mw.reporting import Usage
    from meter_mw.signals.signal import Signal

_PATIENCE = 20.0
"""Seconds that a look into the ledger may take."""

_SIGNALS_US = 600_000_000
"""How long signals are shown again (µs): finding them looks at the days of everybody."""

SIGNAL_DAYS = 14
"""Days before today whose signals are shown."""


class NoLedger(MeterError):
    """The ledger is not there; says where it was looked for."""


class Sources:
    """Tells pages what they show. Thread-safe: one page asks at a time.

    Raises MeterError where the policy, or the address, names no ledger.
    """

    def __init__(self, policy: Policy, address: str | None, clock: Callable[[], int]) -> None:
        url = _address(policy) if address is None else address
        fault = (
            fault_of_address(url) if url.partition(":")[0] in SCHEMES else f"expected {', '.join(SCHEMES)}"
        )
        if fault is not None:
            raise MeterError(f"the address of the ledger: {fault}")
        self.policy = policy
        self._url = within(url, Path.cwd())
        self._database = Database(self._url, _PATIENCE)
        self._clock = clock
        self._lock = threading.RLock()
        self._store = None if policy.store.startswith("memory:") else open_stores(policy.store)[0]
        self._signals: tuple[int, list[Signal]] | None = None

    @property
    def now_us(self) -> int:
        """The present, in µs since 1970."""
        return self._clock() // 1000

    @property
    def has_store(self) -> bool:
        """Whether there is a store that others than its own process can ask."""
        return self._store is not None

    @contextmanager
    def ledger(self) -> Iterator[Database]:
        """Give the ledger to one page. Raises NoLedger: to look must not make one."""
        path = self._url.removeprefix("sqlite:///")
        with self._lock:
            if path != self._url and not Path(path).exists():
                raise NoLedger(f"{path}: there is no ledger yet; the sink makes it with the first event")
            yield self._database

    def entries(self) -> Mapping[str, KeyEntry] | None:
        """Give the subjects of the registry; None where the store does not tell."""
        if not self.policy.registry:
            return {}
        with self._lock:
            if not isinstance(self._store, Asker):
                return {}
            try:
                found = Office(self.policy, self._store).entries()
                return {each.key.subject: entry(each.key.subject, each.terms, self.policy) for each in found}
            except (RegistryError, GarbledRecord, StoreUnavailable):
                return None

    def usage(self, caller: Caller) -> Usage | None:
        """Say how a caller stands with its limits; None where the store does not tell. Changes nothing."""
        store = self._store
        if store is None:
            return None
        with self._lock:
            talk = usage_of(self.policy, caller, store.now_us())
            try:
                command = next(talk)
                while isinstance(command, Peek):
                    try:
                        tally = store.peek(command.tag, command.charges)
                    except StoreUnavailable as outage:
                        command = talk.throw(outage)
                    else:
                        command = talk.send(tally)
            except StopIteration as end:
                found: Usage | None = end.value
                return found
        return None

    def signals(self, database: Database) -> Sequence[Signal]:
        """Give the signals of the last days, the newest first; they may be some minutes old."""
        now_us = self.now_us
        if self._signals is None or not 0 <= now_us - self._signals[0] < _SIGNALS_US:
            days = self._judged(database, now_us)
            found = [] if days is None else look(database, self.policy, self.entries() or {}, *days)
            found.sort(key=lambda each: (-each.day.toordinal(), -each.score, each.subject))
            self._signals = now_us, found
        return self._signals[1]

    def close(self) -> None:
        """Let go of connections."""
        with self._lock:
            self._database.close()
            if self._store is not None:
                self._store.close()

    def _judged(self, database: Database, now_us: int) -> tuple[date, date] | None:
        """Give the days that are over and that the ledger has."""
        known = extent(database, source=self.policy.source)
        if known is None:
            return None
        kept_us = kept_since(database, "days") or 0
        today_us = start_of_day(now_us)
        last = min(day_of(today_us), day_of(known[1])) - 1
        first = max(day_of(today_us - SIGNAL_DAYS * DAY_US), day_of(max(kept_us, known[0])))
        return (date.fromordinal(first), date.fromordinal(last)) if first <= last else None


def _address(policy: Policy) -> str:
    rule = next((each for each in policy.events.sinks if each.kind.word == "sql"), None)
    if rule is None:
        raise MeterError(
            "events.sinks: found no sink of kind sql; the dashboard shows a ledger: write - sql, or name one"
        )
    return address_of(rule.settings, policy.events.journal)
