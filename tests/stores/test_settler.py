"""Closings reach the store in order and in full, whatever it does meanwhile; real threads, no network."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

import pytest

from meter_mw.model import RequestId
from meter_mw.periods import Period
from meter_mw.quota import Cap
from meter_mw.stores import settler as module
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import (
    REMEMBERED_US,
    Cancel,
    Charge,
    Closed,
    Closing,
    NotAsked,
    Note,
    Outcome,
    Refusal,
    StoreUnavailable,
)
from meter_mw.stores.settler import BATCH, IN_DOUBT, DirectSettler, Settler
from meter_mw.testing.stores import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from meter_mw.stores.port import Tally

LONG = 20.0
"""Seconds after which a test gives up; none waits for as long when all is well."""


class ScriptedStore(MemoryStore):
    """Takes down what it is told to settle, and fails where its script says so."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[list[str]] = []
        self.settled: list[str] = []
        self.failures: list[Exception] = []
        self.refused = ""
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def settle(self, closings: Sequence[Closing]) -> Sequence[Closed]:
        """Take one batch, or fail as the script says next."""
        self.entered.set()
        assert self.gate.wait(LONG)
        rids = [str(each.rid) for each in closings]
        self.tried.append(rids)
        if self.failures:
            raise self.failures.pop(0)
        if self.refused in rids:
            raise StoreUnavailable("that one is refused")
        self.settled += rids
        return tuple(Closed(Outcome.APPLIED) for _ in closings)


def closing(number: int) -> Cancel:
    """Give a closing that can be told from others."""
    return Cancel(RequestId(str(number)), "tag")


def numbers(first: int, last: int) -> list[str]:
    """Give the rids of a run of closings."""
    return [str(number) for number in range(first, last)]


@pytest.fixture
def store() -> ScriptedStore:
    """Give a store that settles, until it is told otherwise."""
    return ScriptedStore()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.0)


@pytest.fixture
def settler(store: ScriptedStore) -> Iterator[Settler]:
    """Give a settler, and end its thread."""
    settler = Settler(store)
    yield settler
    store.gate.set()
    store.failures.clear()
    settler.close(LONG)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


def test_closings_arrive_in_order(settler: Settler, store: ScriptedStore) -> None:
    """All that was put is in the store once `flush` says so, each once, first come first."""
    for number in range(250):
        settler.put(closing(number))
    assert settler.flush(LONG)
    assert store.settled == numbers(0, 250)
    assert settler.waiting == 0


def test_what_gathers_goes_out_together(settler: Settler, store: ScriptedStore) -> None:
    """While the store is busy closings gather, and leave in batches of a hundred at most."""
    store.gate.clear()
    settler.put(closing(0))
    assert store.entered.wait(LONG)
    for number in range(1, 251):
        settler.put(closing(number))
    assert settler.waiting == 251
    store.gate.set()
    assert settler.flush(LONG)
    assert [len(batch) for batch in store.tried] == [1, BATCH, BATCH, 50]


def test_a_batch_that_failed_is_sent_again(settler: Settler, store: ScriptedStore) -> None:
    """After an outage the same closings come again, each once."""
    store.failures = [StoreUnavailable("gone"), StoreUnavailable("gone")]
    store.gate.clear()
    settler.put(closing(0))
    assert store.entered.wait(LONG)
    for number in range(1, 5):
        settler.put(closing(number))
    store.gate.set()
    assert settler.flush(LONG)
    assert sorted(store.settled) == numbers(0, 5)


def test_one_that_is_refused_holds_up_no_other(settler: Settler, store: ScriptedStore) -> None:
    """A closing that the store refuses for ever goes to the back each time; all others get through."""
    store.refused = "3"
    store.gate.clear()
    for number in range(20):
        settler.put(closing(number))
    store.gate.set()
    wait_until(lambda: len(set(store.settled)) == 19)
    assert set(store.settled) == {*numbers(0, 20)} - {"3"}
    store.refused = ""
    assert settler.flush(LONG)
    assert set(store.settled) == {*numbers(0, 20)}


def test_a_repeat_is_harmless(settler: Settler, store: ScriptedStore) -> None:
    """A store that acted and then seemed to fail is told again, by the same rid."""
    told: list[str] = []

    def settle(closings: Sequence[Closing]) -> Sequence[Closed]:
        outcomes = MemoryStore.settle(store, closings)
        told.extend(each.outcome.value for each in outcomes)
        if len(told) == 1:
            raise StoreUnavailable("the answer was lost")
        return outcomes

    store.settle = settle  # type: ignore[method-assign]  # this one store
    settler.put(closing(0))
    assert settler.flush(LONG)
    assert told == ["recovered", "void"]


def test_what_settling_told_is_passed_on(settler: Settler, store: ScriptedStore) -> None:
    """Each closing's own answer, once it has one: after a lost reply the notes of the repeat."""
    store.failures = [StoreUnavailable("gone")]
    heard: list[tuple[int, Closed]] = []

    def settle(closings: Sequence[Closing]) -> Sequence[Closed]:
        ScriptedStore.settle(store, closings)
        return tuple(Closed(Outcome.ALREADY, (Note(int(each.rid), 7),)) for each in closings)

    store.settle = settle  # type: ignore[method-assign]  # this one store
    for number in range(150):
        settler.put(closing(number), lambda closed, number=number: heard.append((number, closed)))
    settler.put(closing(150))
    assert settler.flush(LONG)
    assert sorted(number for number, _ in heard) == list(range(150))
    assert all(closed == Closed(Outcome.ALREADY, (Note(number, 7),)) for number, closed in heard)


def test_who_hears_badly_holds_up_nobody(
    settler: Settler, store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails when it is told is logged; the others are told, and nothing is settled again."""
    heard: list[Closed] = []

    def fails(closed: Closed) -> None:
        raise OSError("the journal is full")

    for number in range(6):
        settler.put(closing(number), heard.append if number % 2 else fails)
    assert settler.flush(LONG)
    assert heard == [Closed(Outcome.APPLIED)] * 3
    assert store.settled == numbers(0, 6)
    assert settler.dropped == 0
    assert [record.getMessage() for record in caplog.records] == [
        "what settling told could not be recorded"
    ] * 3


def test_put_never_waits_for_the_store(settler: Settler, store: ScriptedStore) -> None:
    """With a store that hangs, putting goes on, and `flush` says in time that it is not done."""
    store.gate.clear()
    settler.put(closing(0))
    assert store.entered.wait(LONG)
    for number in range(1, 1_000):
        settler.put(closing(number))
    began = time.monotonic()
    assert not settler.flush(0.02)
    assert 0.02 <= time.monotonic() - began < LONG / 2
    assert settler.waiting == 1_000


def test_the_oldest_makes_room(store: ScriptedStore, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the bound the oldest that waits is let go, counted, and said once."""
    settler = Settler(store, most_waiting=10)
    store.gate.clear()
    settler.put(closing(0))
    assert store.entered.wait(LONG)
    for number in range(1, 16):
        settler.put(closing(number))
    assert settler.dropped == 5
    assert [record.getMessage() for record in caplog.records] == [
        "the store was away for too long: closings are dropped, and its counts will be off"
    ]
    store.gate.set()
    assert settler.close(LONG)
    assert store.settled == ["0", *numbers(6, 16)]


def test_what_is_let_go_while_a_batch_is_taken(store: ScriptedStore) -> None:
    """A full queue may let go of what the sender was about to take: the sender goes on with the rest."""

    class Leaking(deque[Closing]):
        def __len__(self) -> int:
            size = super().__len__()
            if size == 2 and sys._getframe(1).f_code.co_name == "_send":
                self.popleft()
            return size

    settler = Settler(store)
    store.gate.clear()
    settler.put(closing(0))
    assert store.entered.wait(LONG)
    settler._waiting = Leaking()
    settler.put(closing(1))
    settler.put(closing(2))
    store.gate.set()
    assert settler.flush(LONG)
    settler.put(closing(3))
    assert settler.close(LONG)
    assert store.settled == ["0", "2", "3"]


def test_32_threads_put_exactly(settler: Settler, store: ScriptedStore) -> None:
    """Nothing is lost and nothing doubled, whoever puts, with a store that fails now and then."""
    store.failures = [StoreUnavailable("gone") for _ in range(5)]
    together = threading.Barrier(32)

    def put(first: int) -> None:
        together.wait()
        for number in range(first, first + 100):
            settler.put(closing(number))

    threads = [threading.Thread(target=put, args=(100 * index,)) for index in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settler.flush(LONG)
    assert sorted(store.settled, key=int) == numbers(0, 3_200)


def test_a_fault_of_the_store_does_not_end_the_sending(
    settler: Settler, store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What a store cannot digest, three times, is put aside and said; what is put after it still arrives."""
    store.failures = [RuntimeError("a bug")] * 3
    settler.put(closing(0))
    assert settler.flush(LONG)
    assert settler.dropped == 1
    assert "could not settle 1 closings" in caplog.text
    settler.put(closing(1))
    assert settler.flush(LONG)
    assert store.settled == ["1"]


def test_a_thread_that_cannot_start_is_tried_again(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the process may have no more threads a request goes on, and the next one tries again."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    settler = Settler(store)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        settler.put(closing(0))
    assert "can't start new thread" in caplog.text
    settler.put(closing(1))
    assert settler.close(LONG)
    assert store.settled == ["0", "1"]


def test_pauses_grow_to_a_bound(store: ScriptedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They double from 50 ms to a second with full jitter, and begin anew after a success."""
    longest: list[float] = []

    def uniform(least: float, most: float) -> float:
        assert least == 0
        longest.append(round(most, 3))
        return 0.0

    monkeypatch.setattr(module, "_LONGEST_PAUSE", 1.0)
    settler = Settler(store)
    monkeypatch.setattr(settler._jitter, "uniform", uniform)
    for failures, number in ((8, 0), (1, 1)):
        store.failures = [StoreUnavailable("gone") for _ in range(failures)]
        settler.put(closing(number))
        assert settler.flush(LONG)
    settler.close(LONG)
    assert longest == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 0.05]


def test_close_flushes_and_ends_the_thread(store: ScriptedStore) -> None:
    """What was put is in the store when `close` returns, and no thread stays."""
    settler = Settler(store)
    for number in range(5):
        settler.put(closing(number))
    thread = settler._thread
    assert thread is not None
    assert settler.close(LONG)
    assert store.settled == numbers(0, 5)
    thread.join(LONG)
    assert not thread.is_alive()


def test_close_is_bounded(store: ScriptedStore) -> None:
    """With a store that stays away `close` says in time that something is left."""
    store.gate.clear()
    settler = Settler(store)
    settler.put(closing(0))
    assert store.entered.wait(LONG)
    began = time.monotonic()
    assert not settler.close(0.02)
    assert time.monotonic() - began < LONG / 2
    store.gate.set()
    wait_until(lambda: store.settled == ["0"])


def test_flush_with_nothing_to_do(settler: Settler) -> None:
    """There is nothing to wait for, and no thread was needed."""
    assert settler.flush(0)
    assert settler._thread is None


def test_a_child_settles_its_own(store: ScriptedStore) -> None:
    """After a fork the parent's closings are the parent's, and the child's own thread sends its own."""
    store.gate.clear()
    settler = Settler(store)
    for number in range(3):
        settler.put(closing(number))
    assert store.entered.wait(LONG)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        ok = False
        try:
            store.gate = threading.Event()
            store.gate.set()
            waiting = settler.waiting
            settler.put(closing(77))
            ok = settler.flush(LONG) and (waiting, store.settled) == (0, ["77"])
        finally:
            os.write(write_end, b"1" if ok else b"0")
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert said == b"1"
    store.gate.set()
    assert settler.close(LONG)
    assert store.settled == numbers(0, 3)


def test_direct_settling_is_done_at_once() -> None:
    """For a store that never waits there is no queue: what was put is settled."""
    store = ScriptedStore()
    settler = DirectSettler(store)
    settler.put(closing(0))
    assert store.settled == ["0"]
    assert settler.flush(0)
    assert settler.close(0)


def test_direct_settling_tells_at_once() -> None:
    """What became of a closing is told before `put` returns."""
    heard: list[Closed] = []
    settler = DirectSettler(MemoryStore())
    for _ in range(2):
        settler.put(closing(1), heard.append)
    assert [each.outcome for each in heard] == [Outcome.RECOVERED, Outcome.VOID]


def test_settlers_can_be_collected(store: ScriptedStore) -> None:
    """One that was closed and let go is not kept for a fork that may come."""
    settler = Settler(store)
    settler.put(closing(0))
    thread = settler._thread
    assert thread is not None
    assert settler.close(LONG)
    thread.join(LONG)
    gone = weakref.ref(settler)
    del settler, thread
    gc.collect()
    assert gone() is None


def capped(number: int) -> Cancel:
    """Give a closing that a record can keep, as it is about a cap."""
    charge = Charge("c:1", Cap(5, Period.DAY), 1, 1, (0, 1, 2, 3))
    return Cancel(RequestId(str(number)), "tag", (charge,))


class Remembering:
    """A record that has what it is told, and takes down what it hears."""

    def __init__(self) -> None:
        self.gap: object | None = None
        self.left: list[str] = []
        self.confirmed_rids: list[str] = []
        self.doubted: list[list[str]] = []

    def leaves_out(self, rid: str) -> bool:
        self.left.append(rid)
        self.gap = 1
        return True

    def sending(self, rids: Iterable[str]) -> list[str]:
        self.doubted.append(list(rids))
        return self.doubted[-1]

    def unsent(self, noted: object) -> None:
        self.doubted.remove(noted)  # type: ignore[arg-type]  # what `sending` gave

    def confirmed(self, rids: Iterable[str]) -> None:
        self.confirmed_rids += rids


class Away(ScriptedStore):
    """A store by a clock that the test moves, whose looks can fail too."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock()
        self.away = False

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        """Fail while it is away."""
        if self.away:
            raise NotAsked("away")
        return super().peek(tag, charges)


def test_what_memory_cannot_hold_is_left_to_the_record() -> None:
    """Beyond its room nothing is put, and nothing dropped; in a gap nothing waits but what tells."""
    store, record = Away(), Remembering()
    store.gate.clear()
    settler = Settler(store, most_waiting=3, record=record)
    for number in range(6):
        settler.put(capped(number))
    assert settler.waiting <= 5
    assert record.left
    assert settler.dropped == 0
    told: list[Closed] = []
    settler.put(capped(9), told.append)
    store.gate.set()
    assert settler.flush(LONG)
    assert set(store.settled).isdisjoint(record.left) or "9" in record.left
    assert set(record.confirmed_rids) == set(store.settled)
    settler.close(LONG)


def test_an_outage_leaves_nothing_more_in_doubt() -> None:
    """After a silence the store is looked at first: what it was not sent is not in doubt."""
    store, record = Away(), Remembering()
    settler = Settler(store, record=record)
    store.failures = [StoreUnavailable("silent")]
    store.away = True
    settler.put(closing(0))
    wait_until(lambda: len(store.tried) == 1)
    for number in range(1, 5):
        settler.put(closing(number))
    time.sleep(0.3)  # some attempts
    assert record.doubted == [["0"]]
    store.away = False
    assert settler.flush(LONG)
    assert sorted(store.settled) == numbers(0, 5)
    settler.close(LONG)


def test_what_is_in_doubt_for_too_long_is_put_aside() -> None:
    """A closing whose answer was lost is not sent again when the store may have forgotten it."""
    store, aside = Away(), []
    settler = Settler(store, put_aside=lambda kept, reason: aside.append((kept.closing.rid, reason)))
    store.failures = [StoreUnavailable("silent")]
    store.away = True
    settler.put(closing(0))
    wait_until(lambda: len(store.tried) == 1)
    settler.put(closing(1))
    store._clock.move(REMEMBERED_US)
    store.away = False
    assert settler.flush(LONG)
    assert (aside, store.settled) == ([("0", IN_DOUBT)], ["1"])
    settler.close(LONG)


def test_poison_is_put_aside_after_three_attempts() -> None:
    """What the store cannot digest is tried alone, and then given up; what it refuses for a while is not."""
    store, aside = Away(), []
    settler = Settler(store, put_aside=lambda kept, reason: aside.append(reason))
    store.failures = [Refusal("refused: mw: argument 3 is not a whole number")] * 3
    settler.put(closing(0))
    wait_until(lambda: len(aside) == 1)
    store.failures = [Refusal("refused: OOM command not allowed")] * 5
    settler.put(closing(1))
    assert settler.flush(LONG)
    assert store.settled == ["1"]
    assert len(aside) == 1
    settler.close(LONG)
