"""The files that hold events of a subject: the journal, what is parked, and what sinks have written."""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING

from meter_mw.journal.bookmarks import BookmarkFile
from meter_mw.journal.parked import parked_path, read_all
from meter_mw.journal.reading import Entry, read_journal
from meter_mw.privacy.held import Held, Whose, event_of
from meter_mw.reconciling.sums import waits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from meter_mw.journal.bookmarks import Bookmark
    from meter_mw.model import SubjectId

_LINE = b"\n"


class JournalPlace:
    """The segments of a journal. They are sealed, so nothing in them changes: they go when they are old."""

    name = "journal"
    remains = (
        "until their segment is done (8 MiB, or its process has ended), every sink has it,"
        " and events.retention has passed"
    )

    def __init__(self, directory: Path, source: str, sinks: Sequence[str]) -> None:
        self._directory = directory
        self._source = source
        self._sinks = sinks

    def held(self, subject: str) -> Iterator[Held]:
        """Give the events that are in the segments still, delivered or not."""
        return (Held(self.name, "event", event) for _, event in self._events(subject))

    def obstacle(self, subject: str) -> str:
        """Name the sinks that do not have all of a subject's events yet: they would have them afterwards."""
        bookmarks: dict[tuple[Path, str], Bookmark] = {}
        late: dict[str, int] = {}
        for entry, _ in self._events(subject):
            for sink in self._sinks:
                place = (entry.path.parent, sink)
                if place not in bookmarks:
                    bookmarks[place] = BookmarkFile(*place).load()
                if waits(bookmarks[place], entry.position):
                    late[sink] = late.get(sink, 0) + 1
        said = ", ".join(f"{count} events to {sink}" for sink, count in late.items())
        return said and f"{said} are on their way; let the app, or meter-mw forward --once, deliver them"

    def erase(self, subject: str, tombstone: SubjectId) -> int:  # noqa: ARG002 - what is sealed stays
        """Change nothing."""
        return 0

    def _events(self, subject: str) -> Iterator[tuple[Entry, dict[str, object]]]:
        whose = Whose(self._source, subject)
        for entry in read_journal(self._directory):
            if isinstance(entry, Entry) and (event := event_of(entry.payload, whose)) is not None:
                yield entry, event


class ParkedPlace:
    """The events that a sink has refused, and what became of them: a line of JSON each."""

    name = "parked"
    remains = ""

    def __init__(self, directory: Path, source: str) -> None:
        self._directory = directory
        self._source = source

    def held(self, subject: str) -> Iterator[Held]:
        """Give the parked events, and those that were retried or dropped since."""
        whose = Whose(self._source, subject)
        for each in read_all(self._directory).values():
            event = event_of(each.payload, whose)
            if event is not None:
                said = {"id": each.id, "sink": each.sink, "state": each.state.value, "why": each.reason}
                yield Held(self.name, "parked", {**said, "event": event})

    def obstacle(self, subject: str) -> str:
        """Count those that wait: they are usage that nobody has billed."""
        parked, whose = read_all(self._directory).values(), Whose(self._source, subject)
        count = sum(each.waits and event_of(each.payload, whose) is not None for each in parked)
        return f"{count} events are parked; retry or drop them with meter-mw parked" if count else ""

    def erase(self, subject: str, tombstone: SubjectId) -> int:  # noqa: ARG002 - nothing of it is an amount
        """Blank the lines out where they stand, so that nobody who appends meanwhile is in the way."""
        whose = Whose(self._source, subject)
        gone = {
            each.id
            for each in read_all(self._directory).values()
            if event_of(each.payload, whose) is not None
        }
        if not gone:
            return 0
        fd = os.open(parked_path(self._directory), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # writers append under the same lock
            text, at = os.pread(fd, os.fstat(fd).st_size, 0), 0
            for line in text.split(_LINE):
                if _id_of(line) in gone:
                    os.pwrite(fd, b" " * len(line), at)
                at += len(line) + len(_LINE)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        return len(gone)


def _id_of(line: bytes) -> object:
    """Give the id of a record of a parked event; None for a line that is none."""
    try:
        return json.loads(line).get("id")
    except (ValueError, AttributeError):
        return None


class FilePlace:
    """A file that a sink has written. It is the operator's own, and others may read it while it grows."""

    remains = "until you rewrite the file: it is yours, and nobody else may change it"

    def __init__(self, path: Path, source: str) -> None:
        self.name = f"file {path}"
        self._path = path
        self._source = source

    def held(self, subject: str) -> Iterator[Held]:
        """Give the events in it."""
        if not self._path.exists():
            return
        whose = Whose(self._source, subject)
        with self._path.open("rb") as file:
            for line in file:
                event = event_of(line, whose)
                if event is not None:
                    yield Held(self.name, "event", event)

    def obstacle(self, subject: str) -> str:  # noqa: ARG002 - a place is asked
        """Give nothing: it is there for as long as the operator wants it."""
        return ""

    def erase(self, subject: str, tombstone: SubjectId) -> int:  # noqa: ARG002 - a place is asked
        """Change nothing."""
        return 0
