"""The conversation that decides a request: it yields what it must know, is sent the answers, and judges.

Rule 1: a generator here is a conversation, held by a driver with blocking or with async partners; nothing
below the edges yields for another reason.
Rule 2: what happens while the store is away is policy, written here once: its failure is thrown in.
Rule 3: no clock, no I/O, no framework, no third party.
Rule 4: what is lent to this process is taken before the store is asked for the rest, and given back where the
request is not served.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from meter_mw.admission import Admission, Answer, Lent, Refused
from meter_mw.charging import charges_of, window_of
from meter_mw.identifying import NOBODY, identify
from meter_mw.judging import judged
from meter_mw.model import Count
from meter_mw.policy.paths import OddPath
from meter_mw.policy.policy import NO_ROUTE, Mode
from meter_mw.policy.terms import Exemption, Failure
from meter_mw.quota import Cap, OnDeny
from meter_mw.ready import Readies
from meter_mw.stores.port import Admit, NotAsked, StoreUnavailable, Tally, Verdict
from meter_mw.talk import FENCE, ROUNDS, Price

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.leasing.pool import Share
    from meter_mw.model import Meter, Request, RequestId
    from meter_mw.policy.policy import Caller, Policy, Route
    from meter_mw.policy.terms import Limit
    from meter_mw.ready import Part, Ready
    from meter_mw.stores.port import Charge
    from meter_mw.talk import Conversation

UNRECORDED = "the usage of this key cannot be recorded at the moment"

LEARNING = "the usage of this key is being brought back"
"""What a client is told whose cap cannot be relied on yet."""


def admit(
    policy: Policy,
    request: Request,
    rid: RequestId,
    now_us: int,
    *,
    readies: Readies | None = None,
    records: bool = True,
    learning: bool = False,
) -> Conversation[Admission]:
    """Decide one request; `now_us` is the best guess at the store's time.

    `readies` keep what requests ask for, and lend it where there are leases. Without `records` there is no
    place for what it comes to, and nothing is served that is to be counted. While the store is `learning`
    what it has lost, a hard cap answers as if it were away.
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
    caller = yield from identify(policy, request, now_us)
    if not (records or shadow or isinstance(caller, Refused) or caller.exemption is Exemption.FREE):
        caller = Refused(Answer.UNAVAILABLE, UNRECORDED)
    if isinstance(caller, Refused):
        if not shadow:
            return Admission(caller.answer, rid, now_us, route, reason=caller.reason)
        caller = policy.stranger(NOBODY)
    if caller.exemption is Exemption.FREE:
        return Admission(Answer.EXEMPT, rid, now_us, route)
    if request.is_preflight and caller.key is None:
        return Admission(Answer.ALLOWED, rid, now_us, _free(route, policy.meters), caller)
    route = yield from _priced(route, request)
    asked = Admission(Answer.ALLOWED, rid, now_us, route, caller, sized=request.declared is not None)
    if Exemption.COUNTED not in (route.exemption, caller.exemption):
        ready = (readies or Readies(policy)).of(route, caller, request, now_us)
        asked = yield from _judge(policy, asked, ready, learning=learning and not shadow)
    return asked


def _judge(policy: Policy, asked: Admission, ready: Ready, *, learning: bool) -> Conversation[Admission]:
    if learning and any(_is_unsure(line.limit) for line in ready.asked.lines):
        return asked._replace(lines=ready.asked.lines, answer=Answer.UNAVAILABLE, reason=LEARNING)
    decided = decide(policy, asked, ready)
    return decided if isinstance(decided, Admission) else (yield from decided)


def decide(policy: Policy, asked: Admission, ready: Ready) -> Admission | Conversation[Admission]:
    """Decide at once what nobody need be asked for: from leases, or as it was refused a moment ago.

    Give the conversation with the store that anything else takes; it has to be held.
    """
    refused = _refused_again(policy, asked, ready)
    if refused is not None:
        return refused
    drawn = ready.draw(asked.now_us)
    part = ready.part(drawn)
    if part.lines:
        return _ask(policy, asked, ready, part, drawn)
    return asked._replace(lent=_lent(ready, drawn)) if drawn else asked


def _ask(
    policy: Policy, asked: Admission, ready: Ready, part: Part, drawn: Sequence[Share | None]
) -> Conversation[Admission]:
    """Ask the store for what is not lent; give back what is where the request is not served."""
    asked = asked._replace(lines=part.lines)
    try:
        admission = yield from _decide(policy, asked, ready.caller, ready=(ready, part))
    except BaseException:
        _give_back(drawn)
        raise
    if not admission.serves:
        counts = admission.answer is Answer.DENIED and policy.rules_of(ready.route).on_deny is OnDeny.ALL
        _give_back(drawn, rates_keep=counts)
    elif any(drawn):
        return admission._replace(lent=_lent(ready, drawn))
    return admission


def _lent(ready: Ready, drawn: Sequence[Share | None]) -> Lent:
    """Give what was taken from leases."""
    shares = tuple([share for share in drawn if share is not None])
    if len(shares) == len(drawn):
        return Lent(shares, ready.asked.lines, ready.places)
    taken = zip(ready.places, drawn, strict=True)
    return Lent(shares, ready.asked.lines, tuple(places for places, share in taken if share is not None))


def _give_back(drawn: Sequence[Share | None], *, rates_keep: bool = False) -> None:
    """Take back what is not used after all; with `rates_keep` rates do: the refusal counts against them."""
    for share in drawn:
        if share is not None and rates_keep:
            share.lease.end(charged=False)
        elif share is not None:
            share.lease.give_back()


def _refused_again(policy: Policy, asked: Admission, ready: Ready) -> Admission | None:
    """Refuse what the store refused a moment ago, where that goes on and refusals count for nothing."""
    again = ready.denied(asked.now_us)
    if again is None or policy.rules_of(ready.route).on_deny is not OnDeny.NONE:
        return None
    part, tally = again
    return judged(asked._replace(lines=part.lines), part.charges, tally)


def _is_unsure(limit: Limit) -> bool:
    """Whether a limit refuses what it cannot check, and cannot while counts are being brought back."""
    closed = limit.on_store_failure is Failure.CLOSED
    return isinstance(limit.quota, Cap) and closed and not limit.shadow


@lru_cache(maxsize=256)
def _free(route: Route, meters: tuple[Meter, ...]) -> Route:
    """Give the route as it is for preflights: recorded, and neither limited nor billed."""
    counts = (meter.name for meter in meters if meter.count is Count.REQUESTS)
    return replace(route, costs=tuple((name, 0) for name in counts))


def _priced(route: Route, request: Request) -> Conversation[Route]:
    """Give the route with what this request costs there."""
    if route.pricing is None:
        return route
    costs = yield Price(route, request)
    if isinstance(costs, tuple) and not isinstance(costs, Tally):
        return replace(route, costs=costs)
    return route


def _decide(
    policy: Policy,
    asked: Admission,
    caller: Caller,
    *,
    ready: tuple[Ready, Part] | None = None,
    after: RequestId | None = None,
) -> Conversation[Admission]:
    now_us = asked.now_us
    on_deny = policy.rules_of(asked.route).on_deny
    charges = charges_of(policy, asked.lines, caller, now_us) if ready is None else ready[1].charges
    for _ in range(ROUNDS):
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
        if tally.verdict is Verdict.ADMITTED or tally.verdict is Verdict.DENIED:
            if ready is not None and charges is ready[1].charges:
                ready[0].saw(ready[1], tally)
            return judged(asked, charges, tally)
        charges = charges_of(policy, asked.lines, caller, now_us)
    return _without_store(policy, asked, charges, now_us)


def continued(policy: Policy, asked: Admission, after: RequestId | None) -> Conversation[Admission]:
    """Have the store hold for a new part of an exchange what `asked` says; it is never refused.

    Slots that the part before, `after`, holds are handed over.
    """
    caller = asked.caller
    if caller is None or not asked.lines:
        return asked
    return (yield from _decide(policy, asked, caller, after=after))


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
