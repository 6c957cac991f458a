"""What aggregating sinks hold of a subject: the sums of its windows, and the records that were sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from meter_mw.privacy.held import Held
from meter_mw.sinks.windows.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meter_mw.model import SubjectId

_COLUMNS = "number, start_us, end_us, events, sums, done"


def window_folders(journal: Path) -> list[Path]:
    """Give the folders of a journal that windows are in."""
    return sorted(path.parent for path in journal.glob("windows-*/windows.db"))


class WindowsPlace:
    """The windows of one sink."""

    remains = ""

    def __init__(self, folder: Path) -> None:
        self.name = f"windows {folder.name}"
        self._database = Database(folder)

    def held(self, subject: str) -> Iterator[Held]:
        """Give the windows, open or sealed."""
        with self._database.reading() as tables:
            if tables is None:
                return
            rows = tables.execute(f"SELECT {_COLUMNS} FROM windows WHERE subject = ?", (subject,))  # noqa: S608
            for number, start_us, end_us, events, sums, done in rows.fetchall():
                spent = {"start_us": start_us, "end_us": end_us, "events": events, "sums": json.loads(sums)}
                yield Held(self.name, "window", {"number": number, **spent, "sent": bool(done)})

    def obstacle(self, subject: str) -> str:
        """Count the windows whose records are still to be sent."""
        count = sum(not each.record["sent"] for each in self.held(subject))
        return f"{count} windows are to be sent yet; wait until they are" if count else ""

    def erase(self, subject: str, tombstone: SubjectId) -> int:
        """Give windows that were sent the name of the tombstone; their records are needed no more."""
        with self._database.writing() as tables:
            tables.execute("PRAGMA secure_delete = ON")  # what is freed is overwritten
            done = tables.execute(
                "UPDATE windows SET subject = ?, record = x'' WHERE subject = ? AND done",
                (tombstone, subject),
            )
            return done.rowcount
