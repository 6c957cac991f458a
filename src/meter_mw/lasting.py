"""An exchange that lasts: more units held while it streams, and a new part of it now and then.

Rule 1: a response that has begun is never refused more: where a limit cuts, only so much of it passes as was
granted, and where it finishes, all of it does.
Rule 2: an upload, and a socket, are asked for: what does not fit is not read on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meter_mw.admission import Admission, Answer
from meter_mw.charging import charges_of, window_of
from meter_mw.judging import standing
from meter_mw.model import LARGEST_COST, MESSAGES, Count, RequestId
from meter_mw.policy.terms import Failure, OnExhausted
from meter_mw.quota import Rate
from meter_mw.stores.port import StoreUnavailable, Tally, TopUp, Verdict
from meter_mw.talk import FENCE, ROUNDS

if TYPE_CHECKING:
    from meter_mw.admission import Standing
    from meter_mw.policy.policy import Policy, Route
    from meter_mw.policy.terms import Line
    from meter_mw.stores.port import Charge
    from meter_mw.talk import Conversation

UNBOUNDED = sys.maxsize
"""The room of what no limit is on."""

_WIDEST = 16
"""A step is as wide as what has passed already, at most so many reserves."""

_DECLARED = 64
"""Of a length that is declared, so many reserves are held at once."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much may pass: `units` in all before the store is asked again, `passes` of what was asked for.

    `denied_by` names the limits that let no more pass; `unavailable` says that one could not be asked.
    """

    units: int
    passes: int
    denied_by: tuple[Standing, ...] = ()
    unavailable: bool = False


def rooms(admission: Admission) -> dict[Count, int]:
    """Give how many units of each count may pass before the store has to be asked.

    Where it did not answer, that is as many as there are; or none, where what does not fit is stopped and the
    limit fails closed.
    """
    found: dict[Count, int] = {}
    granted = admission.granted or tuple(0 if _waits(line) else UNBOUNDED for line in admission.lines)
    for line, units in zip(admission.lines, granted, strict=True):
        if _is_measured(line):
            count = line.limit.meter.count
            found[count] = min(found.get(count, UNBOUNDED), units)
    return found


def _waits(line: Line) -> bool:
    """Whether nothing of it may pass unasked: it fails closed, and what does not fit can still be stopped."""
    limit = line.limit
    stops = limit.on_exhausted is OnExhausted.CUT or limit.meter.count is not Count.RESPONSE_BYTES
    return stops and limit.on_store_failure is Failure.CLOSED


def _is_measured(line: Line) -> bool:
    """Whether a limit is on what passes while the exchange lasts, and is enforced."""
    return line.held and not line.limit.shadow and line.limit.meter.count in _PASSING


_PASSING = MESSAGES | {Count.REQUEST_BYTES, Count.RESPONSE_BYTES}


def top_up(
    policy: Policy,
    admission: Admission,
    count: Count,
    total: int,
    now_us: int,
    *,
    had: int = 0,
    expected: int | None = None,
    refuses: bool,
) -> Conversation[Room]:
    """Have more held than `had`, so that `total` units of `count` may pass; `expected` is what is declared.

    With `refuses` what does not fit is refused: of an upload, of a socket. A response that has begun is not.
    """
    chosen = tuple(line for line in admission.lines if _is_measured(line) and line.limit.meter.count is count)
    caller = admission.caller
    if not chosen or caller is None:
        return Room(UNBOUNDED, total)
    lines = tuple(_asking(line, total, expected, refuses=refuses) for line in chosen)
    for _ in range(ROUNDS):
        charges = charges_of(policy, lines, caller, now_us)
        fence_us = now_us + FENCE * policy.deadline_us
        try:
            tally = yield TopUp(admission.rid, caller.tag, fence_us, charges, policy.lease_us)
        except StoreUnavailable:
            return _unasked(lines, total)
        if not isinstance(tally, Tally):
            break
        now_us = tally.now_us
        if tally.verdict in (Verdict.ADMITTED, Verdict.DENIED):
            return _room(lines, charges, tally, total, had)
        if tally.verdict is Verdict.VOID:
            return Room(total, total)
    return _unasked(lines, total)


def _asking(line: Line, total: int, expected: int | None, *, refuses: bool) -> Line:
    reserve = max(1, line.limit.reserve)
    ahead = total + min(max(reserve, total), _WIDEST * reserve)
    if line.limit.meter.count in MESSAGES:
        ahead = total + reserve - 1
    if expected is not None:
        ahead = max(total, min(expected, total + _DECLARED * reserve))
    return replace(line, need=total if refuses else 0, take=ahead)


def _unasked(lines: tuple[Line, ...], total: int) -> Room:
    """Let pass, or not, as each limit says of a store that is away."""
    closed = [
        line
        for line in lines
        if line.limit.on_store_failure is Failure.CLOSED
        and (line.need > 0 or line.limit.on_exhausted is OnExhausted.CUT)
    ]
    return Room(0, 0, unavailable=True) if closed else Room(max(line.take for line in lines), total)


def _room(lines: tuple[Line, ...], charges: tuple[Charge, ...], tally: Tally, total: int, had: int) -> Room:
    units = passes = UNBOUNDED
    stops: list[Standing] = []
    for line, charge, reading in zip(lines, charges, tally.readings, strict=True):
        granted = line.take if isinstance(charge.quota, Rate) else reading.granted
        how = standing(line, _beyond(charge, had), reading, tally.now_us)
        if tally.verdict is Verdict.DENIED:
            if how.wait_us != 0:
                stops.append(how)
            units = passes = 0
        elif line.need == 0 and line.limit.on_exhausted is OnExhausted.FINISH:
            units = min(units, max(granted, line.take))
        else:
            units, passes = min(units, granted), min(passes, granted)
            if granted < total:
                stops.append(how._replace(wait_us=how.reset_us))
    return Room(units, min(passes, total), tuple(stops))


def _beyond(charge: Charge, had: int) -> Charge:
    """Give what a rate is waited for: what is needed beyond what is held already."""
    if not isinstance(charge.quota, Rate):
        return charge
    need = max(min(charge.need, 1), charge.need - had)
    return replace(charge, need=need, take=need)


def next_part(
    policy: Policy, admission: Admission, rid: RequestId, now_us: int, *, to_come: int = 0
) -> Admission:
    """Give what is asked for the next part of an exchange: nothing but what is held, and all of it free.

    `to_come` bytes of an upload were granted and have not come yet. Nothing is granted before the store is
    asked; an exchange that ends meanwhile is settled by what stands here.
    """
    costs = tuple((meter.name, 0) for meter in policy.meters if meter.count is Count.REQUESTS)
    caller = admission.caller
    route: Route = replace(admission.route, costs=costs)
    lines: tuple[Line, ...] = ()
    if caller is not None and admission.lines:
        bearing = {line.limit.id for line in admission.lines if line.held}
        every = policy.lines(admission.route, caller, now_us)
        lines = tuple(
            _lasting(line, to_come, sized=admission.sized) for line in every if line.limit.id in bearing
        )
    charges = () if caller is None else charges_of(policy, lines, caller, now_us)
    return Admission(
        Answer.ALLOWED,
        rid,
        now_us,
        route,
        caller,
        lines,
        charges,
        windows=tuple(window_of(each, now_us) for each in charges),
        granted=(0,) * len(lines),
        first=admission.first or admission.rid,
        part=admission.part + 1,
        sized=admission.sized,
        evidence=admission.evidence,
    )


def _lasting(line: Line, to_come: int, *, sized: bool) -> Line:
    """Give the line as it bears on a later part: what is estimated was for the first."""
    match line.limit.meter.count:
        case Count.REPORTED:
            return replace(line, need=0, take=0)
        case Count.REQUEST_BYTES:
            take = to_come if sized else max(line.take, to_come)
            return replace(line, need=0, take=min(take, LARGEST_COST))
        case _:
            return replace(line, need=0)
