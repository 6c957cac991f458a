"""The conversation that decides a request: it yields what it must know, is sent the answers, and judges.

Rule 1: a generator here is a conversation, held by a driver with blocking or with async partners; nothing
below the edges yields for another reason.
Rule 2: what happens while the store is away is policy, written here once: its failure is thrown in.
Rule 3: no clock, no I/O, no framework, no third party.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias, TypeVar

from meter_mw.model import Count, MeterError, Receipt, Request, RequestId, UsageEvent
from meter_mw.periods import calendar
from meter_mw.policy.identity import (
    AmbiguousCredential,
    Credential,
    QueryKey,
    anonymous_subject,
    find_credential,
    pseudonym,
)
from meter_mw.policy.paths import OddPath
from meter_mw.policy.policy import (
    NO_ROUTE,
    Caller,
    Failure,
    KeyEntry,
    Line,
    Mode,
    Policy,
    Route,
    Unknown,
)
from meter_mw.quota import Cap, Rate, standing_window
from meter_mw.stores.port import (
    NO_WINDOWS,
    REMEMBERED_US,
    Admit,
    Booking,
    Charge,
    Reading,
    Settle,
    StoreUnavailable,
    Tally,
    Verdict,
)

_ROUNDS = 3
"""How often a store is asked again about windows or a fence that its clock has left behind."""

_FENCE = 10
"""Deadlines until a store refuses an admission as late.

More than one, as a busy event loop sends late; what is given up on before the fence is cancelled.
"""

_NOBODY = "anon_nobody"
"""The subject of requests that are served without any identity; no key and no address has its name."""


class ResolverUnavailable(MeterError):
    """The operator's resolver gave no usable answer about a key."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask the operator's resolver whose key this is."""

    key: str
    credential: Credential


T = TypeVar("T")
Conversation: TypeAlias = Generator["Admit | Resolve", "Tally | KeyEntry | None", T]
"""Yields an Admit and is sent its Tally, or a Resolve and is sent a KeyEntry or None."""


class Answer(Enum):
    """What a request is told."""

    ALLOWED = "allowed"
    EXEMPT = "exempt"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    UNIDENTIFIED = "unidentified"
    AMBIGUOUS = "ambiguous"
    ODD_PATH = "odd path"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands with one limit, after what this request was charged.

    `remaining` units fit at once; the limit is whole again after `reset_us`. `wait_us` is 0 where the
    request fitted, the µs until it would, or `None` where it never can.
    """

    line: Line
    remaining: int
    reset_us: int
    wait_us: int | None


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer for the whole request, and what has to be settled when it ends.

    `standings` is empty where no store was asked or none answered. `denied_by` names the limits that
    had no room; in shadow mode the request is allowed all the same.
    """

    answer: Answer
    rid: RequestId
    now_us: int
    route: Route
    caller: Caller | None = None
    lines: tuple[Line, ...] = ()
    charges: tuple[Charge, ...] = ()
    windows: tuple[int, ...] = ()
    standings: tuple[Standing, ...] = ()
    denied_by: tuple[Standing, ...] = ()
    reason: str = ""

    @property
    def serves(self) -> bool:
        """Whether the app is to see the request."""
        return self.answer is Answer.ALLOWED or self.answer is Answer.EXEMPT

    @property
    def retry_after_us(self) -> int | None:
        """The µs after which the same request would be admitted; `None` for never."""
        waits = [each.wait_us for each in self.denied_by]
        return None if None in waits else max((wait for wait in waits if wait is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a request has no caller."""

    answer: Answer
    reason: str


def admit(policy: Policy, request: Request, rid: RequestId, now_us: int) -> Conversation[Admission]:
    """Decide one request; `now_us` is the best guess at the store's time."""
    shadow = policy.mode is Mode.SHADOW
    try:
        route = policy.route(request.method, request.path)
    except OddPath as odd:
        route = NO_ROUTE
        if not shadow:
            return Admission(Answer.ODD_PATH, rid, now_us, route, reason=str(odd))
    if route.exempt:
        return Admission(Answer.EXEMPT, rid, now_us, route)
    caller = yield from _identify(policy, request)
    if isinstance(caller, _Refusal):
        if not shadow:
            return Admission(caller.answer, rid, now_us, route, reason=caller.reason)
        caller = policy.stranger(_NOBODY)
    if request.is_preflight and caller.key is None:
        return Admission(Answer.ALLOWED, rid, now_us, _free(route, policy), caller)
    lines = policy.lines(route, caller.plan)
    if not lines:
        return Admission(Answer.ALLOWED, rid, now_us, route, caller)
    return (yield from _decide(policy, Admission(Answer.ALLOWED, rid, now_us, route, caller, lines), caller))


def _identify(policy: Policy, request: Request) -> Conversation[Caller | _Refusal]:
    rules = policy.identity
    places = rules.places
    if request.is_preflight:
        # It has the URL of the request to come, and so a key in its query, and nothing else of it.
        places = tuple(place for place in places if not isinstance(place, QueryKey))
    try:
        credential = find_credential(places, request.field, request.query)
    except AmbiguousCredential as ambiguity:
        return _Refusal(Answer.AMBIGUOUS, str(ambiguity))
    if credential is None:
        return _anonymous(policy, request)
    key = pseudonym(rules.secret, credential)
    return policy.listed(key) or (yield from _unlisted(policy, key, credential))


def _anonymous(policy: Policy, request: Request) -> Caller | _Refusal:
    rules = policy.identity
    if rules.anonymous is None and request.is_preflight:
        return policy.stranger(_NOBODY)
    if rules.anonymous is None:
        return _Refusal(Answer.UNIDENTIFIED, "this API needs a key")
    address = rules.trusted_proxies.client_address(request.peer, request.field("x-forwarded-for"))
    subject = anonymous_subject(rules.secret, address or "unknown")
    return policy.stranger(subject, rules.anonymous.plan)


def _free(route: Route, policy: Policy) -> Route:
    """Give the route as it is for preflights: recorded, and neither limited nor billed."""
    counts = (meter.name for meter in policy.meters if meter.count is Count.REQUESTS)
    return replace(route, costs=tuple((name, 0) for name in counts))


def _unlisted(policy: Policy, key: str, credential: Credential) -> Conversation[Caller | _Refusal]:
    entry: Tally | KeyEntry | None = None
    if policy.resolver is not None:
        try:
            entry = yield Resolve(key, credential)
        except ResolverUnavailable as outage:
            return _Refusal(Answer.UNAVAILABLE, str(outage))
    if isinstance(entry, KeyEntry):
        return policy.caller(entry, key)
    if policy.identity.unknown is Unknown.REJECT:
        return _Refusal(Answer.UNIDENTIFIED, "the key is not known")
    return policy.stranger(key, key=key)


def _decide(policy: Policy, asked: Admission, caller: Caller) -> Conversation[Admission]:
    now_us = asked.now_us
    for _ in range(_ROUNDS):
        charges = _charges(asked.lines, caller, now_us)
        try:
            tally = yield Admit(asked.rid, caller.tag, now_us + _FENCE * policy.deadline_us, charges)
        except StoreUnavailable:
            break
        if not isinstance(tally, Tally) or tally.verdict is Verdict.VOID:
            break
        now_us = tally.now_us
        if tally.verdict in (Verdict.ADMITTED, Verdict.DENIED):
            return _judged(policy, asked, charges, tally)
    return _without_store(policy, asked, _charges(asked.lines, caller, now_us), now_us)


def _charges(lines: tuple[Line, ...], caller: Caller, now_us: int) -> tuple[Charge, ...]:
    return tuple(_charge(line, caller, now_us) for line in lines)


def _charge(line: Line, caller: Caller, now_us: int) -> Charge:
    quota = line.limit.quota
    if isinstance(quota, Cap):
        windows = calendar(quota.period, caller.timezone, caller.anchor).windows(now_us)
        return Charge(line.limit.id, quota, line.need, line.take, windows)
    return Charge(line.limit.id, quota, line.need, line.take)


def _without_store(policy: Policy, asked: Admission, charges: tuple[Charge, ...], now_us: int) -> Admission:
    """Fail open or closed, as each limit says; what is served now is booked when the store is back.

    `now_us` is what the store told last, or the guess where it told nothing.
    """
    closed = any(line.limit.on_store_failure is Failure.CLOSED for line in asked.lines)
    windows = tuple(_window(charge, now_us) for charge in charges)
    return Admission(
        Answer.UNAVAILABLE if closed and policy.mode is Mode.ENFORCE else Answer.ALLOWED,
        asked.rid,
        now_us,
        asked.route,
        asked.caller,
        asked.lines,
        charges,
        windows,
        reason="the usage of this key cannot be checked at the moment",
    )


def _window(charge: Charge, now_us: int) -> int:
    return 0 if charge.windows is None else standing_window(0, charge.windows, now_us)[0]


def _judged(policy: Policy, asked: Admission, charges: tuple[Charge, ...], tally: Tally) -> Admission:
    standings = tuple(
        _standing(line, charge, reading, tally)
        for line, charge, reading in zip(asked.lines, charges, tally.readings, strict=True)
    )
    denied = tally.verdict is Verdict.DENIED
    return Admission(
        Answer.DENIED if denied and policy.mode is Mode.ENFORCE else Answer.ALLOWED,
        asked.rid,
        tally.now_us,
        asked.route,
        asked.caller,
        asked.lines,
        charges,
        tuple(
            0 if charge.windows is None else reading.state.whole
            for charge, reading in zip(charges, tally.readings, strict=True)
        ),
        standings,
        tuple(each for each in standings if each.wait_us != 0) if denied else (),
    )


def _standing(line: Line, charge: Charge, reading: Reading, tally: Tally) -> Standing:
    """Say in units and waits what a reading means to the caller."""
    now_us, quota = tally.now_us, charge.quota
    if isinstance(quota, Rate):
        wait_us = 0 if reading.fits else quota.wait_us(reading.state, now_us, charge.need)
        return Standing(
            line, quota.remaining(reading.state, now_us), quota.reset_us(reading.state, now_us), wait_us
        )
    _, closing = standing_window(reading.state.whole, charge.windows or NO_WINDOWS, now_us)
    reset_us = max(0, closing - now_us)
    wait_us = 0 if reading.fits else reset_us if charge.need <= quota.units else None
    return Standing(line, quota.remaining(reading.state.part), reset_us, wait_us)


def settlement(admission: Admission, receipt: Receipt) -> Settle | None:
    """Give what has to be booked when the exchange is over.

    A request that shadow mode let through was charged nothing, and is booked nothing. Of one that took
    longer than a store remembers, what was taken stays, and only what came on top is booked.
    """
    if admission.caller is None or not admission.charges or admission.denied_by:
        return None
    forgotten = bool(admission.standings) and receipt.duration_us >= REMEMBERED_US
    bookings = tuple(
        _booking(charge, used(line, receipt), window, forgotten=forgotten)
        for line, charge, window in zip(admission.lines, admission.charges, admission.windows, strict=True)
    )
    return Settle(admission.rid, admission.caller.tag, bookings)


def _booking(charge: Charge, actual: int, window: int, *, forgotten: bool) -> Booking:
    if forgotten:
        return Booking(replace(charge, take=0), max(0, actual - charge.take), window)
    return Booking(charge, actual, window)


def used(line: Line, receipt: Receipt) -> int:
    """Give the units of a limit's meter that an exchange turned out to use."""
    match line.limit.meter.count:
        case Count.REQUESTS:
            return line.take
        case Count.REQUEST_BYTES:
            return receipt.request_bytes
        case Count.RESPONSE_BYTES:
            return receipt.response_bytes
        case Count.REPORTED:
            return receipt.reported.get(line.limit.meter.name, 0)


def usage_event(policy: Policy, admission: Admission, method: str, receipt: Receipt) -> UsageEvent:
    """Give the one immutable record of a counted request."""
    caller = admission.caller
    if caller is None:
        raise ValueError("a request without a caller is not counted")
    data: dict[str, object] = {
        meter.name: admission.route.cost(meter) for meter in policy.meters if meter.count is Count.REQUESTS
    }
    data |= {"request_bytes": receipt.request_bytes, "response_bytes": receipt.response_bytes}
    data |= receipt.reported
    data |= {
        "route": admission.route.name,
        "method": method,
        "status": receipt.status,
        "plan": caller.plan.name,
        "duration_us": receipt.duration_us,
        "policy": policy.digest,
    } | _named(caller)
    if admission.denied_by:
        data |= {"limited_by": [each.line.limit.name for each in admission.denied_by], "shadow": True}
    return UsageEvent(admission.rid, policy.source, caller.subject, admission.now_us, data)


def _named(caller: Caller) -> dict[str, object]:
    """Give the fields of an event that only some callers have."""
    known = {"key": caller.key, "account": caller.account}
    return {name: value for name, value in known.items() if value is not None}


def amendment(
    policy: Policy, admission: Admission, rid: RequestId, now_us: int, reported: dict[str, int]
) -> tuple[UsageEvent, Settle | None]:
    """Give the record, and the booking, of units that were reported after their request had ended.

    An id determines its payload, so they are an event of their own, which names the request it amends.
    Of a request that shadow mode let through nothing is booked, as in its settlement.
    """
    caller = admission.caller
    if caller is None:
        raise ValueError("a request without a caller is not counted")
    data: dict[str, object] = {meter.name: 0 for meter in policy.meters if meter.count is Count.REQUESTS}
    data |= {"request_bytes": 0, "response_bytes": 0, **reported}
    data |= {
        "route": admission.route.name,
        "plan": caller.plan.name,
        "policy": policy.digest,
        "amends": admission.rid,
    } | _named(caller)
    event = UsageEvent(rid, policy.source, caller.subject, now_us, data)
    bookings = tuple(
        Booking(charge, reported[line.limit.meter.name], window)
        for line, charge, window in zip(admission.lines, admission.charges, admission.windows, strict=True)
        if line.limit.meter.name in reported and not admission.denied_by
    )
    return event, Settle(rid, caller.tag, bookings) if bookings else None
