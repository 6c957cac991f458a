"""One request and its response while they pass: what has been counted so far, and what the app may ask."""

from __future__ import annotations

import logging
import threading
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meter_mw.admission import Answer
from meter_mw.lasting import UNBOUNDED, rooms
from meter_mw.model import LARGEST_COST, Count, MeterError, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.admission import Admission, Standing
    from meter_mw.lasting import Room
    from meter_mw.model import RequestId, SubjectId
    from meter_mw.policy.policy import Policy

_log = logging.getLogger(__name__)

_CLIENT_GONE = 499
"""The status on record for a request whose client left before a response began (nginx's number)."""

_LONGEST_LENGTH = 18
"""Digits of a Content-Length that is believed."""

_BODILESS = frozenset({204, 304})

Passing: TypeAlias = tuple[Count, int]
"""Units of a count that are about to pass."""

MARK = "meter_mw.exchange"
"""Where a scope or an environ carries its exchange, so that a meter inside another one counts nothing."""


class UsageError(MeterError, ValueError):
    """The app asked or reported something that the policy does not know."""


class Exchange:
    """What is known of one request on its way; `current()` gives it to the app.

    Counting is done by the edge, from one thread at a time; `add` may be called from any, and a keeper's
    thread may close a part of the count while the edge goes on. `request_room` and `response_room`, and
    those of messages, are the units that may pass in all before the store has to be asked. `is_turning`
    while one part makes way for the next: what is held is held twice then.
    """

    is_turning = False
    ended = False
    bodiless = False
    status = 0
    request_bytes = response_bytes = 0
    request_messages = response_messages = 0
    request_room = response_room = UNBOUNDED
    request_messages_room = response_messages_room = UNBOUNDED
    limited_by: tuple[str, ...] = ()
    refusal: Admission | None = None
    _declared: int | None = None
    _told = (0, 0, 0, 0)
    _is_bounded = False

    def __init__(
        self,
        policy: Policy,
        admission: Admission,
        method: str,
        started_us: int,
        late: Callable[[Exchange, str, int], None],
    ) -> None:
        self._policy = policy
        self.method = method
        self.part_us = started_us
        self._late = late
        self._lock = threading.Lock()
        self._reported: dict[str, int] = {}
        self.admission = admission
        if admission.lines:
            self._take_up(admission)

    def _take_up(self, admission: Admission) -> None:
        """Go on under this admission: what it was granted may pass on top of what is told already."""
        self.admission = admission
        granted = rooms(admission)
        if not (granted or self._is_bounded):
            return
        self._is_bounded = True
        received, sent, asked, told = self._told
        self.request_room = received + granted.get(Count.REQUEST_BYTES, UNBOUNDED)
        self.response_room = sent + granted.get(Count.RESPONSE_BYTES, UNBOUNDED)
        self.request_messages_room = asked + granted.get(Count.REQUEST_MESSAGES, UNBOUNDED)
        self.response_messages_room = told + granted.get(Count.RESPONSE_MESSAGES, UNBOUNDED)

    @property
    def id(self) -> str | None:
        """The id of the usage event that this request becomes, for logs; `None` on an exempt route.

        A long exchange becomes several: this is the one of the part that is under way.
        """
        return None if self.admission.caller is None else str(self.admission.rid)

    @property
    def subject(self) -> SubjectId | None:
        """Who is metered; `None` on an exempt route."""
        caller = self.admission.caller
        return None if caller is None else caller.subject

    @property
    def plan(self) -> str | None:
        """The name of the plan that applies; `None` on an exempt route."""
        caller = self.admission.caller
        return None if caller is None else caller.plan.name

    def remaining(self, meter: str = "requests") -> int | None:
        """Give the units of `meter` that still fit at once, by the tightest of its limits.

        As of the admission of this request, itself included; `None` where nothing limits the meter,
        or the store did not answer.
        """
        self._known(meter)
        left = [
            each.remaining
            for each in self.admission.every_standing
            if each.line.limit.meter.name == meter and not each.line.limit.shadow
        ]
        return min(left, default=None)

    def add(self, meter: str, units: int) -> None:
        """Report `units` of a meter that counts what only the app knows.

        Units reported after the response has ended become a usage event of their own that names this
        request; on an exempt route nothing is counted. Raises UsageError for a meter that the policy does
        not have, or that counts by itself, and for units that are not a whole number from 0 to 2^52.
        """
        if self._known(meter) is not Count.REPORTED:
            raise UsageError(
                f"meter {meter!r} counts by itself; only a meter with `count: reported` is added to"
            )
        if type(units) is not int or not 0 <= units <= LARGEST_COST:
            raise UsageError(f"units are a whole number from 0 to 2^52, got {units!r} for {meter!r}")
        if self.admission.caller is None:
            return
        with self._lock:
            if not self.ended:
                total = self._reported.get(meter, 0) + units
                if total > LARGEST_COST:
                    raise UsageError(f"meter {meter!r} would pass 2^52 units in one request")
                self._reported[meter] = total
                return
        self._late(self, meter, units)

    def _known(self, name: str) -> Count:
        for meter in self._policy.meters:
            if meter.name == name:
                return meter.count
        names = ", ".join(meter.name for meter in self._policy.meters)
        raise UsageError(f"the policy has no meter {name!r}; it has {names}")

    def begin(self, status: int, length: str | None) -> None:
        """Note the status of the response, and the Content-Length that it declares.

        A response to HEAD, and one of 1xx, 204 or 304, has no content whatever is declared or sent
        (RFC 9110, sections 6.4.1 and 9.3.2).
        """
        self.status = status
        is_number = length is not None and length.isdecimal() and len(length) <= _LONGEST_LENGTH
        self._declared = int(length) if length is not None and is_number else None
        self.bodiless = self.method == "HEAD" or status in _BODILESS or status < 200

    def hear(self, values: Callable[[str], Sequence[str]]) -> tuple[str, ...]:
        """Take what the app reports in fields of its response; give the fields to strip.

        `values` gives every value of a field of the response. What is no whole number is said in the log.
        """
        stripped = []
        for meter in self._policy.told_by_header:
            for value in values(meter.from_header or ""):
                try:
                    self.add(meter.name, int(value) if value.strip().isdecimal() else -1)
                except ValueError:  # a UsageError, or thousands of digits
                    _log.error("the app said %.80r in %s, which is no whole number", value, meter.from_header)
            if meter.strip and meter.from_header:
                stripped.append(meter.from_header)
        return tuple(stripped)

    @property
    def expected(self) -> int | None:
        """The bytes of response that the app has declared, where it has."""
        return 0 if self.bodiless else self._declared

    def clipped(self, size: int) -> int:
        """Give how many of the next `size` bytes of response body count: what a server would send of them."""
        if self.bodiless:
            return 0
        if self._declared is None:
            return size
        return min(size, max(0, self._declared - self.response_bytes))

    @property
    def to_come(self) -> int:
        """The bytes of an upload that are granted and have not come yet."""
        return 0 if self.request_room >= UNBOUNDED else max(0, self.request_room - self.request_bytes)

    def passed(self, count: Count) -> int:
        """Give the units of a count that have passed so far."""
        passed: int = getattr(self, _FIELDS[count].counter)
        return passed

    def count(self, count: Count, units: int) -> None:
        """Count units that pass in any case."""
        with self._lock:
            self._add(count, units)

    def comes(self, size: int) -> bool:
        """Count the next `size` bytes of request body, if there is room; say whether there is."""
        with self._lock:
            total = self.request_bytes + size
            if total > self.request_room:
                return False
            self.request_bytes = total
            return True

    def goes(self, size: int) -> bool:
        """Count the next `size` bytes of response body, if there is room; say whether there is."""
        with self._lock:
            total = self.response_bytes + size
            if total > self.response_room:
                return False
            self.response_bytes = total
            return True

    def claims(self, *passing: Passing) -> bool:
        """Count all that is about to pass, or nothing where one of it has no room; say whether.

        In one step with the keeper's, so that what one part was granted is not spent by the next.
        """
        with self._lock:
            for count, units in passing:
                if self._lacks(count, units):
                    return False
            for count, units in passing:
                self._add(count, units)
            return True

    def lacking(self, *passing: Passing) -> list[Passing]:
        """Give that of what is about to pass which has no room."""
        with self._lock:
            return [(count, units) for count, units in passing if self._lacks(count, units)]

    def _lacks(self, count: Count, units: int) -> bool:
        names = _FIELDS[count]
        lacks: bool = getattr(self, names.counter) + units > getattr(self, names.room)
        return lacks

    def _add(self, count: Count, units: int) -> None:
        counter = _FIELDS[count].counter
        setattr(self, counter, getattr(self, counter) + units)

    def completes(self) -> bool:
        """Whether the client has the whole response with what is counted so far."""
        return self.bodiless or (self._declared is not None and self.response_bytes >= self._declared)

    def stopped(self, by: Sequence[Standing]) -> None:
        """Note the limits that let no more of it pass."""
        self.limited_by = tuple(each.line.limit.name for each in by)

    def refuse(self, room: Room) -> Admission:
        """Refuse the request on its way, as the limits of `room` let no more of it in."""
        self.stopped(room.denied_by)
        self.refusal = self.admission._replace(
            answer=Answer.UNAVAILABLE if room.unavailable else Answer.DENIED,
            denied_by=room.denied_by,
            reason="the usage of this key cannot be checked at the moment",
        )
        return self.refusal

    def standing_of(self, count: Count) -> tuple[Admission, int, int]:
        """Give the admission of the part that goes on, the units told before it, and what it has room for."""
        with self._lock:
            names = _FIELDS[count]
            told = self._told[names.place]
            return self.admission, told, max(0, getattr(self, names.room) - told)

    def widened(self, count: Count, room: Room, rid: RequestId) -> Room | None:
        """Let as much pass as a part's room says; say it as a count of the whole, `None` if that is over."""
        with self._lock:
            if self.admission.rid != rid:
                return None
            names = _FIELDS[count]
            told = self._told[names.place]
            units, passes = min(UNBOUNDED, told + room.units), min(UNBOUNDED, told + room.passes)
            if not room.denied_by and not room.unavailable:
                setattr(self, names.room, units)
            return replace(room, units=units, passes=passes)

    def so_far(self) -> tuple[RequestId, int, int]:
        """Give the rid of the part that goes on, and the bytes that have passed in it, in and out."""
        with self._lock:
            received, sent, _, _ = self._told
            return self.admission.rid, self.request_bytes - received, self.response_bytes - sent

    def part(self, now_us: int, following: Admission) -> tuple[Admission, Receipt] | None:
        """Close a part of the count and go on under `following`; `None` when all has ended."""
        with self._lock:
            if self.ended:
                return None
            counts = self._counts()  # once: what the edge counts meanwhile belongs to the next part
            admission, receipt = self.admission, self._receipt(counts, now_us, self.status)
            self._told = counts
            self._reported = {}
            self.part_us = now_us
            self.is_turning = True
            self._take_up(following)
            return admission, receipt

    def resume(self, admission: Admission) -> None:
        """Go on under what the store has said of the part, if that is still the one."""
        with self._lock:
            if self.admission.rid == admission.rid:
                self._take_up(admission)

    def end(self, ended_us: int) -> Receipt | None:
        """Close the count and give it, the first time; `None` after that."""
        with self._lock:
            if self.ended:
                return None
            self.ended = True
            return self._receipt(self._counts(), ended_us, self.status or _CLIENT_GONE)

    def _counts(self) -> tuple[int, int, int, int]:
        return (self.request_bytes, self.response_bytes, self.request_messages, self.response_messages)

    def _receipt(self, totals: tuple[int, int, int, int], now_us: int, status: int) -> Receipt:
        received, sent, asked, answered = totals
        told = self._told
        return Receipt(
            received - told[0],
            sent - told[1],
            dict(self._reported),
            status,
            max(0, now_us - self.part_us),
            asked - told[2],
            answered - told[3],
            self.limited_by,
            self.refusal is not None,
        )


class _Fields(NamedTuple):
    """Where an exchange keeps a count: what has passed, what may, and its place among the counts."""

    counter: str
    room: str
    place: int


_FIELDS = {
    Count.REQUEST_BYTES: _Fields("request_bytes", "request_room", 0),
    Count.RESPONSE_BYTES: _Fields("response_bytes", "response_room", 1),
    Count.REQUEST_MESSAGES: _Fields("request_messages", "request_messages_room", 2),
    Count.RESPONSE_MESSAGES: _Fields("response_messages", "response_messages_room", 3),
}


_CURRENT: ContextVar[Exchange | None] = ContextVar("meter_mw_exchange", default=None)


def current() -> Exchange:
    """Give the exchange that this handler serves.

    Works in handlers, dependencies, tasks and the thread pools of the frameworks. A bare thread has no
    context of its own: take `current()` before you start it, and hand it over. Raises UsageError outside
    of a metered request.
    """
    exchange = _CURRENT.get()
    if exchange is None:
        raise UsageError(
            "there is no metered request here: is MeterMiddleware installed, and does a request run this? "
            "A bare thread must be handed the exchange."
        )
    return exchange


def enter(exchange: Exchange | None) -> Exchange | None:
    """Make `exchange` the one that `current()` gives in this context; return the one that it was."""
    outer = _CURRENT.get()
    if outer is not exchange:
        _CURRENT.set(exchange)
    return outer
