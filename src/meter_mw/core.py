"""The conversation that decides a request: it yields what it must know, is sent the answers, and judges.

Rule 1: a generator here is a conversation, held by a driver with blocking or with async partners; nothing
below the edges yields for another reason.
Rule 2: what happens while the store is away is policy, written here once: its failure is thrown in.
Rule 3: no clock, no I/O, no framework, no third party.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from meter_mw.admission import Admission, Answer, Reached, Refused, Standing
from meter_mw.identifying import NOBODY, identify
from meter_mw.model import MESSAGES, Count, Request, RequestId
from meter_mw.periods import calendar
from meter_mw.policy.paths import OddPath
from meter_mw.policy.policy import NO_ROUTE, Caller, Mode, Policy, Route
from meter_mw.policy.terms import Exemption, Failure, Line, Scope
from meter_mw.quota import Cap, Rate, Slots
from meter_mw.stores.port import Admit, Charge, NotAsked, Reading, StoreUnavailable, Tally, Verdict
from meter_mw.talk import FENCE, ROUNDS, Price

if TYPE_CHECKING:
    from meter_mw.periods import Windows
    from meter_mw.policy.terms import Limit
    from meter_mw.talk import Conversation

_SLOT_WAIT_US = 1_000_000
"""When to come back for a slot: nobody knows how long those in flight take."""

UNRECORDED = "the usage of this key cannot be recorded at the moment"

LEARNING = "the usage of this key is being brought back"
"""What a client is told whose cap cannot be relied on yet."""

_OWN_ZONE = (Scope.KEY, Scope.SUBJECT, Scope.ACCOUNT)
"""Whose caps follow the zone and the anchor of the key; wider pools follow those of the policy."""


def admit(
    policy: Policy,
    request: Request,
    rid: RequestId,
    now_us: int,
    *,
    records: bool = True,
    learning: bool = False,
) -> Conversation[Admission]:
    """Decide one request; `now_us` is the best guess at the store's time.

    Without `records` there is no place for what it comes to, and nothing is served that is to be counted.
    While the store is `learning` what it has lost, a hard cap answers as if it were away.
    """
    shadow = policy.mode is Mode.SHADOW
    try:
        route = policy.route(request.method, request.path)
    except OddPath as odd:
        route = NO_ROUTE
        if not shadow:
            return Admission(Answer.ODD_PATH, rid, now_us, route, reason=str(odd))
    if route.exemption is Exemption.FREE:
        return Admission(Answer.EXEMPT, rid, now_us, route)
    caller = yield from identify(policy, request)
    if not (records or shadow or isinstance(caller, Refused) or caller.exemption is Exemption.FREE):
        caller = Refused(Answer.UNAVAILABLE, UNRECORDED)
    if isinstance(caller, Refused):
        if not shadow:
            return Admission(caller.answer, rid, now_us, route, reason=caller.reason)
        caller = policy.stranger(NOBODY)
    if caller.exemption is Exemption.FREE:
        return Admission(Answer.EXEMPT, rid, now_us, route)
    if request.is_preflight and caller.key is None:
        return Admission(Answer.ALLOWED, rid, now_us, _free(route, policy), caller)
    route = yield from _priced(route, request)
    lines: tuple[Line, ...] = ()
    if Exemption.COUNTED not in (route.exemption, caller.exemption):
        lines = tuple(
            _sized(line, request) for line in policy.lines(route, caller, now_us) if _bears(line, request)
        )
    sized = request.declared is not None
    asked = Admission(Answer.ALLOWED, rid, now_us, route, caller, lines, sized=sized)
    return (yield from _judge(policy, asked, caller, learning=learning)) if lines else asked


def _judge(policy: Policy, asked: Admission, caller: Caller, *, learning: bool) -> Conversation[Admission]:
    enforces = policy.mode is Mode.ENFORCE
    if learning and enforces and any(_is_unsure(line.limit) for line in asked.lines):
        return asked._replace(answer=Answer.UNAVAILABLE, reason=LEARNING)
    return (yield from _decide(policy, asked, caller))


def _is_unsure(limit: Limit) -> bool:
    """Whether a limit refuses what it cannot check, and cannot while counts are being brought back."""
    closed = limit.on_store_failure is Failure.CLOSED
    return isinstance(limit.quota, Cap) and closed and not limit.shadow


def _free(route: Route, policy: Policy) -> Route:
    """Give the route as it is for preflights: recorded, and neither limited nor billed."""
    counts = (meter.name for meter in policy.meters if meter.count is Count.REQUESTS)
    return replace(route, costs=tuple((name, 0) for name in counts))


def _priced(route: Route, request: Request) -> Conversation[Route]:
    """Give the route with what this request costs there."""
    if route.pricing is None:
        return route
    costs = yield Price(route, request)
    return replace(route, costs=costs) if isinstance(costs, tuple) else route


def _bears(line: Line, request: Request) -> bool:
    """Whether a limit says anything of a request: one on messages is for WebSockets."""
    return request.is_socket or line.limit.meter.count not in MESSAGES


def _sized(line: Line, request: Request) -> Line:
    """Give the line with what the request declares of its body, which all has to fit."""
    if line.limit.meter.count is not Count.REQUEST_BYTES or request.declared is None:
        return line
    return replace(line, need=request.declared, take=request.declared)


def _decide(
    policy: Policy, asked: Admission, caller: Caller, after: RequestId | None = None
) -> Conversation[Admission]:
    now_us = asked.now_us
    on_deny = policy.rules_of(asked.route).on_deny
    for _ in range(ROUNDS):
        charges = charges_of(policy, asked.lines, caller, now_us)
        fence_us = now_us + FENCE * policy.deadline_us
        try:
            tally = yield Admit(asked.rid, caller.tag, fence_us, charges, policy.lease_us, on_deny, after)
        except StoreUnavailable as outage:
            asked = asked._replace(asked_us=0 if isinstance(outage, NotAsked) else now_us)
            break
        if not isinstance(tally, Tally) or tally.verdict is Verdict.VOID:
            asked = asked._replace(asked_us=now_us)
            break
        now_us = tally.now_us
        if tally.verdict in (Verdict.ADMITTED, Verdict.DENIED):
            return _judged(asked, charges, tally)
    return _without_store(policy, asked, charges_of(policy, asked.lines, caller, now_us), now_us)


def continued(policy: Policy, asked: Admission, after: RequestId | None) -> Conversation[Admission]:
    """Have the store hold for a new part of an exchange what `asked` says; it is never refused.

    Slots that the part before, `after`, holds are handed over.
    """
    caller = asked.caller
    if caller is None or not asked.lines:
        return asked
    return (yield from _decide(policy, asked, caller, after))


def charges_of(policy: Policy, lines: tuple[Line, ...], caller: Caller, now_us: int) -> tuple[Charge, ...]:
    """Give what is asked of the store; `now_us` is the best guess at its time."""
    return tuple(
        _charge(
            line,
            _windows(policy, line.limit, caller, now_us),
            line.holder or caller.holder(line.limit.scope),
        )
        for line in lines
    )


def _windows(policy: Policy, limit: Limit, caller: Caller, now_us: int) -> Windows | None:
    """Give the boundaries of a cap's periods around now, in the zone and from the anchor that it follows."""
    if not isinstance(limit.quota, Cap):
        return None
    own = limit.scope in _OWN_ZONE
    zone, anchor = (caller.timezone, caller.anchor) if own else (policy.timezone, None)
    return calendar(limit.quota.period, zone, anchor, policy.week_start).windows(now_us)


@lru_cache(maxsize=4_096)
def _charge(line: Line, windows: Windows | None, holder: str) -> Charge:
    """Give one charge; the same is asked again and again while its window lasts."""
    limit = line.limit
    return Charge(limit.id, limit.quota, line.need, line.take, windows, line.held, limit.shadow, holder)


def _without_store(policy: Policy, asked: Admission, charges: tuple[Charge, ...], now_us: int) -> Admission:
    """Fail open or closed, as each limit says; what is served now is booked when the store is back.

    `now_us` is what the store told last, or the guess where it told nothing.
    """
    closed = any(
        line.limit.on_store_failure is Failure.CLOSED and not line.limit.shadow for line in asked.lines
    )
    return asked._replace(
        answer=Answer.UNAVAILABLE if closed and policy.mode is Mode.ENFORCE else Answer.ALLOWED,
        now_us=now_us,
        charges=charges,
        windows=tuple(window_of(charge, now_us) for charge in charges),
        granted=(),
        reason="the usage of this key cannot be checked at the moment",
    )


def window_of(charge: Charge, now_us: int) -> int:
    """Give where the window opens that counts now."""
    for opening in reversed(charge.windows or (0,)):
        if opening <= now_us:
            return opening
    return 0


def _judged(asked: Admission, charges: tuple[Charge, ...], tally: Tally) -> Admission:
    standings, windows, granted = [], [], []
    unfit, overage = [], []
    found: list[Reached] = []
    for line, charge, reading in zip(asked.lines, charges, tally.readings, strict=True):
        how = standing(line, charge, reading, tally.now_us)
        standings.append(how)
        windows.append(how.start_us)
        granted.append(reading.granted if how.used is not None else charge.take)
        if how.wait_us != 0:
            unfit.append(how)
        if reading.overage and not line.limit.shadow:
            overage.append((line.limit.name, reading.overage))
        if reading.warned[1]:
            found += reached(line, reading.warned, reading)
    return Admission(
        Answer.DENIED if tally.verdict is Verdict.DENIED else Answer.ALLOWED,
        asked.rid,
        tally.now_us,
        asked.route,
        asked.caller,
        asked.lines,
        charges,
        tuple(windows),
        tuple(granted),
        tuple(standings),
        denied_by=tuple(each for each in unfit if not each.line.limit.shadow),
        would_deny=tuple(each for each in unfit if each.line.limit.shadow),
        overage=tuple(overage),
        reached=tuple(found),
        first=asked.first,
        part=asked.part,
        sized=asked.sized,
        asked_us=tally.now_us if tally.verdict is Verdict.ADMITTED else 0,
    )


def reached(line: Line, warned: tuple[int, int], reading: Reading) -> tuple[Reached, ...]:
    """Give the thresholds that a count has reached just now."""
    quota = line.limit.quota
    if warned[0] >= warned[1] or not isinstance(quota, Cap) or line.limit.shadow:
        return ()
    found = (each for each in quota.warn if warned[0] < each <= warned[1])
    return tuple(Reached(line, each, reading.state.whole) for each in found)


def standing(line: Line, charge: Charge, reading: Reading, now_us: int) -> Standing:
    """Say in units and waits what a reading means to the caller."""
    quota = charge.quota
    if isinstance(quota, Rate):
        wait_us = 0 if reading.fits else quota.wait_us(reading.state, now_us, charge.need)
        return Standing(
            line, quota.remaining(reading.state, now_us), quota.reset_us(reading.state, now_us), wait_us
        )
    used = reading.state.part
    if isinstance(quota, Slots):
        wait = 0 if reading.fits else _SLOT_WAIT_US if charge.need <= quota.units else None
        return Standing(line, quota.remaining(used), None, wait, used)
    reset_us = max(0, reading.until_us - now_us)
    wait = 0 if reading.fits else reset_us if charge.need <= quota.most else None
    return Standing(line, quota.remaining(used), reset_us, wait, used, reading.state.whole)
