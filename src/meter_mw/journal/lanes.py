"""The supply of a journal: one lane an estate, which take turns, so that none holds up another."""

from __future__ import annotations

import contextlib
import errno
import logging
from datetime import datetime  # noqa: TC003 - msgspec reads the annotation
from typing import TYPE_CHECKING

import msgspec

from meter_mw.journal.bookmarks import Bookmark, BookmarkFile, Span
from meter_mw.journal.estates import segment_numbers, segment_path
from meter_mw.journal.following import read_living, step_over
from meter_mw.journal.reading import Run, read_run
from meter_mw.journal.supply import Backlog, Consignment, Item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.journal.holdings import Holding, Holdings
    from meter_mw.journal.reading import Entry
    from meter_mw.journal.segments import Position

_log = logging.getLogger("meter_mw.journal")

BATCH_BYTES = 1 << 20
"""A consignment ends with the event that brings it to this size."""


class JournalSupply:
    """What a journal's holdings have for one sink."""

    def __init__(self, holdings: Holdings, sink: str, *, durable: bool) -> None:
        self._holdings = holdings
        self._sink = sink
        self._durable = durable
        self._lanes: dict[Holding, _Lane] = {}
        self._origin: dict[Consignment, _Lane] = {}
        self._served: set[_Lane] = set()

    def take(self, most: int) -> Consignment | None:
        """Hand out events of the estate whose turn it is."""
        in_turn = self._in_turn()
        tried: set[_Lane] = set()
        for lane, stop in in_turn:
            tried.add(lane)
            try:
                consignment = lane.take(most, stop)
            except OSError as error:
                _log.error("%s: cannot be read: %s", lane.holding.path, error.strerror)
                continue
            if consignment is None:
                self._passed(lane)
                continue
            # One that has had its turn already begins another round, before which events may gather.
            self._served = tried if lane in self._served else self._served | tried
            rest = (pair for pair in in_turn if pair[0] not in self._served)
            consignment.more = lane.ahead or any(other.may_go_on(end) for other, end in rest)
            self._origin[consignment] = lane
            self._lanes[lane.holding] = self._lanes.pop(lane.holding)
            return consignment
        return None

    def keep(self, consignment: Consignment) -> None:
        """Write down what of a consignment is in hand."""
        lane = self._origin[consignment]
        if not consignment.items:
            lane.drop(consignment)
            del self._origin[consignment]
        if self._lanes.get(lane.holding) is not lane:
            self._origin.pop(consignment, None)
            consignment.items = []
            raise OSError(errno.ESTALE, "the estate is not held any more")
        lane.save()
        self._holdings.passed(lane.holding, self._sink, lane.bookmark().cursor)

    def backlog(self) -> Backlog:
        """Count what is in hand and what lies ahead; the oldest may be the first of any estate."""
        lanes = self._in_turn()
        events, firsts = 0, []
        for lane, stop in lanes:
            with contextlib.suppress(OSError):  # `take` says so
                events += lane.count(stop)
                if (first := lane.first(stop)) is not None:
                    firsts.append(_time_of(first))
        return Backlog(events, min((first for first in firsts if first is not None), default=None))

    def _in_turn(self) -> list[tuple[_Lane, Position | None]]:
        """Return the lanes, the one that was served last behind the others."""
        current = self._holdings.current()
        stops = dict(current)
        self._lanes = {holding: lane for holding, lane in self._lanes.items() if holding in stops}
        for holding, _ in current:
            if holding not in self._lanes:
                file = BookmarkFile(holding.path, self._sink, durable=self._durable)
                self._lanes[holding] = _Lane(holding, file)
        return [(lane, stops[holding]) for holding, lane in self._lanes.items()]

    def _passed(self, lane: _Lane) -> None:
        """Note that a lane's sink has all there is, damage and other records among it."""
        try:
            if lane.save():
                self._holdings.passed(lane.holding, self._sink, lane.bookmark().cursor)
        except OSError as error:
            _log.warning("%s: the place of %s is not kept: %s", lane.holding.path, self._sink, error.strerror)


class _Lane:
    """Where one sink stands in one estate, and what it has in hand of it."""

    def __init__(self, holding: Holding, file: BookmarkFile) -> None:
        self.holding = holding
        self.ahead = False
        """Whether more lay ready than was handed out last."""
        self._file = file
        self._saved = file.load()
        self._read_to = self._saved.read_to
        self._inherited = list(self._saved.consignments)
        self._in_hand: dict[Consignment, list[tuple[Item, Entry]]] = {}
        self._counted: dict[int, int] = {}

    def take(self, most: int, stop: Position | None) -> Consignment | None:
        """Hand out what was in hand before, or else what follows; raises `OSError`."""
        while self._inherited:
            placed = [pair for span in self._inherited[0] for pair in self._again(span)]
            # The sink may take fewer at once than it did in the process before.
            placed, rest = placed[:most], placed[most:]
            self._inherited[:1] = [_spans(rest)] if rest else []
            if placed:
                self.ahead = True
                return self._hand_out(placed)
        if not self.may_go_on(stop):
            self.ahead = False
            return None
        run = self._read(most, stop)
        for damage in run.damages:
            _log.error("%s", damage)
        self._read_to = run.after
        full = len(run.entries) == most or sum(len(entry.payload) for entry in run.entries) >= BATCH_BYTES
        self.ahead = full and (stop is None or run.after < stop)
        return (
            self._hand_out([(Item(entry.payload), entry) for entry in run.entries]) if run.entries else None
        )

    def may_go_on(self, stop: Position | None) -> bool:
        """Whether there may be more to read; what another process writes shows only when it is read."""
        return stop is None or self._read_to < stop

    def drop(self, consignment: Consignment) -> None:
        """Have no more to do with a consignment of which nothing is left."""
        self._in_hand.pop(consignment, None)

    def bookmark(self) -> Bookmark:
        """Return what the file is to hold."""
        in_hand = [_spans_of(each.items, placed) for each, placed in self._in_hand.items() if each.items]
        return Bookmark(self._read_to, (*self._inherited, *in_hand))

    def save(self) -> bool:
        """Write the bookmark down if it has changed, and return whether it had; raises `OSError`."""
        bookmark = self.bookmark()
        if bookmark == self._saved:
            return False
        self._file.save(bookmark)
        self._saved = bookmark
        return True

    def first(self, stop: Position | None) -> bytes | None:
        """Return the first event that the sink does not have."""
        cursor = self.bookmark().cursor
        for consignment, placed in self._in_hand.items():
            for item, entry in placed:
                if item in consignment.items and entry.position == cursor:
                    return item.payload
        run = self._peek(cursor, stop)
        return run.entries[0].payload if run.entries else None

    def count(self, stop: Position | None) -> int:
        """Return how many events the sink does not have."""
        in_hand = sum(len(consignment.items) for consignment in self._in_hand)
        inherited = sum(len(list(self._again(span))) for spans in self._inherited for span in spans)
        return in_hand + inherited + self._count_ahead(stop)

    def _count_ahead(self, stop: Position | None) -> int:
        path = self.holding.path
        numbers = [each for each in segment_numbers(path) if each >= self._read_to.sequence]
        return sum(self._count_in(number, stop, last=number == numbers[-1]) for number in numbers)

    def _count_in(self, number: int, stop: Position | None, *, last: bool) -> int:
        """Count a segment's events; a segment that is complete is counted once."""
        if number in self._counted and number != self._read_to.sequence:
            return self._counted[number]
        begin = self._read_to.offset if number == self._read_to.sequence else 0
        end = stop.offset if stop is not None and number == stop.sequence else _WHOLE
        events, _ = step_over(segment_path(self.holding.path, number), begin, end)
        if not last and not begin:
            self._counted[number] = events
        return events

    def _hand_out(self, placed: list[tuple[Item, Entry]]) -> Consignment:
        consignment = Consignment([item for item, _ in placed])
        self._in_hand[consignment] = placed
        return consignment

    def _read(self, most: int, stop: Position | None) -> Run:
        """Read on. A stop is given for what this process writes, or a dead one wrote."""
        estate = self.holding.path
        if stop is None:
            return read_living(estate, self._read_to, count=most, size=BATCH_BYTES)
        live = stop if self.holding.end is None else None
        return read_run(estate, self._read_to, live, count=most, size=BATCH_BYTES)

    def _peek(self, start: Position, stop: Position | None) -> Run:
        if stop is None:
            return read_living(self.holding.path, start, count=1, size=1)
        return read_run(self.holding.path, start, stop, count=1, size=1)

    def _again(self, span: Span) -> list[tuple[Item, Entry]]:
        """Read a span of which the process before this one had not told the end."""
        run = read_run(self.holding.path, span.start, span.end, count=_WHOLE, size=_WHOLE)
        for damage in run.damages:
            _log.error("%s", damage)
        return [(Item(entry.payload, span.sent), entry) for entry in run.entries]


_WHOLE = 1 << 62


def _spans_of(items: Sequence[Item], placed: Sequence[tuple[Item, Entry]]) -> tuple[Span, ...]:
    """Return where those events lie that are in hand of the ones that were handed out together."""
    if len(items) == len(placed) and len({item.sent for item in items}) == 1:
        return (Span(placed[0][1].position, placed[-1][1].after, items[0].sent),)
    return _spans(placed, set(items))


def _spans(placed: Sequence[tuple[Item, Entry]], in_hand: set[Item] | None = None) -> tuple[Span, ...]:
    """Return where events lie, all or those in hand: such as follow each other with one moment are a span."""
    spans: list[Span] = []
    follows = False
    for item, entry in placed:
        if in_hand is not None and item not in in_hand:
            follows = False
            continue
        if follows and spans[-1].sent == item.sent:
            spans[-1] = Span(spans[-1].start, entry.after, item.sent)
        else:
            spans.append(Span(entry.position, entry.after, item.sent))
        follows = True
    return tuple(spans)


class _Dated(msgspec.Struct):
    time: datetime


def _time_of(payload: bytes) -> float | None:
    """Return the time of an event in seconds since 1970; None where it has none."""
    try:
        return msgspec.json.decode(payload, type=_Dated).time.timestamp()
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return None
