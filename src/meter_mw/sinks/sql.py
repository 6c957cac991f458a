"""The `sql` sink: usage events into the ledger, in SQLite or PostgreSQL, with the effect of exactly once."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from meter_mw.ledger.database import SCHEMES, Database, fault_of_address, within
from meter_mw.ledger.faults import Fault, fault_of
from meter_mw.ledger.records import Record, Unreadable, read
from meter_mw.ledger.retention import GRAINS, Purger, Retention
from meter_mw.ledger.totals import subjects, totals
from meter_mw.ledger.writing import Written, write
from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.kinds import TIMEOUT, Form, Option, Service, Settings, SinkKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Connection

DEFAULT_FILE = "ledger.db"
"""The ledger that the word `sql` alone means: a file beside the journal."""

_log = logging.getLogger("meter_mw.sinks")


class _InDoubt(Exception):
    """The answer to a commit was lost, for the reason that caused this."""


class SqlSink:
    """Writes batches into a ledger; an event that is there already changes nothing.

    The ledger and its tables are created on first use. Raises `ValueError` for an address that cannot be
    used. `source` is whose usage `totals` gives. What the `retention` is over of is purged bit by bit, after
    batches.
    """

    horizon = None

    def __init__(
        self,
        address: str,
        source: str,
        *,
        timeout: float = 10.0,
        max_batch: int = 2000,
        retention: Retention | None = None,
        name: str = "",
    ) -> None:
        fault = fault_of_address(address)
        if fault is not None:
            raise ValueError(fault)
        self._database = Database(address, timeout)
        self._source = source
        self._purger = Purger(retention or Retention())
        self.max_batch = max_batch
        self.name = name or f"sql:{self._database.name}"

    def __repr__(self) -> str:
        return f"SqlSink({self._database.name!r})"

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Write the batch, in halves where an event of it does not fit."""
        entries = [_read(payload) for payload in batch]
        records: dict[str, Record] = {}
        for entry in entries:
            if isinstance(entry, Record):
                records.setdefault(entry.id, entry)
        found = self._store(list(records.values()))
        self._purge()
        outcomes: list[Outcome] = []
        for entry in entries:
            if isinstance(entry, Record):
                outcomes.append(found[entry.id])
                if found[entry.id] == Delivered():
                    found[entry.id] = Duplicate()  # if it comes again in this batch
            else:
                outcomes.append(entry)
        return outcomes

    @property
    def database(self) -> Database:
        """The ledger, for reports."""
        return self._database

    def totals(self, subjects: Sequence[str], start_us: int, end_us: int) -> Mapping[tuple[str, str], int]:
        """Give what the ledger has of this service's usage."""
        with self._reading() as connection:
            return totals(connection, self._source, subjects, start_us, end_us)

    def subjects(self, start_us: int, end_us: int) -> Sequence[str]:
        """Give who has used anything of this service in the hours that [start, end) touches."""
        with self._reading() as connection:
            return subjects(connection, self._source, start_us, end_us)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._database.reading() as connection:
                yield connection
        except Exception as error:  # a driver may raise anything  # noqa: BLE001
            raise ConnectionError(f"{self.name}: {fault_of(error)[1]}") from None

    def _store(self, records: Sequence[Record]) -> dict[str, Outcome]:
        """Give what becomes of each record, by id; after a failure nothing more is written this time."""
        found: dict[str, Outcome] = {}
        stack = [records] if records else []
        while stack:
            part = stack.pop()
            try:
                written = self._write(part)
            except Exception as error:  # a driver may raise anything  # noqa: BLE001
                fault, reason = self._judge(error)
                if fault is not Fault.EVENT:
                    failed: Outcome = (Unknown if isinstance(error, _InDoubt) else Retry)(reason=reason)
                    found |= {record.id: failed for record in part}
                    break
                if len(part) == 1:
                    found[part[0].id] = Permanent(reason)
                else:
                    middle = len(part) // 2
                    stack += [part[middle:], part[:middle]]
            else:
                found |= {each.id: _outcome(each, written) for each in part}
        unsent = Retry(reason="not sent: the attempt before it failed")
        return {record.id: found.get(record.id, unsent) for record in records}

    def _write(self, records: Sequence[Record]) -> Written:
        with self._database.connected() as connection:
            written = write(connection, records)
            try:
                connection.commit()
            except Exception as error:
                raise _InDoubt from error
        return written

    def _purge(self) -> None:
        """Purge a bit, where it is time; what fails is tried again later."""
        now_us = time.time_ns() // 1000
        if not self._purger.is_due(now_us):
            return
        try:
            with self._database.connected() as connection:
                self._purger.purge(connection, now_us)
        except Exception as error:  # a driver may raise anything  # noqa: BLE001
            self._purger.put_off(now_us)
            _log.warning("%s: nothing was purged: %s", self.name, self._judge(error)[1])

    def _judge(self, error: Exception) -> tuple[Fault, str]:
        cause = error.__cause__ if isinstance(error, _InDoubt) else error
        fault, reason = fault_of(cause if isinstance(cause, Exception) else error)
        if self._database.was_cut_off:
            return Fault.PASSING, f"not done within the timeout: {reason}"
        if fault is Fault.OPERATOR:
            _log.error("%s: %s: see to the database, its tables and rights; events wait", self.name, reason)
        return fault, reason


def _outcome(record: Record, written: Written) -> Outcome:
    if record.id in written.stale:
        return Permanent("older than the events that the ledger keeps: nobody can say whether it was counted")
    return Delivered() if record.id in written.new else Duplicate()


def _read(payload: bytes) -> Record | Permanent:
    try:
        return read(payload)
    except Unreadable as reason:
        return Permanent(str(reason))


def address_of(settings: Settings, journal: Path) -> str:
    """Give where the ledger of a sink is: where its settings say, or beside the journal."""
    return settings.get_text("sql") or f"sqlite:///{journal.absolute() / DEFAULT_FILE}"


def _open(settings: Settings, service: Service) -> SqlSink:
    kept = {grain: round(seconds * 1_000_000) for grain, seconds in settings.lengths("retention").items()}
    return SqlSink(
        address_of(settings, service.journal),
        service.source,
        timeout=settings.seconds("timeout"),
        max_batch=settings.count("batch"),
        retention=Retention(**kept),
    )


KIND = SinkKind(
    "sql",
    Option(
        Form.ADDRESS,
        "sqlite:///usage.db or postgresql://user@host/database",
        words=SCHEMES,
        fault=fault_of_address,
        within=within,
    ),
    {
        "timeout": TIMEOUT,
        "batch": Option(
            Form.COUNT, "events in one transaction, 1 to 10000", default=2000, least=1, most=10_000
        ),
        "retention": Option(
            Form.LENGTHS,
            "{events: 90 days, hours: 3 years}, each 1 day to 100 years",
            words=GRAINS,
            least=86_400,
            most=100 * 366 * 86_400,
        ),
    },
    _open,
)
