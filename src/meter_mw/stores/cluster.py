"""A command over several slots of a cluster: taken apart into steps, and put together again; pure.

Rule 1: a step is what a command asks under one hash tag; one script call decides it, and keeps the rid there.
Rule 2: the subject's own step goes first, as most denials are there, and one who is over their own limits
takes nothing from what others share. The pools' steps go together after it. But those whose node failed last
go before: where it still does, nothing has been charged, and the settlement books and marks all of it.
Rule 3: all are charged before anyone is told, so no limit is passed; a denial gives back what the others
were charged before it is told, or in the background where their nodes do not answer in time.
Rule 4: a failure is left to the caller like that of one node: who serves settles, and who refuses cancels.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from meter_mw.quota import OnDeny, Rate
from meter_mw.stores.holder import Holder
from meter_mw.stores.port import (
    Booking,
    Cancel,
    Closed,
    Note,
    Outcome,
    Reading,
    Settle,
    StoreUnavailable,
    Tally,
    TopUp,
    Verdict,
)
from meter_mw.stores.redis_protocol import Call, admit_call, closed, closing_call, peek_call, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.stores.port import Admit, Charge, Closing

T = TypeVar("T")
Asking: TypeAlias = Generator[tuple[Call, ...], list[object], T]
"""Yields calls to be made at the same time; is sent their replies, StoreUnavailable for those without one."""

Known: TypeAlias = "Tally | StoreUnavailable"
"""What a step was answered."""

_OUTCOMES = (Outcome.RECOVERED, Outcome.APPLIED, Outcome.ALREADY, Outcome.VOID)
"""The first of these that any step of a closing came to is what became of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The charges of a command that are under one tag, and their places in it."""

    tag: str
    at: tuple[int, ...]
    charges: tuple[Charge, ...]


def split(tag: str, charges: Sequence[Charge]) -> tuple[Step, ...]:
    """Give the steps of a command: that of the subject first, if it has one, then by tag."""
    places: dict[str, list[int]] = {} if charges else {tag: []}
    for index, charge in enumerate(charges):
        places.setdefault(charge.holder.partition(":")[0] or tag, []).append(index)
    return tuple(
        Step(name, tuple(places[name]), tuple(charges[index] for index in places[name]))
        for name in sorted(places, key=lambda name: (name != tag, name))
    )


def decide(
    command: Admit | TopUp, clock: int, later: Callable[[Closing], None], fails: Callable[[str], bool]
) -> Asking[Tally]:
    """Decide a command, or raise StoreUnavailable.

    `later` closes what could not be closed now; `fails` says whether the node of a tag failed last.
    """
    steps = split(command.tag, command.charges)
    if isinstance(command, TopUp):
        return (yield from _topped_up(command, steps, clock))
    told: dict[Step, Known] = {}
    for phase in _phases(steps, command.tag, fails):
        told |= yield from _asked(command, phase, clock)
        if any(_is(each, Verdict.DENIED) for each in told.values()):
            if len(steps) > 1:
                return (yield from _denied(command, told, steps, clock, later))
            break
        if not all(_is(each, Verdict.ADMITTED) for each in told.values()):
            break
    return _judged(told)


def together(talks: Sequence[Asking[T]]) -> Asking[list[T | StoreUnavailable]]:
    """Hold several conversations at the same time; give what each came to, or the failure that ended it."""
    came: dict[int, T | StoreUnavailable] = {}
    asking: dict[int, tuple[Call, ...]] = {}
    told: dict[int, list[object] | None] = dict.fromkeys(range(len(talks)))
    while told:
        for index, replies in told.items():
            try:
                asking[index] = next(talks[index]) if replies is None else talks[index].send(replies)
            except StopIteration as end:
                came[index] = end.value
            except StoreUnavailable as failure:
                came[index] = failure
        if not asking:
            break
        all_replies = iter((yield tuple(call for calls in asking.values() for call in calls)))
        told = {index: [next(all_replies) for _ in calls] for index, calls in asking.items()}
        asking = {}
    return [came[index] for index in range(len(talks))]


def _phases(steps: tuple[Step, ...], tag: str, fails: Callable[[str], bool]) -> Sequence[Sequence[Step]]:
    """Give the steps that go together, in their order (Rule 2)."""
    if len(steps) == 1:
        return [steps]
    failing = [step for step in steps if fails(step.tag)]
    own = [step for step in steps if step.tag == tag and step not in failing]
    pools = [step for step in steps if step.tag != tag and step not in failing]
    return [phase for phase in (failing, own, pools) if phase]


def _topped_up(command: TopUp, steps: tuple[Step, ...], clock: int) -> Asking[Tally]:
    """Top up all steps, once a look at them has said that all have room.

    A top-up is never taken back: in the rare case that one finds no room after all, what the others hold
    stays held until the settlement.
    """
    if len(steps) > 1:
        look = command._replace(charges=tuple(replace(each, take=0) for each in command.charges))
        looked = yield from _asked(look, split(look.tag, look.charges), clock)
        if not all(_is(each, Verdict.ADMITTED) for each in looked.values()):
            return _judged(looked)
    return _judged((yield from _asked(command, steps, clock)))


def _asked(command: Admit | TopUp, steps: Sequence[Step], clock: int) -> Asking[dict[Step, Known]]:
    parts = (command._replace(tag=step.tag, charges=step.charges) for step in steps)
    replies = yield tuple(admit_call(each, clock) for each in parts)
    return {step: _read(reply) for step, reply in zip(steps, replies, strict=True)}


def _judged(told: dict[Step, Known]) -> Tally:
    """Give the one answer of all steps: the first of a denial, a failure, and what else is no admission."""
    tallies = [each for each in told.values() if isinstance(each, Tally)]
    denial = next((each for each in tallies if each.verdict is Verdict.DENIED), None)
    if denial is None:
        for each in told.values():
            if isinstance(each, StoreUnavailable):
                raise each
        for each in tallies:
            if each.verdict is not Verdict.ADMITTED:
                return Tally(each.verdict, each.now_us)
    first = denial or tallies[0]
    return _together(first, {step: _readings(step, known, first) for step, known in told.items()})


def _denied(
    command: Admit,
    told: dict[Step, Known],
    steps: tuple[Step, ...],
    clock: int,
    later: Callable[[Closing], None],
) -> Asking[Tally]:
    """Give back what the other steps were charged, and look how they stand."""
    denial = next(
        each for each in told.values() if isinstance(each, Tally) and each.verdict is Verdict.DENIED
    )
    others = [step for step in steps if not _is(told.get(step), Verdict.DENIED)]
    undoings = [_undoing(command, step, told.get(step)) for step in others]
    calls: list[Call] = []
    for step, undoing in zip(others, undoings, strict=True):
        calls += [] if undoing is None else [closing_call(undoing, clock)]
        calls.append(peek_call(step.tag, step.charges, clock))
    replies = iter((yield tuple(calls)))
    readings = {step: _readings(step, known, denial) for step, known in told.items()}
    for step, undoing in zip(others, undoings, strict=True):
        if undoing is not None and isinstance(_closed(next(replies)), StoreUnavailable):
            later(undoing)
        looked = _read(next(replies))
        if (isinstance(looked, Tally) and looked.readings) or step not in readings:
            told_before = readings.get(step)
            readings[step] = _readings(step, looked, denial)
            if told_before:
                readings[step] = tuple(map(_announcing, readings[step], told_before))
    return _together(denial, readings)


def _announcing(reading: Reading, charged: Reading) -> Reading:
    """Keep what the charge announced: a threshold is told once, and giving back does not untell it."""
    return reading._replace(warned=charged.warned)


def _undoing(command: Admit, step: Step, known: Known | None) -> Closing | None:
    """Give what takes back a step that was charged, or may have been; rates keep it if a denial costs all."""
    if known is None or (isinstance(known, Tally) and known.verdict is not Verdict.ADMITTED):
        return None
    if isinstance(known, StoreUnavailable) or command.on_deny is not OnDeny.ALL:
        return Cancel(command.rid, step.tag, step.charges)
    counts = (isinstance(each.quota, Rate) and not each.shadow for each in step.charges)
    bookings = (
        Booking(each, each.take if counted else 0) for each, counted in zip(step.charges, counts, strict=True)
    )
    return Settle(command.rid, step.tag, tuple(bookings))


def _readings(step: Step, known: Known, first: Tally) -> tuple[Reading, ...]:
    """Give what a step was told; where that is nothing, it is taken to be at rest."""
    if isinstance(known, Tally) and len(known.readings) == len(step.charges):
        return known.readings
    return tuple(Holder().ask(each, first.now_us).reading() for each in step.charges)


def _together(first: Tally, readings: dict[Step, tuple[Reading, ...]]) -> Tally:
    """Put readings into the order of the command's charges."""
    placed = {
        place: reading
        for step, told in readings.items()
        for place, reading in zip(step.at, told, strict=True)
    }
    return Tally(first.verdict, first.now_us, tuple(placed[place] for place in sorted(placed)))


def look(tag: str, charges: tuple[Charge, ...], clock: int) -> Asking[Tally]:
    """Read all steps at the same time."""
    steps = split(tag, charges)
    replies = yield tuple(peek_call(step.tag, step.charges, clock) for step in steps)
    told = {step: _read(reply) for step, reply in zip(steps, replies, strict=True)}
    for known in told.values():
        if isinstance(known, StoreUnavailable):
            raise known
        if known.verdict is Verdict.REFRESH:
            return known
    return _judged(told)


def close(closings: Sequence[Closing], clock: int) -> Asking[tuple[list[Closed], int]]:
    """Close all steps of all at the same time, or raise StoreUnavailable; give the store's time as well."""
    steps = [split(each.tag, [booking.charge for booking in each.bookings]) for each in closings]
    parts = [
        _part(closing, step) for closing, several in zip(closings, steps, strict=True) for step in several
    ]
    replies = iter((yield tuple(closing_call(each, clock) for each in parts)))
    answers, now_us = [], 0
    for several in steps:
        outcomes, notes = set(), []
        for step in several:
            known = _closed(next(replies))
            if isinstance(known, StoreUnavailable):
                raise known
            answer, now_us = known
            outcomes.add(answer.outcome)
            notes += [Note(step.at[note.booking], note.overage, note.warned) for note in answer.notes]
        outcome = next(each for each in _OUTCOMES if each in outcomes)
        answers.append(Closed(outcome, tuple(sorted(notes, key=_index))))
    return answers, now_us


def _part(closing: Closing, step: Step) -> Closing:
    if isinstance(closing, Cancel):
        return Cancel(closing.rid, step.tag, step.charges)
    return Settle(closing.rid, step.tag, tuple(closing.bookings[place] for place in step.at))


def _index(note: Note) -> int:
    return note.booking


def _read(reply: object) -> Known:
    try:
        return reply if isinstance(reply, StoreUnavailable) else tally(reply)
    except StoreUnavailable as garbled:
        return garbled


def _closed(reply: object) -> tuple[Closed, int] | StoreUnavailable:
    try:
        return reply if isinstance(reply, StoreUnavailable) else closed(reply)
    except StoreUnavailable as garbled:
        return garbled


def _is(known: Known | None, verdict: Verdict) -> bool:
    return isinstance(known, Tally) and known.verdict is verdict
