"""More units while an exchange lasts, and its parts: what is asked, and how much may pass."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import pytest

from meter_mw.admission import Admission, Answer
from meter_mw.core import continued
from meter_mw.lasting import UNBOUNDED, Room, next_part, rooms, top_up
from meter_mw.model import Count, Meter, RequestId
from meter_mw.periods import Period
from meter_mw.policy.terms import Failure, KeyEntry, Limit, OnExhausted, Override
from meter_mw.quota import Cap, Span
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, Reading, StoreUnavailable, Tally, TopUp, Verdict
from meter_mw.talk import ROUNDS
from support.policies import (
    DAY_US,
    EGRESS,
    INGRESS,
    METERS,
    SECOND_US,
    TOKENS,
    cap,
    held,
    policy,
    rate,
    request,
    route,
    slots,
)
from support.talks import NOW_US, RID, admission_on, ended, failed

if TYPE_CHECKING:
    from meter_mw.policy.policy import Policy
    from meter_mw.talk import Conversation
    from meter_mw.testing.stores import Clock

PART = RequestId("01900000-0000-7000-8000-000000000009")
MESSAGES = Meter("told", Count.RESPONSE_MESSAGES)


def bytes_of(limit: Limit, *, reserve: int = 100, cut: bool = False, on: Failure | None = None) -> Limit:
    """Make a limit hold a reserve, and cut or finish what has begun."""
    ends = OnExhausted.CUT if cut else OnExhausted.FINISH
    changed = replace(limit, reserve=reserve, on_exhausted=ends)
    return changed if on is None else replace(changed, on_store_failure=on)


def egress(units: int, *, reserve: int = 100, cut: bool = False, on: Failure = Failure.CLOSED) -> Limit:
    """Make a cap on response bytes."""
    return bytes_of(cap(units, meter=EGRESS), reserve=reserve, cut=cut, on=on)


def asked(
    rules: Policy,
    admission: Admission,
    total: int,
    *,
    count: Count = Count.RESPONSE_BYTES,
    expected: int | None = None,
    refuses: bool = False,
) -> tuple[Conversation[Room], TopUp]:
    """Begin to ask for more."""
    talk = top_up(rules, admission, count, total, NOW_US, expected=expected, refuses=refuses)
    command = next(talk)
    assert isinstance(command, TopUp)
    return talk, command


def widened(store: MemoryStore, rules: Policy, admission: Admission, total: int, **options: object) -> Room:
    """Ask a store for more."""
    talk, command = asked(rules, admission, total, **options)  # type: ignore[arg-type]  # passed on
    return ended(talk, store.admit(command))


# What may pass


def test_without_a_limit_everything_may_pass() -> None:
    """No store is asked, and there is no bound to compare with."""
    rules = policy(cap(9), slots(3), cap(99, meter=TOKENS, name="tokens"))
    admission = admission_on(rules, request(key="k"))
    assert rooms(admission) == {}
    talk = top_up(rules, admission, Count.RESPONSE_BYTES, 7, NOW_US, refuses=False)
    assert ended(talk) == Room(UNBOUNDED, 7)


def test_the_tightest_grant_is_the_room(clock: Clock) -> None:
    """Of several limits on a count the least that was granted may pass before the store is asked."""
    both = (egress(1_000, reserve=300), replace(egress(50, reserve=300), name="small"))
    ingress = bytes_of(cap(500, meter=INGRESS, name="ingress"))
    rules = policy(*both, ingress, replace(egress(1, reserve=1), name="shadow", shadow=True))
    admission = held(rules, request(key="k", transfer_encoding="chunked"), MemoryStore(clock))
    assert rooms(admission) == {Count.RESPONSE_BYTES: 50, Count.REQUEST_BYTES: 100}


@pytest.mark.parametrize(
    ("cut", "on", "room"),
    [
        (True, Failure.CLOSED, 0),
        (True, Failure.OPEN, UNBOUNDED),
        (False, Failure.CLOSED, UNBOUNDED),
        (False, Failure.OPEN, UNBOUNDED),
    ],
)
def test_without_the_stores_answer_only_what_cuts_and_is_closed_waits(
    cut: bool, on: Failure, room: int
) -> None:
    """The store is away, when the exchange begins or when its next part is asked for."""
    rules = policy(egress(1_000, cut=cut, on=on))
    first = admission_on(rules, request(key="k"))
    talk = continued(rules, next_part(rules, first, PART, NOW_US), first.rid)
    next(talk)
    part = failed(talk, StoreUnavailable("gone"))
    assert rooms(part) == {Count.RESPONSE_BYTES: room}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("on", list(Failure))
def test_nothing_is_granted_before_the_store_is_asked(cut: bool, on: Failure) -> None:
    """While a part is being asked for it has no room, whatever its limits say of a store that is away."""
    rules = policy(egress(1_000, cut=cut, on=on))
    part = next_part(rules, admission_on(rules, request(key="k")), PART, NOW_US)
    assert rooms(part) == {Count.RESPONSE_BYTES: 0}


# How much is asked


@pytest.mark.parametrize(
    ("total", "take"), [(1, 101), (100, 200), (101, 202), (1_000, 2_000), (1_600, 3_200), (5_000, 6_600)]
)
def test_steps_widen_with_what_has_passed(total: int, take: int) -> None:
    """A reserve ahead at first, then as much again as has passed, at most 16 reserves."""
    rules = policy(egress(10**6))
    _, command = asked(rules, admission_on(rules, request(key="k")), total)
    assert [(each.need, each.take, each.held) for each in command.charges] == [(0, take, True)]
    assert (command.rid, command.lease_us) == (RID, rules.lease_us)
    assert command.not_after_us == NOW_US + 10 * rules.deadline_us


@pytest.mark.parametrize(
    ("total", "expected", "take"),
    [(10, 500, 500), (10, 5, 10), (10, 50_000, 6_410), (45_000, 50_000, 50_000), (10, 0, 10)],
)
def test_a_declared_length_is_held_at_once(total: int, expected: int, take: int) -> None:
    """What the response says it will be, up to 64 reserves ahead, and never less than what passes."""
    rules = policy(egress(10**6))
    _, command = asked(rules, admission_on(rules, request(key="k")), total, expected=expected)
    assert [each.take for each in command.charges] == [take]


@pytest.mark.parametrize(("reserve", "take"), [(1, 7), (10, 16)])
def test_messages_are_asked_for_one_by_one(reserve: int, take: int) -> None:
    """Or as many at a time as their reserve says: they are few."""
    limit = bytes_of(cap(99, meter=MESSAGES), reserve=reserve)
    rules = policy(limit, meters=(*METERS, MESSAGES))
    admission = admission_on(rules, request(key="k", is_socket=True))
    _, command = asked(rules, admission, 7, count=Count.RESPONSE_MESSAGES, refuses=True)
    assert [(each.need, each.take) for each in command.charges] == [(7, take)]


def test_only_limits_on_the_count_are_asked() -> None:
    """Neither those on other counts nor those in shadow hold anything more."""
    shadow = replace(egress(5), name="shadow", shadow=True)
    ingress = bytes_of(cap(500, meter=INGRESS, name="ingress"))
    rules = policy(cap(9, name="requests"), slots(2), shadow, egress(1_000), ingress)
    _, command = asked(rules, admission_on(rules, request(key="k")), 200)
    assert [each.id for each in command.charges] == [egress(1_000).id]


# What may pass then


def test_what_finishes_passes_whatever_is_left(clock: Clock) -> None:
    """A response that has begun ends, beyond its cap; nobody asks again before a step has passed."""
    rules, store = policy(egress(250)), MemoryStore(clock)
    admission = held(rules, request(key="k"), store)
    assert widened(store, rules, admission, 150) == Room(300, 150)
    assert widened(store, rules, admission, 400) == Room(800, 400)
    assert store.peek(admission.caller.tag, admission.charges).readings[0].state.part == 250  # type: ignore[union-attr]


def test_what_cuts_passes_what_is_left_and_not_a_byte_more(clock: Clock) -> None:
    """The last room is what the cap has; the limit that ended it is named with its reset."""
    rules, store = policy(egress(250, cut=True)), MemoryStore(clock)
    admission = held(rules, request(key="k"), store)
    assert widened(store, rules, admission, 150) == Room(250, 150)
    assert widened(store, rules, admission, 250) == Room(250, 250)  # to the last byte, and no limit is named
    room = widened(store, rules, admission, 260)
    assert (room.units, room.passes) == (250, 250)
    (stop,) = room.denied_by
    assert (stop.line.limit.name, stop.remaining) == ("cap", 0)
    assert stop.wait_us == stop.reset_us == 31 * DAY_US


def test_streams_side_by_side_never_pass_a_cut_cap(clock: Clock) -> None:
    """What two hold together is never more than there is."""
    rules, store = policy(egress(1_000, cut=True)), MemoryStore(clock)
    streams = [held(rules, request(key="k"), store) for _ in range(2)]
    passed = [0, 0]
    for _ in range(40):
        for index, each in enumerate(streams):
            passed[index] = widened(store, rules, each, passed[index] + 30).passes
    assert sum(passed) == 1_000


def test_a_rate_lends_in_full(clock: Clock) -> None:
    """What streams beyond a rate is its debt: it is not cut, and later requests wait for it."""
    rules, store = policy(bytes_of(rate(100, meter=EGRESS))), MemoryStore(clock)
    admission = held(rules, request(key="k"), store)
    assert widened(store, rules, admission, 5_000) == Room(6_600, 5_000)
    denied = held(rules, request(key="k"), store)
    assert (denied.answer, denied.retry_after_us) == (Answer.DENIED, 65_010_000)


def test_an_upload_that_no_longer_fits_is_refused(clock: Clock) -> None:
    """It is asked for as a whole: nothing of what does not fit is taken."""
    rules, store = policy(bytes_of(cap(250, meter=INGRESS))), MemoryStore(clock)
    admission = held(rules, request(key="k", transfer_encoding="chunked"), store)
    options: dict[str, object] = {"count": Count.REQUEST_BYTES, "refuses": True}
    assert widened(store, rules, admission, 150, **options) == Room(250, 150)
    room = widened(store, rules, admission, 251, **options)
    assert (room.units, room.passes, len(room.denied_by)) == (0, 0, 1)
    assert room.denied_by[0].wait_us is None  # 251 bytes never fit: 413
    assert room.denied_by[0].line.need == 251
    other = held(rules, request(key="k"), store)
    assert other.serves


def test_an_upload_that_fits_later_is_told_when(clock: Clock) -> None:
    """What another upload has used is back with the next month: 429, and not 413."""
    rules, store = policy(bytes_of(cap(250, meter=INGRESS))), MemoryStore(clock)
    other = held(rules, request(key="k", content_length="100"), store)
    admission = held(rules, request(key="k", transfer_encoding="chunked"), store)
    assert other.serves
    room = widened(store, rules, admission, 200, count=Count.REQUEST_BYTES, refuses=True)
    assert [each.wait_us for each in room.denied_by] == [31 * DAY_US]


def test_overage_has_room_up_to_the_ceiling(clock: Clock) -> None:
    """A cap that bills cuts at its ceiling, not where the bill begins."""
    quota = Cap(100, Period.MONTH, bills=True, ceiling=300)
    rules, store = policy(replace(egress(100, cut=True), quota=quota)), MemoryStore(clock)
    admission = held(rules, request(key="k"), store)
    assert widened(store, rules, admission, 1_000).passes == 300


# The store's other answers


@pytest.mark.parametrize(
    ("on", "cut", "refuses", "expected"),
    [
        (Failure.OPEN, False, False, Room(400, 200)),
        (Failure.OPEN, True, False, Room(400, 200)),
        (Failure.OPEN, False, True, Room(400, 200)),
        (Failure.CLOSED, False, False, Room(400, 200)),
        (Failure.CLOSED, True, False, Room(0, 0, unavailable=True)),
        (Failure.CLOSED, False, True, Room(0, 0, unavailable=True)),
    ],
)
def test_a_store_that_is_away(on: Failure, cut: bool, refuses: bool, expected: Room) -> None:
    """An open limit lets pass; a closed one ends what it would cut or refuse, not what finishes."""
    rules = policy(egress(1_000, cut=cut, on=on))
    talk, _ = asked(rules, admission_on(rules, request(key="k")), 200, refuses=refuses)
    assert failed(talk, StoreUnavailable("gone")) == expected


@pytest.mark.parametrize("verdict", [Verdict.REFRESH, Verdict.LATE])
@pytest.mark.parametrize(
    ("refuses", "expected"), [(False, Room(400, 200)), (True, Room(0, 0, unavailable=True))]
)
def test_a_guess_at_the_clock_is_corrected(verdict: Verdict, refuses: bool, expected: Room) -> None:
    """The windows that the store's time asks for are sent; a store that never agrees was not asked."""
    rules = policy(egress(1_000))
    talk, command = asked(rules, admission_on(rules, request(key="k")), 200, refuses=refuses)
    opened = [command.charges[0].windows]
    for later_us in (NOW_US + 70 * DAY_US, NOW_US + 140 * DAY_US):
        again = talk.send(Tally(verdict, later_us))
        assert isinstance(again, TopUp)
        assert again.not_after_us == later_us + 10 * rules.deadline_us
        opened.append(again.charges[0].windows)
    assert len(set(opened)) == ROUNDS
    assert ended(talk, Tally(verdict, later_us)) == expected


def test_a_void_one_lets_pass() -> None:
    """Of a rid that is over nothing more is held, and a response that has begun goes on."""
    rules = policy(egress(1_000))
    talk, _ = asked(rules, admission_on(rules, request(key="k")), 200)
    assert ended(talk, Tally(Verdict.VOID, NOW_US)) == Room(200, 200)


def test_a_denial_names_those_without_room_only() -> None:
    """Of two limits on an upload, the one that had room is not blamed."""
    limits = (
        bytes_of(cap(100, meter=INGRESS, name="small")),
        bytes_of(cap(10**6, meter=INGRESS, name="large")),
    )
    rules = policy(*limits)
    admission = admission_on(rules, request(key="k", transfer_encoding="chunked"))
    talk, _ = asked(rules, admission, 200, count=Count.REQUEST_BYTES, refuses=True)
    until_us = NOW_US + 31 * DAY_US
    readings = (
        Reading(Span(NOW_US, 50), fits=False, until_us=until_us),
        Reading(Span(NOW_US, 50), until_us=until_us),
    )
    room = ended(talk, Tally(Verdict.DENIED, NOW_US, readings))
    assert [each.line.limit.name for each in room.denied_by] == ["small"]


# Parts of a long exchange


@pytest.mark.parametrize(("fields", "ahead"), [({"transfer_encoding": "chunked"}, 100), ({}, 0)])
def test_a_part_costs_nothing_and_holds_the_same(fields: dict[str, str], ahead: int) -> None:
    """Only what is held goes on, needs nothing, and the estimate was for the first part.

    Of an upload whose length is known, nothing is held ahead of that: of a GET nothing at all.
    """
    limits = (
        cap(9),
        slots(2),
        egress(1_000),
        replace(cap(99, meter=TOKENS, name="tokens"), reserve=50),
        bytes_of(cap(500, meter=INGRESS, name="ingress")),
    )
    rules = policy(*limits, routes=[route("/x", costs={"requests": 3})])
    first = admission_on(rules, request("/x", key="k", **fields))
    part = next_part(rules, first, PART, NOW_US + 5)
    assert (part.rid, part.now_us, part.first, part.part) == (PART, NOW_US + 5, RID, 1)
    assert part.route.cost(METERS[0]) == 0
    asks = {line.limit.name: (line.need, line.take) for line in part.lines}
    assert asks == {"slots": (0, 1), "cap": (0, 100), "tokens": (0, 0), "ingress": (0, ahead)}
    assert (len(part.charges), len(part.windows), part.granted) == (4, 4, (0, 0, 0, 0))
    following = next_part(rules, part, RequestId("third"), NOW_US + 9)
    assert (following.first, following.part) == (RID, 2)
    assert [(line.need, line.take) for line in following.lines] == list(asks.values())


def test_a_part_is_on_the_terms_of_its_day() -> None:
    """An amount of the key's own that has ended in between ends for the stream."""
    override = Override("cap", Cap(5_000, Period.MONTH), until=date(2026, 1, 2))
    rules = policy(egress(1_000), keys={"k": KeyEntry("acme", overrides=(override,))})
    first = admission_on(rules, request(key="k"))
    assert first.lines[0].limit.quota == Cap(5_000, Period.MONTH)
    part = next_part(rules, first, PART, NOW_US + DAY_US)
    assert part.lines[0].limit.quota == Cap(1_000, Period.MONTH)


def test_the_part_of_what_no_limit_is_on_asks_nobody() -> None:
    """It is recorded only."""
    rules = policy(cap(9))
    part = next_part(rules, admission_on(rules, request(key="k")), PART, NOW_US)
    assert part.lines == ()
    assert ended(continued(rules, part, RID)) is part
    rules = policy()
    free = Admission(Answer.ALLOWED, RID, NOW_US, route("/x"))
    assert next_part(rules, free, PART, NOW_US).caller is None


def test_a_part_hands_the_slots_over(clock: Clock) -> None:
    """A stream keeps its slot from part to part, even where all are taken."""
    rules, store = policy(slots(1), egress(1_000)), MemoryStore(clock)
    first = held(rules, request(key="k"), store)
    clock.move(60 * SECOND_US)
    part = next_part(rules, first, PART, clock())
    talk = continued(rules, part, first.rid)
    command = next(talk)
    assert isinstance(command, Admit)
    assert (command.rid, command.after) == (PART, first.rid)
    admission = ended(talk, store.admit(command))
    assert (admission.answer, admission.part, admission.first) == (Answer.ALLOWED, 1, first.rid)
    assert admission.standings[0].used == 1
    clock.move(60 * SECOND_US)  # the first part's lease is over, that of the second is not
    assert not held(rules, request(key="k"), store).serves


def test_a_part_is_never_refused(clock: Clock) -> None:
    """Where nothing is left the part holds nothing, and each limit says what comes of that."""
    rules, store = policy(egress(100, cut=True)), MemoryStore(clock)
    first = held(rules, request(key="k"), store)
    part = next_part(rules, first, PART, clock())
    talk = continued(rules, part, first.rid)
    command = next(talk)
    assert isinstance(command, Admit)
    admission = ended(talk, store.admit(command))
    assert (admission.answer, admission.granted) == (Answer.ALLOWED, (0,))
    assert rooms(admission) == {Count.RESPONSE_BYTES: 0}


def test_a_rate_of_a_part_is_lent_too(clock: Clock) -> None:
    """A rate grants what is taken, whatever its state."""
    rules, store = policy(bytes_of(rate(10, burst=10, meter=EGRESS))), MemoryStore(clock)
    first = held(rules, request(key="k"), store)
    talk = continued(rules, next_part(rules, first, PART, clock()), first.rid)
    command = next(talk)
    assert isinstance(command, Admit)
    assert ended(talk, store.admit(command)).granted == (100,)
