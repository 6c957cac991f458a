"""What keeps long exchanges: only those whose time has come, and all of them."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from meter_mw.admission import Admission, Answer
from meter_mw.exchange import Exchange
from meter_mw.keeping import Keeper
from meter_mw.model import RequestId
from meter_mw.policy.policy import NO_ROUTE
from support.policies import SECOND_US, policy

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = policy()


class Turns:
    """Takes down whose part was closed, and begins the next one."""

    def __init__(self, checkpoint_us: int = 60 * SECOND_US) -> None:
        self.turned: list[Exchange] = []
        self.failing: set[Exchange] = set()
        self.keeper = Keeper(checkpoint_us, self.turn)

    def turn(self, exchange: Exchange) -> None:
        """Close a part, or fail as a full disk would."""
        self.turned.append(exchange)
        if exchange in self.failing:
            raise OSError("no space left")
        exchange.part_us = time.monotonic_ns() // 1_000


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the clock of the keeper, in µs; it stands still unless the test moves it."""
    clock = [1_000 * SECOND_US]
    monkeypatch.setattr("meter_mw.keeping.time.monotonic_ns", lambda: clock[0] * 1_000)
    return clock


@pytest.fixture
def turns() -> Iterator[Turns]:
    """Give a keeper whose thread does not look by itself while the test lasts."""
    made = Turns()
    yield made
    made.keeper.close()


def exchange(started_us: int) -> Exchange:
    """Open a count."""
    admission = Admission(Answer.ALLOWED, RequestId("rid"), 0, NO_ROUTE)
    return Exchange(RULES, admission, "GET", started_us, lambda *_: None)


def test_only_those_whose_time_has_come(now: list[int], turns: Turns) -> None:
    """A part is closed after a checkpoint and not before; then the next one begins."""
    old, young = exchange(now[0]), exchange(now[0] + 10 * SECOND_US)
    turns.keeper.add(old)
    turns.keeper.add(young)
    now[0] += 60 * SECOND_US - 1
    turns.keeper.look()
    assert turns.turned == []
    now[0] += 1
    turns.keeper.look()
    turns.keeper.look()
    assert turns.turned == [old]
    now[0] += 10 * SECOND_US
    turns.keeper.look()
    assert turns.turned == [old, young]
    now[0] += 50 * SECOND_US
    turns.keeper.look()
    assert turns.turned == [old, young, old]


def test_what_has_ended_is_let_be(now: list[int], turns: Turns) -> None:
    """It is not looked at any more."""
    ended = exchange(now[0])
    turns.keeper.add(ended)
    turns.keeper.discard(ended)
    turns.keeper.discard(ended)
    now[0] += 60 * SECOND_US
    turns.keeper.look()
    assert turns.turned == []


def test_one_that_fails_does_not_stop_the_others(
    now: list[int], turns: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in the log, and tried again."""
    several = [exchange(now[0]) for _ in range(5)]
    turns.failing = set(several[1:3])
    for each in several:
        turns.keeper.add(each)
    now[0] += 60 * SECOND_US
    with caplog.at_level(logging.ERROR):
        turns.keeper.look()
    assert set(turns.turned) == set(several)
    assert [each.message for each in caplog.records] == ["a long exchange could not be recorded in part"] * 2
    turns.failing = set()
    turns.keeper.look()
    assert len(turns.turned) == 7


def test_one_thread_looks_by_itself() -> None:
    """It begins with the first exchange, is one, and ends with the keeper."""
    turns = Turns(checkpoint_us=20_000)
    many = [exchange(0) for _ in range(3)]
    for each in many:
        turns.keeper.add(each)
    thread = turns.keeper._thread
    assert thread is not None
    assert sum(each is thread for each in threading.enumerate()) == 1
    end = time.monotonic() + 5
    while set(turns.turned) != set(many):
        assert time.monotonic() < end
        time.sleep(0.001)
    turns.keeper.close()
    thread.join(5)
    assert not thread.is_alive()
    turns.keeper.add(exchange(0))
    assert not thread.is_alive()


def test_a_keeper_that_is_let_go_ends_its_thread() -> None:
    """It need not be closed: apps of tests are made anew, and forgotten."""
    turns = Turns()
    turns.keeper.add(exchange(0))
    thread = turns.keeper._thread
    assert thread is not None
    del turns
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_forked_child_begins_with_nothing(turns: Turns) -> None:
    """The exchanges of the parent are the parent's; the child's first has a thread of its own."""
    turns.keeper.add(exchange(0))
    pid = os.fork()
    if pid == 0:
        fresh = turns.keeper._exchanges == set() and turns.keeper._thread is None
        turns.keeper.add(exchange(0))
        started = turns.keeper._thread
        os._exit(0 if fresh and started is not None and started.is_alive() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(turns.keeper._exchanges) == 1


def test_without_a_thread_it_is_said(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that can have no more threads goes on serving."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    turns.keeper.add(exchange(0))
    assert "long exchanges are not kept" in caplog.text
    assert turns.keeper._thread is None
