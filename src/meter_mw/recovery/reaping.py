"""What becomes of the requests that a killed process had on its way: given back, or billed.

Rule 1: what the journal tells of a request wins: it has ended, and only its entry was not crossed out.
Rule 2: the end is in the journal before the entry is crossed out. Who is killed in between leaves the same
end to be written again, under the same id and with the same words.
Rule 3: billed is what was handed to the app. What was not is always given back.
Rule 4: a lease comes to what was used of it; the rest, and what was still in flight, is given back.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from meter_mw import closing as closings
from meter_mw.events import encode
from meter_mw.journal import JournalError
from meter_mw.journal.estates import segment_numbers, segment_path
from meter_mw.journal.reading import read_closings, read_run
from meter_mw.journal.segments import Position
from meter_mw.model import Count, Receipt, RequestId, SubjectId, UsageEvent
from meter_mw.policy.delivery import Reap
from meter_mw.stores.kept import born_us, pack, unpack
from meter_mw.stores.port import Booking, Settle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meter_mw.admission import Admission
    from meter_mw.journal import Journal
    from meter_mw.policy.policy import Policy
    from meter_mw.recovery.register import Entry, Register
    from meter_mw.recovery.trail import Trail
    from meter_mw.stores.access import Stores
    from meter_mw.stores.kept import Kept

_log = logging.getLogger(__name__)

_BATCH, _BATCH_BYTES = 1000, 1 << 20
_SLACK_S = 60.0
_BYTES = {Count.REQUEST_BYTES: 0, Count.RESPONSE_BYTES: 1}
_NOTHING = Receipt(0, 0, {}, 0, 0)


class _Facts(msgspec.Struct, array_like=True):
    """What the event of a request will say, what is booked for it, and which bookings are of its bytes."""

    rid: str
    subject: str
    time_us: int
    type: str
    data: dict[str, object]
    booked: bytes
    bytes_of: dict[str, int]


class _Identified(msgspec.Struct):
    """The id of an event."""

    id: str = ""


_facts = msgspec.msgpack.Decoder(_Facts)
_identified = msgspec.json.Decoder(_Identified)


def facts_of(policy: Policy, admission: Admission, method: str) -> bytes:
    """Give what is kept of a request that is handed to the app, so that it can be billed."""
    event = closings.usage_event(policy, admission, method, _NOTHING)
    settled = closings.settlement(policy, admission, _NOTHING)
    bytes_of = {
        line.limit.id: _BYTES[line.limit.meter.count]
        for line in admission.lines
        if line.limit.meter.count in _BYTES
    }
    booked = b"" if settled is None else pack(settled, admission.now_us, admission.asked_us)
    return msgspec.msgpack.encode(
        _Facts(event.id, event.subject, event.time_us, event.type, event.data, booked, bytes_of)
    )


def bill(source: str, entry: Entry) -> tuple[UsageEvent, Kept | None]:
    """Give the event of a request that was never ended, and what is booked; raises ValueError."""
    try:
        facts = _facts.decode(entry.facts)
    except msgspec.MsgspecError as error:
        raise ValueError(f"expected the facts of a request, got {entry.facts!r:.80}: {error}") from None
    passed = (entry.request_bytes, entry.response_bytes)
    data = facts.data | {
        "request_bytes": passed[0],
        "response_bytes": passed[1],
        "status": 0,
        "duration_us": 0,
        "reaped": True,
    }
    event = UsageEvent(facts.rid, source, SubjectId(facts.subject), facts.time_us, data, facts.type)
    if not facts.booked:
        return event, None
    kept = unpack(facts.booked)
    settled = kept.closing
    bookings = tuple(
        Booking(each.charge, passed[facts.bytes_of[each.charge.id]], each.window_us)
        if each.charge.id in facts.bytes_of
        else each
        for each in settled.bookings
    )
    return event, replace(kept, closing=Settle(settled.rid, settled.tag, bookings))


def spent(entry: Entry) -> Kept:
    """Give what a lease came to; raises ValueError."""
    kept = unpack(entry.packed)
    charged = max(0, entry.used - entry.refunded)
    bookings = tuple(
        Booking(each.charge, each.actual * charged, each.window_us) for each in kept.closing.bookings
    )
    return replace(kept, closing=Settle(kept.closing.rid, kept.closing.tag, bookings))


class Reaper:
    """Ends the requests that a dead process had on its way."""

    def __init__(self, policy: Policy, stores: Stores, journal: Journal, trail: Trail) -> None:
        self._policy = policy
        self._stores = stores
        self._journal = journal
        self._trail = trail

    def reap(self, register: Register) -> bool:
        """End what is in a register, and cross it out; return whether that is done."""
        estate = register.path.parent
        entries = [(rid_of(entry), entry) for entry in register.entries()]
        rids = {rid for rid, _ in entries if rid is not None}
        try:
            since_us = min((born_us(rid) for rid in rids), default=0)
            known = ended(estate, rids, since_us) if rids else set()
            for rid, entry in entries:
                if rid is not None and rid not in known:
                    self._end(entry)
                register.cross_out(entry)
        except (OSError, JournalError) as error:
            _log.warning("%s: its requests are not ended yet: %s", estate, error)
            return False
        count = sum(rid is not None and rid not in known and not entry.lent for rid, entry in entries)
        if count:
            how = "billed" if self._bills else "given back"
            _log.warning("%s: %d requests were on their way when it was killed: %s", estate, count, how)
        return True

    @property
    def _bills(self) -> bool:
        return self._policy.events.reap is Reap.BILL

    def _end(self, entry: Entry) -> None:
        """Give back what a request was charged, or bill it; raises JournalError."""
        event, kept = b"", None
        try:
            if entry.facts and self._bills:
                usage, kept = bill(self._policy.source, entry)
                event = encode(usage)
            elif entry.lent:
                kept = spent(entry)
            elif entry.packed:
                kept = unpack(entry.packed)
        except ValueError as error:
            _log.error("a request of a dead process cannot be ended: %s", error)
            return
        packed = b"" if kept is None else self._trail.packed(kept.closing, kept.admitted_us)
        if kept is not None and packed:
            self._trail.keep(kept.closing.rid, event, packed)
            self._stores.settler.put(kept.closing, admitted_us=kept.admitted_us)
        elif event:
            self._journal.append(event)


def rid_of(entry: Entry) -> RequestId | None:
    """Give the rid of an entry, where it can be read."""
    try:
        if entry.packed:
            return unpack(entry.packed).closing.rid
        return RequestId(_facts.decode(entry.facts).rid)
    except (ValueError, msgspec.MsgspecError) as error:
        _log.error("an entry of a register cannot be read: %s", error)
        return None


def ended(estate: Path, rids: set[RequestId], since_us: int) -> set[RequestId]:
    """Give those of the requests that the journal tells of; raises `OSError`.

    Segments that were not written to since a minute before `since_us` (µs since 1970) are passed over.
    """
    start = _first_since(estate, since_us / 1_000_000 - _SLACK_S)
    found = {each for each in _told(estate, start) if each in rids}
    for _, packed in read_closings(estate, start):
        try:
            rid = unpack(packed).closing.rid
        except ValueError:
            continue
        if rid in rids:
            found.add(rid)
    return found


def _told(estate: Path, start: Position) -> Iterator[RequestId]:
    """Give the ids of all events from a place on."""
    while True:
        run = read_run(estate, start, None, count=_BATCH, size=_BATCH_BYTES)
        for entry in run.entries:
            try:
                yield RequestId(_identified.decode(entry.payload).id)
            except msgspec.MsgspecError:
                continue
        if not run.entries:
            return
        start = run.after


def _first_since(estate: Path, moment: float) -> Position:
    last = 0
    for last in segment_numbers(estate):
        if segment_path(estate, last).stat().st_mtime >= moment:
            return Position(last, 0)
    return Position(last + 1, 0)
