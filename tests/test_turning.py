"""While a part of a long exchange is turned over it may end, pass more, wait, or find its store failing."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from meter_mw.admission import Answer
from meter_mw.exchange import Exchange
from meter_mw.model import Count, Meter
from meter_mw.periods import Period
from meter_mw.policy.terms import Failure, KeyEntry, Override
from meter_mw.quota import Cap
from meter_mw.respond import Responder
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, StoreUnavailable, TopUp
from support.benches import Bench, egress
from support.policies import INGRESS, METERS, TOKENS, cap, held, policy, rate, request, route, slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meter_mw.lasting import Room
    from meter_mw.policy.terms import Limit
    from meter_mw.stores.port import Tally
    from meter_mw.talk import Conversation
    from meter_mw.testing.stores import Clock

TOLD = Meter("told", Count.RESPONSE_MESSAGES)


@dataclass
class Benches:
    """Makes meters on hand-made limits, over one store."""

    folder: Path
    store: str
    made: list[Bench]

    def __call__(self, *limits: Limit, **options: Any) -> Bench:
        self.made.append(Bench(self.folder, limits, store=self.store, **options))
        return self.made[-1]


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Benches]:
    store = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    benches = Benches(tmp_path, store, [])
    yield benches
    for each in benches.made:
        each.meter.close()


def interrupting(
    monkeypatch: pytest.MonkeyPatch,
    on: Bench,
    happens: Callable[[], None],
    *,
    after: bool,
    over: str | None = None,
) -> list[object]:
    """Have something happen once, while the store is asked for a next part: before or after it decides.

    Or while it is asked for more of the limit `over`.
    """
    store, seen = on.meter._store, list[object]()
    admit = store.admit

    def interrupted(command: Admit | TopUp, *, patience_us: int) -> Tally:
        if isinstance(command, TopUp):
            meant = over in [each.id for each in command.charges]
        else:
            meant = over is None and command.after is not None
        if not meant or seen:
            return admit(command, patience_us=patience_us)
        seen.append(command)
        if not after:
            happens()
        tally = admit(command, patience_us=patience_us)
        if after:
            happens()
        return tally

    monkeypatch.setattr(store, "admit", interrupted)
    return seen


def ended(on: Bench, exchange: Exchange) -> None:
    """Finish an exchange, and have what it held given back."""
    settlement = on.meter.finish(exchange)
    if settlement is not None:
        on.meter.release(exchange, settlement)


def total(on: Bench, name: str) -> int:
    """Add a count up over all events."""
    return sum(int(str(each.get(name, 0))) for each in on.events())


# An end meanwhile


@pytest.mark.parametrize("after", [False, True])
def test_one_that_ends_while_its_next_part_is_asked_for_leaves_nothing(
    after: bool, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot is free, nothing is held, all that passed is booked once, and it can be reported to still."""
    tokens = cap(1_000, meter=TOKENS, name="tokens")
    all_ = bench(cap(9), slots(1), egress(10**6), tokens)
    exchange = all_.begin()
    exchange.count(Count.RESPONSE_BYTES, 70)
    exchange.add("tokens", 5)

    def ends() -> None:
        exchange.count(Count.RESPONSE_BYTES, 30)
        exchange.add("tokens", 2)
        ended(all_, exchange)

    seen = interrupting(monkeypatch, all_, ends, after=after)
    all_.meter._turner.turn(exchange)
    assert len(seen) == 1
    exchange.add("tokens", 4)
    assert all_.meter.flush()
    assert all_.used() == {"cap": 1, "slots": 0, "egress": 100, "tokens": 11}
    assert [total(all_, name) for name in ("requests", "response_bytes", "tokens")] == [1, 100, 11]
    assert not all_.meter._keeper._exchanges
    assert all_.meter.admit(request(key="k")).answer is Answer.ALLOWED


def test_its_slot_is_free_at_once(bench: Benches, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it is released, where the store has handed the slot over: the turn is not waited for."""
    all_ = bench(slots(1))
    exchange = all_.begin()
    free: list[Answer] = []

    def ends() -> None:
        ended(all_, exchange)
        free.append(all_.meter.admit(request(key="k")).answer)

    interrupting(monkeypatch, all_, ends, after=True)
    all_.meter._turner.turn(exchange)
    assert free == [Answer.ALLOWED]


# What passes meanwhile


def test_nothing_passes_ungranted_while_a_part_is_asked_for(
    bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cap that cuts is not passed, whatever it says of a store that is away: this one is not."""
    limit = replace(egress(250, cut=True), on_store_failure=Failure.OPEN)
    all_ = bench(limit, deadline_us=1_000_000)
    exchange = all_.begin()
    assert all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 100)) is None
    rooms: list[Room | None] = []

    def streams() -> None:
        rooms.append(all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 10**6)))

    interrupting(monkeypatch, all_, streams, after=False)
    all_.meter._turner.turn(exchange)
    (room,) = rooms
    assert room is not None
    assert [each.line.limit.name for each in room.denied_by] == ["egress"]
    assert exchange.response_bytes == 100
    ended(all_, exchange)
    all_.events()
    assert all_.used() == {"egress": 100}


@pytest.mark.parametrize("fits", [True, False])
def test_a_message_that_a_part_falls_into_is_counted_in_one_of_them(
    fits: bool, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, with its bytes, or not at all: no count is taken back from a part that did not have it."""
    told = replace(cap(9, meter=TOLD, name="told"), reserve=1)
    sent = egress(10**6 if fits else 100, cut=True)
    all_ = bench(slots(1), told, sent, meters=(*METERS, TOLD))
    exchange = all_.begin(is_socket=True)
    gate = all_.meter.gate
    assert gate.lets(exchange, (Count.RESPONSE_MESSAGES, 1), (Count.RESPONSE_BYTES, 80), refuses=True) is None

    def turns() -> None:
        all_.meter._turner.turn(exchange)

    seen = interrupting(monkeypatch, all_, turns, after=True, over=sent.id)
    room = gate.lets(exchange, (Count.RESPONSE_MESSAGES, 1), (Count.RESPONSE_BYTES, 300), refuses=True)
    assert len(seen) == 1
    assert (room is None) is fits
    assert (exchange.response_messages, exchange.response_bytes) == ((2, 380) if fits else (1, 80))
    ended(all_, exchange)
    events = all_.events()
    counts = [(each.get("response_messages", 0), each["response_bytes"]) for each in events]
    assert counts == [(1, 80), (1, 300) if fits else (0, 0)]
    told_of = {"told": 2, "egress": 380} if fits else {"told": 1, "egress": 80}
    assert all_.used() == {"slots": 0, **told_of}


def test_a_cut_is_where_it_is_though_every_answer_comes_too_late(
    bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part falls between an answer and its noting: what the part before was granted is asked for again."""
    all_ = bench(egress(1_000, cut=True), checkpoint_us=10**9)
    first, other = all_.begin(), all_.begin()
    drive = all_.meter._driver.drive
    parts: list[int] = []

    def overtaken(talk: Conversation[Any]) -> Any:
        room = drive(talk)
        if len(parts) < 3:
            parts.append(first.admission.part)
            monkeypatch.setattr(all_.meter._driver, "drive", drive)
            all_.meter._turner.turn(first)
            monkeypatch.setattr(all_.meter._driver, "drive", overtaken)
        return room

    gate = all_.meter.gate
    assert gate.lets(first, (Count.RESPONSE_BYTES, 100)) is None
    monkeypatch.setattr(all_.meter._driver, "drive", overtaken)
    assert gate.lets(first, (Count.RESPONSE_BYTES, 100)) is None
    monkeypatch.setattr(all_.meter._driver, "drive", drive)
    assert parts == [0, 1, 2]
    for each in (other, first):
        while (room := gate.lets(each, (Count.RESPONSE_BYTES, 10))) is None:
            pass
        each.count(Count.RESPONSE_BYTES, room.passes - each.response_bytes)
    assert first.response_bytes + other.response_bytes == 1_000
    ended(all_, first)
    ended(all_, other)
    assert total(all_, "response_bytes") == 1_000
    assert all_.used() == {"egress": 1_000}


def test_an_answer_from_within_a_turn_is_not_the_last_word(
    bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store said no while two parts held the same; by the time that is heard, it has come back."""
    all_ = bench(replace(egress(1_000, cut=True), reserve=1_000), deadline_us=5_000_000)
    exchange = all_.begin()
    exchange.count(Count.RESPONSE_BYTES, 400)
    drive, begun, over = all_.meter._driver.drive, threading.Event(), threading.Event()
    rooms: list[Room | None] = []

    def slowly(talk: Conversation[Any]) -> Any:
        room = drive(talk)
        if threading.current_thread() is edge and not over.is_set():
            begun.set()
            assert over.wait(5)
        return room

    edge = threading.Thread(
        target=lambda: rooms.append(all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 600)))
    )
    monkeypatch.setattr(all_.meter._driver, "drive", slowly)
    settle = all_.meter._books.settle_now

    def meanwhile(*given: Any) -> None:
        edge.start()
        assert begun.wait(5)
        settle(*given)

    monkeypatch.setattr(all_.meter._books, "settle_now", meanwhile)
    all_.meter._turner.turn(exchange)
    assert not exchange.is_turning
    over.set()
    edge.join(5)
    assert rooms == [None]
    assert exchange.response_bytes == 1_000


# What waits meanwhile


def waiting(folder: Path) -> tuple[Bench, Exchange]:
    """Give an exchange at the end of a cap that cuts, in a turn that does not end."""
    all_ = Bench(folder, (egress(100, cut=True),), deadline_us=150_000)
    exchange = all_.begin()
    assert all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 100)) is None
    exchange.is_turning = True
    return all_, exchange


def test_waiting_for_a_part_ends_with_the_deadline(tmp_path: Path) -> None:
    """The stream is cut then, as it would have been without."""
    all_, exchange = waiting(tmp_path)
    began = time.monotonic()
    room = all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 1))
    took = time.monotonic() - began
    assert room is not None
    assert (room.passes, len(room.denied_by)) == (100, 1)
    assert 0.15 <= took < 5
    all_.meter.close()


@pytest.mark.timed
def test_waiting_for_a_part_holds_up_neither_the_loop_nor_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on; no executor is asked, whose threads a hundred waiting streams would take."""
    all_, exchange = waiting(tmp_path)
    ticks: list[float] = []

    async def main() -> tuple[Room | None, float]:
        def refuse(*_: object) -> None:
            raise AssertionError("an executor was used")

        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)

        async def tick() -> None:
            while True:
                ticks.append(time.monotonic())
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        began = time.monotonic()
        room = await all_.meter.gate.alets(exchange, (Count.RESPONSE_BYTES, 1))
        took = time.monotonic() - began
        ticking.cancel()
        return room, took

    room, took = asyncio.run(main())
    assert room is not None
    assert (room.passes, len(room.denied_by)) == (100, 1)
    assert 0.15 <= took < 5
    assert len(ticks) >= 5
    all_.meter.close()


# A store that fails meanwhile


@pytest.mark.parametrize("failure", [RuntimeError("bug"), StoreUnavailable("gone")])
@pytest.mark.parametrize("after", [False, True])
def test_a_turn_whose_store_fails_loses_nothing(
    failure: Exception, after: bool, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is in the journal, the request is charged once, and all is settled when it ends."""
    all_ = bench(cap(9), slots(1), egress(10**6))
    exchange = all_.begin()
    exchange.count(Count.RESPONSE_BYTES, 70)

    def fails() -> None:
        raise failure

    interrupting(monkeypatch, all_, fails, after=after)
    if isinstance(failure, StoreUnavailable):
        all_.meter._turner.turn(exchange)
    else:
        with pytest.raises(RuntimeError):
            all_.meter._turner.turn(exchange)
    assert not exchange.is_turning
    assert [each["response_bytes"] for each in all_.events()] == [70]
    assert all_.meter.gate.lets(exchange, (Count.RESPONSE_BYTES, 30)) is None
    ended(all_, exchange)
    assert [(each["requests"], each["response_bytes"]) for each in all_.events()] == [(1, 70), (0, 30)]
    assert all_.used() == {"cap": 1, "slots": 0, "egress": 100}


@pytest.mark.parametrize("failure", [RuntimeError("bug"), StoreUnavailable("gone")])
def test_one_that_fails_is_turned_over_again(
    failure: Exception, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next look of the keeper goes on from there."""
    all_ = bench(cap(9), slots(1), egress(10**6))
    exchange = all_.begin()

    def fails() -> None:
        raise failure

    interrupting(monkeypatch, all_, fails, after=False)
    for _ in range(2):
        exchange.count(Count.RESPONSE_BYTES, 20)
        exchange.part_us -= all_.meter.policy.checkpoint_us
        all_.meter._keeper.look()
        assert all_.meter.flush()
    assert exchange.admission.part == 2
    assert all_.used() == {"cap": 1, "slots": 1, "egress": 40 + 100}
    ended(all_, exchange)
    assert [each["response_bytes"] for each in all_.events()] == [20, 20, 0]
    assert all_.used() == {"cap": 1, "slots": 0, "egress": 40}


def test_a_turn_whose_settlement_fails_loses_nothing(bench: Benches, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent again in the background; the exchange is not taken for one that turns over for ever."""
    all_ = bench(cap(9), slots(1), egress(10**6))
    exchange = all_.begin()
    exchange.count(Count.RESPONSE_BYTES, 70)
    store = all_.meter._store
    settle = store.settle

    def fails(*_: object, **__: object) -> None:
        monkeypatch.setattr(store, "settle", settle)
        raise RuntimeError("bug")

    monkeypatch.setattr(store, "settle", fails)
    with pytest.raises(RuntimeError):
        all_.meter._turner.turn(exchange)
    assert not exchange.is_turning
    assert [each["response_bytes"] for each in all_.events()] == [70]
    assert all_.used() == {"cap": 1, "slots": 1, "egress": 70 + 100}
    ended(all_, exchange)
    assert total(all_, "requests") == 1
    assert all_.used() == {"cap": 1, "slots": 0, "egress": 70}


# Uploads


def ingress(units: int, reserve: int) -> Limit:
    """Make a cap on request bytes."""
    return replace(cap(units, meter=INGRESS, name="ingress"), reserve=reserve)


def test_a_declared_upload_keeps_its_place(bench: Benches) -> None:
    """Though the cap has no room for it twice: another's that would take it away is refused."""
    all_ = bench(ingress(100_000, reserve=1_000))
    exchange = all_.begin(content_length="90000")
    gate = all_.meter.gate
    assert gate.lets(exchange, (Count.REQUEST_BYTES, 10_000), refuses=True) is None
    for _ in range(2):
        all_.meter._turner.turn(exchange)
        assert all_.used() == {"ingress": 90_000}
        assert all_.meter.admit(request(key="k", content_length="80000")).answer is Answer.DENIED
    for _ in range(8):
        assert gate.lets(exchange, (Count.REQUEST_BYTES, 10_000), refuses=True) is None
    ended(all_, exchange)
    assert total(all_, "request_bytes") == 90_000
    assert all_.used() == {"ingress": 90_000}


def test_what_comes_of_an_upload_while_it_is_turned_over_is_asked_for_once(
    bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is asked for than was declared: the cap has no room for that."""
    all_ = bench(ingress(100_000, reserve=1_000))
    exchange = all_.begin(content_length="90000")
    known = Exchange.to_come

    def read_on(which: Exchange) -> int:
        to_come: int = known.fget(which)  # type: ignore[attr-defined]
        monkeypatch.setattr(Exchange, "to_come", known)
        which.count(Count.REQUEST_BYTES, 40_000)
        return to_come

    monkeypatch.setattr(Exchange, "to_come", property(read_on))
    all_.meter._turner.turn(exchange)
    assert exchange.request_bytes == 40_000
    assert all_.used() == {"ingress": 90_000}
    ended(all_, exchange)


def test_what_has_no_upload_holds_none(bench: Benches) -> None:
    """A GET that lasts takes nothing of what uploads are reserved, in none of its parts."""
    all_ = bench(ingress(1_000_000, reserve=1_000_000), egress(10**6))
    exchange = all_.begin()
    for _ in range(3):
        exchange.count(Count.RESPONSE_BYTES, 10)
        all_.meter._turner.turn(exchange)
        assert all_.used()["ingress"] == 0
    assert all_.meter.admit(request(key="k", transfer_encoding="chunked")).answer is Answer.ALLOWED


# What is kept of many


def test_prices_of_their_own_leave_no_trace(clock: Clock) -> None:
    """5,000 costs of a route and a key with an amount of its own: what is kept ready does not grow."""
    prices = iter(range(1, 5_001))
    priced = route("/x", pricing=lambda _: next(prices))
    own = KeyEntry("acme", overrides=(Override("cap", Cap(10**9, Period.MONTH)),))
    rules = policy(cap(10**6), rate(10**9), routes=[priced], keys={"k": own})
    responder, store = Responder(rules), MemoryStore(clock)
    for _ in range(5_000):
        admission = held(rules, request("/x", key="k"), store)
        assert admission.serves
        assert dict(responder.fields(admission))["RateLimit-Policy"]
    assert admission.standings[0].line.limit.quota == Cap(10**9, Period.MONTH)
    assert admission.standings[0].used == sum(range(1, 5_001))
    kept = (rules._lines, rules._overridden, responder._written)
    assert sum(map(len, kept)) <= 4
