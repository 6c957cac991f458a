"""What an exchange leaves behind: its usage event, what is booked for it, and what that turned out to be."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from meter_mw.admission import Admission, Answer
from meter_mw.events import Form
from meter_mw.judging import reached
from meter_mw.model import THRESHOLD_EVENT, Count, Receipt, RequestId, UsageEvent
from meter_mw.policy.sections.methods import METHODS
from meter_mw.policy.terms import digest_of
from meter_mw.quota import AT_REST, Cap, Rate, Span
from meter_mw.recent import Recent
from meter_mw.stores.port import REMEMBERED_US, Booking, Reading, Settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meter_mw.admission import Reached
    from meter_mw.policy.policy import Caller, Policy, Route
    from meter_mw.policy.terms import Line
    from meter_mw.stores.port import Charge, Closed


def settlement(policy: Policy, admission: Admission, receipt: Receipt) -> Settle | None:
    """Give what has to be booked when an exchange, or a part of it, is over.

    Shadow limits that would have refused it were charged nothing, and are booked nothing. Of one that took
    longer than a store remembers, what was charged for good stays, and only what was held is booked.
    """
    if admission.caller is None or not admission.charges or admission.denied_by:
        return None
    charged = is_charged(policy, admission, receipt)
    if admission.would_deny or receipt.duration_us >= REMEMBERED_US:
        bookings = _bookings(admission, receipt, charged=charged)
    else:
        bookings = _usual_bookings(admission, receipt, charged=charged)
    return Settle(admission.rid, admission.caller.tag, bookings)


def _bookings(admission: Admission, receipt: Receipt, *, charged: bool) -> tuple[Booking, ...]:
    forgotten = bool(admission.standings) and receipt.duration_us >= REMEMBERED_US
    return tuple(
        Booking(charge, used(line, receipt, charged=charged), window)
        for line, charge, window in zip(admission.lines, admission.charges, admission.windows, strict=True)
        if not (line.limit.shadow and admission.would_deny) and not (forgotten and not line.held)
    )


class _Usual(NamedTuple):
    """The bookings of requests that ask for the same: all alike, where nothing but requests is counted."""

    lines: tuple[Line, ...]
    charges: tuple[Charge, ...]
    windows: tuple[int, ...]
    bookings: tuple[Booking, ...]


_MOST_USUAL = 1024
_usual: Recent[tuple[int, bool], _Usual] = Recent(_MOST_USUAL)
"""By the identity of the charges, which are kept and so keep it, and whether they are charged."""


def _usual_bookings(admission: Admission, receipt: Receipt, *, charged: bool) -> tuple[Booking, ...]:
    """Give the bookings of a request; the same ones, where those of another were the same."""
    key = (id(admission.charges), charged)
    known = _usual.get(key)
    if (
        known is not None
        and known.charges is admission.charges
        and known.lines is admission.lines
        and known.windows == admission.windows
    ):
        return known.bookings
    bookings = _bookings(admission, receipt, charged=charged)
    if all(line.limit.meter.count is Count.REQUESTS for line in admission.lines):
        _usual.put(key, _Usual(admission.lines, admission.charges, admission.windows, bookings))
    return bookings


def is_charged(policy: Policy, admission: Admission, receipt: Receipt) -> bool:
    """Say whether a request is charged for; a part of one is, whose status is not known yet."""
    if receipt.refused:
        return False
    return receipt.status == 0 or policy.rules_of(admission.route).charges(receipt.status)


def is_settled(policy: Policy, admission: Admission, receipt: Receipt) -> bool:
    """Say whether the store charged at admission all that a request came to: nothing is to be sent then.

    A rate keeps what it took, whatever became of the request.
    """
    if not admission.standings or admission.would_deny or any(line.held for line in admission.lines):
        return False
    return is_charged(policy, admission, receipt) or not any(
        isinstance(line.limit.quota, Cap) for line in admission.lines
    )


def is_plain(admission: Admission, receipt: Receipt) -> bool:
    """Say whether there is nothing to remark of a request, so that a form has room for its event.

    One with a price of its own has none: each would be a form for itself.
    """
    return not (
        admission.route.pricing
        or receipt.reported
        or receipt.request_messages
        or receipt.response_messages
        or receipt.limited_by
        or receipt.refused
        or admission.overage
        or admission.would_deny
        or admission.first is not None
        or admission.evidence
    )


def used(line: Line, receipt: Receipt, *, charged: bool = True) -> int:
    """Give the units of a limit's meter that an exchange turned out to use.

    Rates keep what a request that is not charged for took, as they protect the app.
    """
    limit = line.limit
    if limit.meter.count is Count.REQUESTS:
        return line.take if charged or isinstance(limit.quota, Rate) else 0
    if limit.meter.count is Count.REPORTED:
        return receipt.reported.get(limit.meter.name, 0)
    passed = _PASSED.get(limit.meter.count)
    return passed(receipt) if passed else 0


_PASSED: dict[Count, Callable[[Receipt], int]] = {
    Count.REQUEST_BYTES: attrgetter("request_bytes"),
    Count.RESPONSE_BYTES: attrgetter("response_bytes"),
    Count.REQUEST_MESSAGES: attrgetter("request_messages"),
    Count.RESPONSE_MESSAGES: attrgetter("response_messages"),
}
"""What is counted as it passes; slots are given back, and so come to nothing."""


def usage_event(policy: Policy, admission: Admission, method: str, receipt: Receipt) -> UsageEvent:
    """Give the one immutable record of a counted request, or of a part of a long one."""
    caller = admission.caller
    if caller is None:
        raise ValueError("a request without a caller is not counted")
    charged = is_charged(policy, admission, receipt)
    data: dict[str, object] = {
        meter.name: admission.route.cost(meter) if charged else 0
        for meter in policy.meters
        if meter.count is Count.REQUESTS
    }
    data |= {"request_bytes": receipt.request_bytes, "response_bytes": receipt.response_bytes}
    if receipt.request_messages or receipt.response_messages:
        data |= {
            "request_messages": receipt.request_messages,
            "response_messages": receipt.response_messages,
        }
    data |= receipt.reported
    data |= {
        "route": admission.route.name,
        "method": _known(method, admission.route),
        "status": receipt.status,
        "plan": caller.plan.name,
        "duration_us": receipt.duration_us,
        "policy": policy.digest,
    } | _named(caller)
    data |= _remarks(admission, receipt, charged=charged)
    return UsageEvent(admission.rid, policy.source, caller.subject, admission.now_us, data)


def _known(method: str, route: Route) -> str:
    """Give a method as an event has it: what a client made up is no word of ours, and is not recorded."""
    return method if method in METHODS or method in (route.methods or ()) else "OTHER"


def form(policy: Policy, route: Route, caller: Caller, method: str) -> Form:
    """Give the form of the usage events that one caller, route and method have in common.

    It is for requests without remarks: no messages passed, nothing was reported, no limit stopped or would
    have refused them, none was part of a longer exchange, and none has units beyond what is included. Nor is
    anything told of their clients beyond the default fields.
    """

    def event_of(status: int) -> UsageEvent:
        admission = Admission(Answer.ALLOWED, RequestId(""), 0, route, caller)
        return usage_event(policy, admission, method, Receipt(0, 0, {}, status, 0))

    return Form(event_of)


def _remarks(admission: Admission, receipt: Receipt, *, charged: bool) -> dict[str, object]:
    """Give the fields of an event that only some requests have."""
    remarks: dict[str, object] = {}
    if not charged:
        remarks["charged"] = False
    elif admission.overage:
        remarks["overage"] = dict(admission.overage)
    if receipt.limited_by:
        remarks["limited_by"] = list(receipt.limited_by)
    if admission.would_deny:
        remarks["would_deny"] = [each.line.limit.name for each in admission.would_deny]
    if admission.first is not None:
        remarks |= {"exchange": admission.first, "part": admission.part}
    remarks |= dict(admission.evidence)
    return remarks


def _named(caller: Caller) -> dict[str, object]:
    """Give the fields of an event that only some callers have."""
    known = {"key": caller.key, "account": caller.account}
    return {name: value for name, value in known.items() if value is not None}


def amendment(
    policy: Policy, admission: Admission, rid: RequestId, now_us: int, reported: dict[str, int]
) -> tuple[UsageEvent, Settle | None]:
    """Give the record, and the booking, of units that were reported after their request had ended.

    An id determines its payload, so they are an event of their own, which names the request it amends.
    """
    event = _amending(policy, admission, rid, now_us, dict(reported))
    bookings = tuple(
        Booking(replace(charge, need=0, take=0), reported[line.limit.meter.name], window)
        for line, charge, window in zip(admission.lines, admission.charges, admission.windows, strict=True)
        if line.limit.meter.name in reported and not (line.limit.shadow and admission.would_deny)
    )
    tag = admission.caller.tag if admission.caller else ""
    return event, Settle(rid, tag, bookings) if bookings else None


def _amending(
    policy: Policy, admission: Admission, rid: RequestId, now_us: int, more: dict[str, object]
) -> UsageEvent:
    caller = admission.caller
    if caller is None:
        raise ValueError("a request without a caller is not counted")
    data: dict[str, object] = {meter.name: 0 for meter in policy.meters if meter.count is Count.REQUESTS}
    data |= {"request_bytes": 0, "response_bytes": 0, **more}
    data |= {
        "route": admission.route.name,
        "plan": caller.plan.name,
        "policy": policy.digest,
        "amends": admission.rid,
    } | _named(caller)
    return UsageEvent(rid, policy.source, caller.subject, now_us, data)


def speaks(admission: Admission) -> bool:
    """Whether settling this may have something to tell: overage, or a threshold."""
    quotas = (line.limit.quota for line in admission.lines)
    return any(isinstance(quota, Cap) and bool(quota.bills or quota.warn) for quota in quotas)


def told(
    policy: Policy, admission: Admission, settled: Settle, closed: Closed, *, rid: RequestId, now_us: int
) -> Iterator[UsageEvent]:
    """Give the events of what a settlement turned out to be: units beyond what is included, thresholds.

    The overage of what was charged at admission is in the request's own event already.
    """
    lines = {line.limit.id: line for line in admission.lines}
    overage: dict[str, int] = {}
    for note in closed.notes:
        booking = settled.bookings[note.booking]
        line = lines[booking.charge.id]
        counted = line.held or not admission.standings
        if note.overage and counted and not line.limit.shadow:
            overage[line.limit.name] = note.overage
        at = Reading(Span(booking.window_us, 0) if booking.window_us else AT_REST)
        for each in reached(line, note.warned, at):
            yield threshold_event(policy, admission, each, now_us)
    if overage:
        yield _amending(policy, admission, rid, now_us, {"overage": overage})


def threshold_event(policy: Policy, admission: Admission, each: Reached, now_us: int) -> UsageEvent:
    """Give the record of a threshold that a cap has reached.

    Its id is that of the threshold, not of a request: whoever told it twice, it would be the same event.
    """
    caller, limit, quota = admission.caller, each.line.limit, each.line.limit.quota
    if caller is None or not isinstance(quota, Cap):
        raise ValueError("only caps of a caller have thresholds")
    holder = each.line.holder or caller.holder(limit.scope) or caller.tag
    digest = digest_of(holder, limit.id, str(each.start_us), str(each.units), size=16)
    data: dict[str, object] = {
        "limit": limit.name,
        "meter": limit.meter.name,
        "threshold": each.units,
        "cap": quota.units,
        "period": quota.period.word,
        "since_us": each.start_us,
        "scope": limit.scope.value,
        "plan": caller.plan.name,
        "policy": policy.digest,
    } | _named(caller)
    return UsageEvent(f"threshold-{digest}", policy.source, caller.subject, now_us, data, THRESHOLD_EVENT)
