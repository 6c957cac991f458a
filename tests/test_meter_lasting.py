"""One process's meter while exchanges last: parts, rooms, slots, thresholds and late reports, to the sink."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from meter_mw.admission import Answer
from meter_mw.lasting import Room
from meter_mw.model import THRESHOLD_EVENT, Count
from meter_mw.periods import Period
from meter_mw.quota import Cap
from support.benches import Bench, egress
from support.policies import EGRESS, INGRESS, SECOND_US, TOKENS, cap, rate, request, slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meter_mw.admission import Admission
    from meter_mw.model import Receipt
    from meter_mw.policy.terms import Limit
    from meter_mw.stores.port import Settle
    from meter_mw.talk import Conversation


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Give meters on hand-made limits; all are closed when the test ends."""
    made: list[Bench] = []

    def make(*limits: Limit, **options: Any) -> Bench:
        made.append(Bench(tmp_path, limits, **options))
        return made[-1]

    yield make
    for each in made:
        each.meter.close()


# Parts


def test_a_long_exchange_is_recorded_in_parts(bench: Callable[..., Bench]) -> None:
    """One request in all; the bytes and reports of each part; the first one's rid in common."""
    all_ = bench(cap(9), egress(10**6), slots(1))
    exchange = all_.begin()
    first = exchange.admission.rid
    exchange.count(Count.RESPONSE_BYTES, 70)
    exchange.add("tokens", 5)
    all_.meter._turner.turn(exchange)
    assert all_.used() == {"cap": 1, "egress": 70 + 100, "slots": 1}
    exchange.count(Count.RESPONSE_BYTES, 30)
    all_.meter._turner.turn(exchange)
    exchange.count(Count.RESPONSE_BYTES, 8)
    settlement = all_.meter.finish(exchange)
    assert settlement is not None
    all_.meter.release(exchange, settlement)
    events = all_.events()
    assert [each["requests"] for each in events] == [1, 0, 0]
    assert [each["response_bytes"] for each in events] == [70, 30, 8]
    assert [each.get("tokens") for each in events] == [5, None, None]
    assert [(each.get("exchange"), each.get("part")) for each in events] == [
        (None, None),
        (first, 1),
        (first, 2),
    ]
    assert all_.used() == {"cap": 1, "egress": 108, "slots": 0}


def test_a_part_in_which_nothing_passed_is_not_recorded(bench: Callable[..., Bench]) -> None:
    """But for the first, which is the request; what is held goes on all the same."""
    all_ = bench(slots(1))
    exchange = all_.begin()
    for _ in range(4):
        all_.meter._turner.turn(exchange)
    assert [each["requests"] for each in all_.events()] == [1]
    assert all_.meter.admit(request(key="k")).answer is Answer.DENIED
    settlement = all_.meter.finish(exchange)
    assert settlement is not None
    all_.meter.release(exchange, settlement)
    assert all_.meter.admit(request(key="k")).answer is Answer.ALLOWED


def test_what_has_ended_has_no_part(bench: Callable[..., Bench]) -> None:
    """A keeper that comes too late changes nothing."""
    all_ = bench(cap(9))
    exchange = all_.begin()
    assert all_.meter.finish(exchange) is None
    all_.meter._turner.turn(exchange)
    assert len(all_.events()) == 1
    assert exchange not in all_.meter._keeper._exchanges


# Rooms


def test_a_stream_is_topped_up_and_cut_to_the_byte(bench: Callable[..., Bench]) -> None:
    """The sum of what passes is the cap, across parts too; the event names the limit."""
    all_ = bench(egress(450, cut=True))
    exchange = all_.begin()
    while (room := all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 60))) is None:
        if exchange.response_bytes == 180:
            all_.meter._turner.turn(exchange)
            assert all_.meter.flush()
    exchange.count(Count.RESPONSE_BYTES, room.passes - exchange.response_bytes)
    exchange.stopped(room.denied_by)
    all_.meter.finish(exchange)
    assert exchange.response_bytes == 450
    events = all_.events()
    assert [(each["response_bytes"], each.get("limited_by")) for each in events] == [
        (180, None),
        (270, ["egress"]),
    ]
    assert all_.used() == {"egress": 450}


def test_a_room_that_a_new_part_has_overtaken_is_asked_for_again(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper comes between the question and its answer: the answer was about the part before."""
    all_ = bench(egress(10**6))
    exchange = all_.begin()
    exchange.count(Count.RESPONSE_BYTES, 90)
    drive = all_.meter._driver.drive
    asked: list[str] = []

    def interrupted(talk: Conversation[Room]) -> Room:
        asked.append(exchange.admission.rid)
        room = drive(talk)
        if len(asked) == 1:
            monkeypatch.setattr(all_.meter._driver, "drive", drive)
            all_.meter._turner.turn(exchange)
            monkeypatch.setattr(all_.meter._driver, "drive", interrupted)
        return room

    monkeypatch.setattr(all_.meter._driver, "drive", interrupted)
    assert all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 60)) is None
    assert len(set(asked)) == 2
    assert asked[-1] == exchange.admission.rid
    assert (exchange.response_bytes, exchange.response_room) == (150, 90 + 160)


def test_an_upload_is_refused_on_its_way(bench: Callable[..., Bench]) -> None:
    """The refusal is 413 where it never fits; the event costs no request, and the bytes that had passed."""
    all_ = bench(cap(9), replace(cap(300, meter=INGRESS, name="ingress"), reserve=100))
    exchange = all_.begin(transfer_encoding="chunked")
    assert all_.meter.gate.lets(exchange, (Count.REQUEST_BYTES, 250), refuses=True) is None
    room = all_.meter.gate.lets(exchange, (Count.REQUEST_BYTES, 51), refuses=True)
    assert room is not None
    refusal, _, body = all_.meter.refuse(exchange.refuse(room))
    assert (refusal.status, json.loads(body)["violated-policies"]) == (413, ["ingress"])
    exchange.status = refusal.status
    all_.meter.finish(exchange)
    (event,) = all_.events()
    assert (event["requests"], event["charged"], event["limited_by"]) == (0, False, ["ingress"])
    assert all_.used() == {"cap": 0, "ingress": 250}


def test_an_upload_that_cannot_be_asked_about_is_put_off(bench: Callable[..., Bench]) -> None:
    """503 where the store is away and the limit is closed."""
    all_ = bench(replace(cap(300, meter=INGRESS, name="ingress"), reserve=100))
    exchange = all_.begin(transfer_encoding="chunked")
    refusal, _, _ = all_.meter.refuse(exchange.refuse(Room(0, 0, unavailable=True)))
    assert refusal.status == 503
    assert exchange.limited_by == ()


# Slots


def test_a_slot_is_free_when_its_release_is_over(bench: Callable[..., Bench]) -> None:
    """And not before: what holds none is on its way at once."""
    all_ = bench(slots(1))
    settlement = all_.meter.finish(exchange := all_.begin())
    assert settlement is not None
    assert all_.meter.admit(request(key="k")).answer is Answer.DENIED
    all_.meter.release(exchange, settlement)
    all_.meter.abandon(all_.begin())
    assert all_.meter.flush()
    assert all_.used() == {"slots": 0}


# What is told


def test_thresholds_and_overage_reach_the_sink(bench: Callable[..., Bench]) -> None:
    """Of requests with the request, of bytes when they are settled; each threshold once."""
    month = replace(cap(2), quota=Cap(2, Period.MONTH, bills=True, warn=(1, 2)))
    bytes_ = replace(egress(1), quota=Cap(100, Period.MONTH, bills=True, warn=(100,)))
    all_ = bench(month, bytes_)
    for _ in range(3):
        exchange = all_.begin()
        exchange.count(Count.RESPONSE_BYTES, 60)
        all_.meter.finish(exchange)
    events = all_.events()
    told = [each for each in events if each["type"] == THRESHOLD_EVENT]
    assert sorted((str(each["limit"]), int(str(each["threshold"]))) for each in told) == [
        ("cap", 1),
        ("cap", 2),
        ("egress", 100),
    ]
    overage = [each["overage"] for each in events if "overage" in each]
    assert overage == [{"egress": 20}, {"cap": 1}, {"egress": 60}]
    assert [("amends" in each) for each in events if "overage" in each] == [True, False, True]


def test_late_reports_are_amendments(bench: Callable[..., Bench]) -> None:
    """They are counted against the limits like any other, and overage of theirs is told too."""
    tokens = replace(cap(10, meter=TOKENS, name="tokens"), quota=Cap(10, Period.MONTH, bills=True))
    all_ = bench(tokens)
    exchange = all_.begin()
    exchange.add("tokens", 6)
    all_.meter.finish(exchange)
    exchange.add("tokens", 7)
    first, late, beyond = all_.events()
    assert (first["tokens"], late["tokens"], late["requests"]) == (6, 7, 0)
    assert late["amends"] == exchange.admission.rid
    assert beyond["overage"] == {"tokens": 3}
    assert all_.used() == {"tokens": 13}


def test_a_rate_keeps_what_it_lent(bench: Callable[..., Bench]) -> None:
    """A stream that outran its rate is waited for by the next request."""
    all_ = bench(replace(rate(100, meter=EGRESS, name="slow"), reserve=50))
    exchange = all_.begin()
    assert all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 1_000)) is None
    all_.meter.finish(exchange)
    denied: Admission = all_.meter.admit(request(key="k"))
    assert denied.answer is Answer.DENIED
    assert denied.retry_after_us is not None
    assert 8 * SECOND_US < denied.retry_after_us <= 10 * SECOND_US


@pytest.mark.parametrize("awaits", [False, True])
def test_a_stream_is_not_cut_by_what_it_holds_itself(
    awaits: bool, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its part before has not used yet is on its way back: a question meanwhile waits for that."""
    all_ = bench(replace(egress(1_000, cut=True), reserve=1_000), deadline_us=5 * SECOND_US)
    exchange = all_.begin()
    assert exchange.response_room == 1_000
    exchange.count(Count.RESPONSE_BYTES, 400)
    rooms: list[Room | None] = []

    def stream() -> None:
        if awaits:
            rooms.append(asyncio.run(all_.meter.gate.alets(exchange, (Count.RESPONSE_BYTES, 600))))
        else:
            rooms.append(all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 600)))

    edge = threading.Thread(target=stream)
    close = all_.meter._books.close

    def slow(admission: Admission, method: str, receipt: Receipt) -> Settle | None:
        edge.start()
        edge.join(0.2)
        return close(admission, method, receipt)

    monkeypatch.setattr(all_.meter._books, "close", slow)
    all_.meter._turner.turn(exchange)
    edge.join(5)
    assert rooms == [None]
    assert exchange.response_bytes == 1_000
