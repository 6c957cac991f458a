"""Windows: usage added up by subject and span of time, and sealed when the span is over.

Rule 1: an event is added once, by its id, whoever brings it again and however late.
Rule 2: what is sealed is on the disk with its id, its time and its quantities before it is first sent, and
        none of them changes after. Usage that comes later makes another record of the same span.
Rule 3: an id is forgotten with its window, `remember` after that was over; from then on an event of that
        window is refused. So no event is added of which nobody knows whether it was added before.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from meter_mw.sinks.base import Delivered, Duplicate, Outcome, Permanent
from meter_mw.sinks.windows.database import Database
from meter_mw.sinks.windows.records import Addition, Sealed, Window, shown

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

FARTHEST_US = 300_000_000
"""How far ahead of this machine's clock an event may be, as clocks differ."""

_DAY_US = 86_400_000_000
_SEALED_AT_ONCE = 1000
_PRUNED_AT_ONCE = 20
_FLOOR_STEP_US = 60_000_000


class Windows:
    """The windows of one sink in `folder`, which the processes of a machine share.

    `source` is the CloudEvents source of the records. Windows are `length_us` long and begin at whole
    multiples of it since 1970, in UTC. One is sealed `lateness_us` after it is over, or after it was
    opened late. Every method raises `OSError` when the disk does not take it, and has changed nothing then.
    """

    def __init__(
        self, folder: Path, source: str, *, length_us: int, lateness_us: int, remember_us: int
    ) -> None:
        self.folder = folder
        self._database = Database(folder)
        self._source = source
        self._length_us = length_us
        self._lateness_us = lateness_us
        self._remember_us = remember_us

    def __repr__(self) -> str:
        return f"Windows({str(self.folder)!r})"

    def add(self, additions: Sequence[Addition], now_us: int) -> list[Outcome]:
        """Add events to their windows, all of them durably or none, and answer for each."""
        with self._database.writing() as tables:
            ((floor_us, newest_us),) = tables.execute("SELECT floor_us, newest_us FROM book")
            touched: dict[tuple[str, int], Window] = {}
            outcomes = [
                self._refusal(each, floor_us, now_us) or self._add(tables, touched, each, now_us)
                for each in additions
            ]
            for each in touched.values():
                tables.execute(
                    "UPDATE windows SET last_us = ?, events = ?, sums = ? WHERE number = ?",
                    (each.last_us, each.events, json.dumps(each.sums), each.number),
                )
            newest_us = max([newest_us, *(each.last_us for each in touched.values())])
            tables.execute("UPDATE book SET newest_us = ?", (newest_us,))
        return outcomes

    def is_due(self, now_us: int) -> bool:
        """Whether a window is to be sealed, or a record to be sent."""
        with self._database.reading() as tables:
            if tables is None:
                return False
            ((found,),) = tables.execute(
                "SELECT EXISTS (SELECT 1 FROM windows WHERE record IS NULL AND due_us <= ?)"
                " OR EXISTS (SELECT 1 FROM waiting)",
                (now_us,),
            )
        return bool(found)

    def seal(self, now_us: int) -> None:
        """Seal what is due, and forget what is old. A window that came to nothing is sealed and not sent."""
        with self._database.writing() as tables:
            ((token,),) = tables.execute("SELECT token FROM book")
            due = tables.execute(
                "SELECT number, subject, start_us, end_us, last_us, events, sums FROM windows"
                " WHERE record IS NULL AND due_us <= ? LIMIT ?",
                (now_us, _SEALED_AT_ONCE),
            ).fetchall()
            for window in map(_window, due):
                tables.execute(
                    "UPDATE windows SET record = ?, done = ? WHERE number = ? AND record IS NULL",
                    (window.record(self._source, token), not any(window.sums.values()), window.number),
                )
            self._prune(tables, now_us)

    def batch(self, most: int, in_hand: Collection[int]) -> tuple[int, list[Sealed]] | None:
        """Give the next batch of records and its number, one that was given before as it was then.

        `in_hand` are the numbers of those that are not wanted; None when there is no other.
        """
        with self._database.writing() as tables:
            given = tables.execute(
                "SELECT DISTINCT batch FROM waiting WHERE batch IS NOT NULL ORDER BY batch"
            ).fetchall()
            batch = next((number for (number,) in given if number not in in_hand), None)
            if batch is None:
                batch = _new_batch(tables, most)
            if batch is None:
                return None
            rows = tables.execute(
                "SELECT number, record, sent FROM waiting WHERE batch = ? ORDER BY number", (batch,)
            )
            return batch, [Sealed(*row) for row in rows]

    def keep(self, batch: int, moments: Mapping[int, float | None]) -> None:
        """Remember which records of a batch are still to be sent, and since when each is in doubt."""
        with self._database.writing() as tables:
            rows = tables.execute("SELECT number, sent FROM waiting WHERE batch = ?", (batch,)).fetchall()
            done = [(number,) for number, _ in rows if number not in moments]
            tables.executemany("UPDATE windows SET done = 1 WHERE number = ?", done)
            doubts = [(moments[n], n) for n, sent in rows if n in moments and moments[n] != sent]
            tables.executemany("UPDATE windows SET sent = ? WHERE number = ?", doubts)

    def backlog(self) -> tuple[int, int | None]:
        """Tell how many sealed records wait, and since when the oldest may be sent (µs since 1970)."""
        with self._database.reading() as tables:
            if tables is None:
                return 0, None
            ((count, oldest),) = tables.execute("SELECT count(*), min(due_us) FROM waiting")
        return count, oldest

    def waiting(self, start_us: int, end_us: int) -> dict[tuple[str, str], int]:
        """Give what the sink does not surely have: units by subject and field.

        Of windows that begin in [start, end).
        """
        found: Counter[tuple[str, str]] = Counter()
        with self._database.reading() as tables:
            if tables is not None:
                rows = tables.execute(
                    "SELECT subject, sums FROM windows WHERE NOT done AND start_us >= ? AND start_us < ?",
                    (start_us, end_us),
                )
                for subject, sums in rows:
                    found.update({(subject, field): units for field, units in json.loads(sums).items()})
        return dict(found)

    def parts(self, record_id: str) -> list[str]:
        """Give the ids of the events that a record stands for, as long as they are remembered."""
        token, _, number = record_id.rpartition(":")[2].partition("-")
        with self._database.reading() as tables:
            if tables is None or not number.isdecimal():
                return []
            rows = tables.execute(
                "SELECT event FROM parts, book WHERE window = ? AND token = ? ORDER BY event",
                (int(number), token),
            )
            return [event for (event,) in rows]

    def _refusal(self, addition: Addition, floor_us: int, now_us: int) -> Permanent | None:
        if addition.time_us > now_us + FARTHEST_US:
            return Permanent(f"of {shown(addition.time_us)}: more than 5 minutes ahead")
        if self._start_of(addition) + self._length_us <= floor_us:
            days = self._remember_us // _DAY_US
            said = f"of {shown(addition.time_us)}: ids are remembered for {days} days"
            return Permanent(f"{said}, so nobody knows whether it was counted before")
        return None

    def _add(
        self,
        tables: sqlite3.Connection,
        touched: dict[tuple[str, int], Window],
        addition: Addition,
        now_us: int,
    ) -> Outcome:
        if tables.execute("SELECT 1 FROM parts WHERE event = ?", (addition.id,)).fetchone():
            return Duplicate()
        place = addition.subject, self._start_of(addition)
        window = touched.get(place)
        if window is None:
            window = touched[place] = self._open(tables, *place, now_us)
        tables.execute("INSERT INTO parts VALUES (?, ?)", (addition.id, window.number))
        window.add(addition)
        return Delivered()

    def _open(self, tables: sqlite3.Connection, subject: str, start_us: int, now_us: int) -> Window:
        """Give the window that is open, or open one."""
        row = tables.execute(
            "SELECT number, subject, start_us, end_us, last_us, events, sums FROM windows"
            " WHERE subject = ? AND start_us = ? AND record IS NULL",
            (subject, start_us),
        ).fetchone()
        if row is not None:
            return _window(row)
        end_us = start_us + self._length_us
        due_us = max(end_us, now_us) + self._lateness_us
        cursor = tables.execute(
            "INSERT INTO windows (subject, start_us, end_us, due_us, last_us, events, sums)"
            " VALUES (?, ?, ?, ?, ?, 0, '{}')",
            (subject, start_us, end_us, due_us, start_us),
        )
        return Window(int(cursor.lastrowid or 0), subject, start_us, end_us, start_us, 0, {})

    def _start_of(self, addition: Addition) -> int:
        return addition.time_us // self._length_us * self._length_us

    def _prune(self, tables: sqlite3.Connection, now_us: int) -> None:
        """Raise the floor, by the clock or the newest event if that is older, and delete what is below it."""
        ((floor_us, newest_us),) = tables.execute("SELECT floor_us, newest_us FROM book")
        wanted_us = min(now_us, newest_us) - self._remember_us
        if wanted_us >= floor_us + _FLOOR_STEP_US:
            floor_us = wanted_us
            tables.execute("UPDATE book SET floor_us = ?", (floor_us,))
        old = tables.execute(
            "SELECT number FROM windows WHERE end_us <= ? AND done LIMIT ?", (floor_us, _PRUNED_AT_ONCE)
        ).fetchall()
        tables.executemany("DELETE FROM parts WHERE window = ?", old)
        tables.executemany("DELETE FROM windows WHERE number = ?", old)


def _window(row: tuple[int, str, int, int, int, int, str]) -> Window:
    return Window(*row[:6], json.loads(row[6]))


def _new_batch(tables: sqlite3.Connection, most: int) -> int | None:
    """Put records that are in no batch into one, numbered by its first."""
    new = tables.execute(
        "SELECT number FROM waiting WHERE batch IS NULL ORDER BY number LIMIT ?", (most,)
    ).fetchall()
    if not new:
        return None
    first = int(new[0][0])
    tables.executemany("UPDATE windows SET batch = ? WHERE number = ?", [(first, *row) for row in new])
    return first
