"""The share of one sink in a Redis stream: its consumer group, through a consumer of this process.

Rule 1: what is handed out is noted in Redis by the same script that hands it out.
Rule 2: what is done with is acknowledged at once, or else before anything more is handed out.
Rule 3: what a process leaves behind is taken over when its lease is over, consignment by consignment.
        Nobody takes anything over within a lease of connecting: after an outage of the server all
        leases are over, and the living need that long to renew theirs.
Rule 4: whoever finds a consignment taken over lets go of it. It may have been sent twice by then.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meter_mw.journal.supply import Backlog, Consignment, Item
from meter_mw.sinks.redis_line import NotAsked, Refused, Unanswered, companion
from meter_mw.sinks.redis_stream import FIELD
from meter_mw.streams import scripts
from meter_mw.streams.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.sinks.redis_line import RedisLine, Script

_log = logging.getLogger("meter_mw.streams")

FAILURES = (NotAsked, Unanswered, Refused)
"""What a call may end in."""

MOST = 250
"""Entries in one consignment, at most: a script stops the server for as long as it takes."""

_COMPLAIN_EVERY = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process works: the stream, its name among the consumers, its lease in seconds, the groups."""

    stream: str
    consumer: str
    lease: float
    groups: tuple[str, ...]

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds."""
        return max(1, int(self.lease * 1000))

    def hand(self, group: str) -> str:
        """Give the key of what is in hand of a group."""
        return companion(self.stream, f"hand:{group}")

    def alive(self, consumer: str) -> str:
        """Give the key that lives as long as a consumer does."""
        return companion(self.stream, f"alive:{consumer}")


@dataclass(slots=True, eq=False)
class _Placed:
    """Where a consignment is noted, and the entry of each of its items.

    `lost` when another process has it; `loose` when the stream has nothing of it any more.
    """

    note: str
    entries: dict[Item, str] = field(default_factory=dict)
    lost: bool = False
    loose: bool = False


class StreamSupply:
    """What a stream has for one sink. Used by the thread of that sink's courier alone."""

    def __init__(self, line: RedisLine, place: Place, group: str, clock: Callable[[], float]) -> None:
        self._line = line
        self._place = place
        self._group = group
        self._clock = clock
        self._placed: dict[Consignment, _Placed] = {}
        self._inherited: list[Record] = []
        self._behind = Backlog()
        self._openings = 0
        self._look_at = 0.0
        self._complain_at = clock()

    def take(self, most: int) -> Consignment | None:
        """Hand out what was left behind, or else what is new."""
        most = min(most, MOST)
        try:
            self._acknowledge()
            self._look(most)
            while self._inherited:
                consignment = self._again(self._inherited[0])
                del self._inherited[0]
                if consignment is not None:
                    return consignment
            return self._fresh(most)
        except FAILURES as failure:
            self._complain(failure)
            return None

    def keep(self, consignment: Consignment) -> None:
        """Acknowledge what is done with, and note what is in hand."""
        placed = self._placed[consignment]
        was_lost = placed.lost
        try:
            self._settle(consignment, placed)
        except FAILURES as failure:
            raise OSError(errno.EIO, str(failure)) from failure
        if placed.lost:
            consignment.items = []
        if not consignment.items and placed.lost == was_lost:
            del self._placed[consignment]
        if placed.lost and not was_lost:
            raise OSError(errno.ESTALE, "another process has taken it over")

    def backlog(self) -> Backlog:
        """Ask how many entries the group has not acknowledged; the oldest by when it entered the stream."""
        try:
            count, oldest = self._run(scripts.BACKLOG, [self._group])
        except FAILURES as failure:
            self._complain(failure)
            return self._behind
        moment = int(oldest.partition(b"-")[0]) / 1000 if oldest else None
        self._behind = Backlog(max(0, count), moment)
        return self._behind

    def _acknowledge(self) -> None:
        """Acknowledge what could not be when it was done."""
        for consignment, placed in list(self._placed.items()):
            if not consignment.items:
                if not placed.lost:
                    self._settle(consignment, placed)
                del self._placed[consignment]

    def _fresh(self, most: int) -> Consignment | None:
        place = self._place
        arguments = (self._group, place.consumer, most, place.lease_ms)
        found = self._run(scripts.TAKE, arguments, place.alive(place.consumer))
        if not found:
            return None
        ids = [entry.decode() for entry, _ in found]
        record = Record(f"{place.consumer}/{ids[0]}", dict.fromkeys(ids))
        return self._hand_out(record, [_payload(fields) for _, fields in found], more=len(ids) == most)

    def _again(self, record: Record) -> Consignment | None:
        """Hand out a consignment that was left behind; None where nothing of it is in the stream."""
        found = self._call(scripts.FETCH, [self._place.stream], list(record.entries))
        there = {entry: fields for entry, fields in zip(record.entries, found, strict=True) if fields}
        gone = [entry for entry in record.entries if entry not in there]
        left = Record(record.field, {entry: record.entries[entry] for entry in there})
        if gone:
            self._note(left, gone)
        return self._hand_out(left, [_payload(fields) for fields in there.values()]) if there else None

    def _hand_out(self, record: Record, payloads: Sequence[bytes], *, more: bool = True) -> Consignment:
        moments = record.entries.values()
        items = [Item(payload, sent) for payload, sent in zip(payloads, moments, strict=True)]
        consignment = Consignment(items, more)
        self._placed[consignment] = _Placed(record.field, dict(zip(items, record.entries, strict=True)))
        return consignment

    def _settle(self, consignment: Consignment, placed: _Placed) -> None:
        """Bring Redis up to date on a consignment, and learn whether it is still ours."""
        failed = set(consignment.items)
        held = set() if placed.lost else failed
        done = [entry for item, entry in placed.entries.items() if item not in failed]
        left = {entry: item.sent for item, entry in placed.entries.items() if item in held}
        if not placed.loose:
            answer = self._note(Record(placed.note, left), done)
            if answer != 1 and left:
                self._lose(placed, answer)
        placed.entries = {item: entry for item, entry in placed.entries.items() if item in held}

    def _note(self, record: Record, done: Sequence[str]) -> Any:
        place, left = self._place, record.entries
        counted = (len(done), *done, len(left), *left)
        arguments = (self._group, record.field, record.text, place.lease_ms, *counted, *place.groups)
        return self._run(scripts.KEEP, arguments, place.alive(place.consumer))

    def _lose(self, placed: _Placed, there: Sequence[int]) -> None:
        """Find that a consignment is noted for us no more.

        What the stream still has is another's. Where it has nothing of it, the server has lost it, or
        another has delivered it: what is in hand may be the last copy, and twice is better than never.
        """
        placed.loose = not any(there)
        placed.lost = not placed.loose
        words = "the stream has lost them" if placed.loose else "another process has taken them over"
        _log.warning("%s: %d events for %s: %s", self._place.stream, len(there), self._group, words)

    def _look(self, most: int) -> None:
        """Find what nobody alive has in hand, and delete what nobody needs, when it is time."""
        self._line.connect()
        now = self._clock()
        if self._line.openings != self._openings:
            # The server may be another, or an older copy of itself: see what it holds of ours.
            self._take_over(self._place.consumer, most)
            self._openings = self._line.openings
            self._look_at = now + self._place.lease
        if now < self._look_at:
            return
        self._look_at = now + self._place.lease / 3
        # Ourselves among them: a server that was frozen may carry out what we have long given up on.
        for consumer in (self._place.consumer, *self._others()):
            self._take_over(consumer, most)
        self._run(scripts.SWEEP, self._place.groups)

    def _others(self) -> list[str]:
        try:
            found = self._line.call("XINFO", "CONSUMERS", self._place.stream, self._group)
        except Refused:  # there is no stream, or no group
            return []
        names = [dict(zip(each[::2], each[1::2], strict=True))[b"name"].decode() for each in _lists(found)]
        return [name for name in names if name != self._place.consumer]

    def _take_over(self, consumer: str, most: int) -> None:
        """Inherit what a consumer left behind, if its lease is over; or ourselves, of what we do not know."""
        place, after = self._place, "0-0"
        pending: list[str] = []
        while True:
            arguments = (self._group, place.consumer, consumer, place.lease_ms, MOST, after)
            keys = (place.alive(place.consumer), place.alive(consumer))
            records, page = self._run(scripts.CLAIM, arguments, *keys)
            self._inherit([Record.read(*each) for each in records])
            pending += [entry.decode() for entry in page]
            if len(page) < MOST:
                break
            after = pending[-1]
        known = {entry for record in self._inherited for entry in record.entries}
        known.update(entry for placed in self._placed.values() for entry in placed.entries.values())
        strays = [entry for entry in pending if entry not in known]
        for start in range(0, len(strays), most):
            stray = Record(f"{place.consumer}/{strays[start]}", dict.fromkeys(strays[start : start + most]))
            self._line.call("HSET", place.hand(self._group), stray.field, stray.text)
            self._inherit([stray])
        if pending and consumer != place.consumer:
            _log.info("%s: %d events for %s taken over", place.stream, len(pending), self._group)

    def _inherit(self, records: Sequence[Record]) -> None:
        known = {placed.note for placed in self._placed.values()} | {each.field for each in self._inherited}
        self._inherited += [record for record in records if record.field not in known]

    def _complain(self, failure: Exception) -> None:
        now = self._clock()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_EVERY
            _log.error("%s: no events for %s: %s", self._place.stream, self._group, failure)

    def _run(self, script: Script, arguments: Sequence[object], *keys: str) -> Any:
        return self._call(script, [self._place.stream, self._place.hand(self._group), *keys], arguments)

    def _call(self, script: Script, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        return self._line.run(script, keys, arguments)


def _payload(fields: Sequence[bytes]) -> bytes:
    """Give the event in an entry; all of an entry that has none, for a sink to refuse and us to park."""
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    return named.get(FIELD, b" ".join(fields))


def _lists(found: object) -> list[list[Any]]:
    return [each for each in found if isinstance(each, list)] if isinstance(found, list) else []
