"""What the journal says was recorded, what of it is under way to each sink, and what is parked before it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import msgspec

from meter_mw.journal.bookmarks import Bookmark, BookmarkFile
from meter_mw.journal.estates import estate_paths
from meter_mw.journal.parked import read_parked
from meter_mw.journal.reading import Entry, read_journal
from meter_mw.model import ADJUSTMENT_EVENT, REQUEST_EVENT, WINDOW_EVENT
from meter_mw.reconciling.rows import Amount

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from meter_mw.journal.segments import Position

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - as msgspec gives it
_MICROSECOND = timedelta(microseconds=1)
_UUID7 = "7"
_COUNTED = frozenset({REQUEST_EVENT, ADJUSTMENT_EVENT, WINDOW_EVENT})


class _Event(msgspec.Struct):
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: dict[str, object]


_decoder = msgspec.json.Decoder(_Event)


@dataclass(slots=True)
class Sums:
    """Sums of one window. `in_flight` and `parked` are by the name of the sink, `plans` by subject."""

    recorded: Counter[Amount] = field(default_factory=Counter)
    late: Counter[Amount] = field(default_factory=Counter)
    in_flight: dict[str, Counter[Amount]] = field(default_factory=lambda: defaultdict(Counter))
    parked: dict[str, Counter[Amount]] = field(default_factory=lambda: defaultdict(Counter))
    plans: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)


class Adding:
    """Adds up the events of one source in one window [`start_us`, `end_us`); each id counts once."""

    def __init__(
        self, directory: Path, source: str, fields: Sequence[str], window_us: tuple[int, int]
    ) -> None:
        self._directory = directory
        self._source = source
        self._fields = fields
        self._start_us, self._end_us = window_us
        self.sums = Sums()

    def read(self, sinks: Sequence[str]) -> Sums:
        """Read the journal and what is parked; raises `OSError`."""
        bookmarks = {
            estate: {sink: BookmarkFile(estate, sink).load() for sink in sinks}
            for estate in estate_paths(self._directory)
        }
        seen: set[str] = set()
        for entry in read_journal(self._directory):
            if isinstance(entry, Entry) and (event := self._event(entry.payload)):
                is_new = event.id not in seen
                seen.add(event.id)
                known = bookmarks.get(entry.path.parent, {})
                under_way = [sink for sink, each in known.items() if waits(each, entry.position)]
                self._add(event, under_way, is_new=is_new)
        for each in read_parked(self._directory):
            if event := self._event(each.payload):
                self._sum(self.sums.parked[each.sink], event)
        return self.sums

    def _event(self, payload: bytes) -> _Event | None:
        try:
            event = _decoder.decode(payload)
        except msgspec.DecodeError:
            return None
        counts = event.type in _COUNTED and event.source == self._source
        return event if counts else None

    def _add(self, event: _Event, under_way: Sequence[str], *, is_new: bool) -> None:
        sums = self.sums
        for sink in under_way:
            self._sum(sums.in_flight[sink], event)
        if is_new:
            self._sum(sums.recorded, event)
            if _made_us(event) >= self._end_us:
                self._sum(sums.late, event)
            data = event.data
            sums.plans.setdefault(event.subject, (_text(data.get("plan")), _text(data.get("account"))))

    def _sum(self, sums: Counter[Amount], event: _Event) -> None:
        if self._start_us <= _microseconds(event.time) < self._end_us:
            for name in self._fields:
                units = event.data.get(name)
                if isinstance(units, int) and units:
                    sums[Amount(event.subject, name)] += units


def waits(bookmark: Bookmark, position: Position) -> bool:
    """Say whether an event is not known to be delivered or parked."""
    if position >= bookmark.read_to:
        return True
    spans = (span for consignment in bookmark.consignments for span in consignment)
    return any(span.start <= position < span.end for span in spans)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _made_us(event: _Event) -> int:
    """Give when an event was made, as its id tells (UUIDv7), or else its own time."""
    digits = event.id.replace("-", "")
    try:
        return int(digits[:12], 16) * 1_000 if len(digits) == 32 and digits[12] == _UUID7 else 0
    except ValueError:
        return 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
