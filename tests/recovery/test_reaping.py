"""What a killed process had on its way is given back or billed, once, and as far as it had come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Entry, read_journal
from meter_mw.meter import Meter
from meter_mw.policy.delivery import Reap
from meter_mw.policy.terms import Plan
from support.policies import EGRESS, cap, policy, request, sink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meter_mw.policy.policy import Policy

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from recovery.test_reaping import rules
from meter_mw.meter import Meter
from meter_mw.model import Count
from support.policies import request
meter = Meter(rules(Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
ended, first, second = (meter.exchange(meter.admit(request(key="k")), "GET") for _ in range(3))
ended.begin(200, None)
meter.conclude(ended)
first.count(Count.RESPONSE_BYTES, 70)
meter._keeper.look()
asked = meter.admit(request(key="k"))  # decided, and not handed to the app yet
if sys.argv[5] == "uncleared":
    meter._trail.leave = lambda rid: None
    second.begin(200, None)
    meter.conclude(second)
if sys.argv[5] == "turned":
    meter._turner.turn(first)
    first.count(Count.RESPONSE_BYTES, 5)
    meter._keeper.look()
assert meter._settler.flush(20)
os.kill(os.getpid(), signal.SIGKILL)
"""


def rules(folder: Path, store: str, reap: str) -> Policy:
    limits = (cap(1_000), replace(cap(10**9, meter=EGRESS, name="egress"), reserve=100))
    made = policy(
        *limits,
        store=store,
        journal=folder / "journal",
        sinks=[sink("file", folder / "usage.jsonl")],
        deadline_us=5_000_000,
    )
    return replace(made, events=replace(made.events, reap=Reap(reap)))


def killed(folder: Path, store: str, reap: str, how: str = "") -> None:
    """Run a process that ends one request, has two on their way and one decided, and is killed."""
    tests = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120 - it goes onto a path of strings
    arguments = [sys.executable, "-c", KILLED, tests, str(folder), store, reap, how]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL


def recorded(folder: Path) -> list[dict[str, object]]:
    """Give the data of all events in the journal, each id once and always in the same words."""
    found: dict[str, dict[str, object]] = {}
    for entry in read_journal(folder / "journal"):
        if isinstance(entry, Entry):
            event = json.loads(entry.payload)
            assert found.setdefault(event["id"], event) == event
    return [event["data"] for event in found.values()]  # type: ignore[misc]


def counted(meter: Meter) -> tuple[int, int]:
    found = meter.usage(request(key="k"))
    used = {each.standing.line.limit.name: each.standing.used for each in found.limits}  # type: ignore[union-attr]
    return used["cap"] or 0, used["egress"] or 0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def recovered(folder: Path, store: str, reap: str) -> tuple[Meter, Callable[[], bool]]:
    """Open the next process's meter; give it, and whether all registers are without entries."""
    meter = Meter(rules(folder, store, reap))
    meter.start()

    def is_done() -> bool:
        pages = [path.read_bytes()[4096:] for path in (folder / "journal").glob("*/register")]
        return not any(page[at] for page in pages for at in range(0, len(page), 1024))

    return meter, is_done


def test_void_gives_all_back(tmp_path: Path, redis_url: str) -> None:
    """What was not ended is as if it had not been asked."""
    killed(tmp_path, redis_url, "void")
    meter, is_done = recovered(tmp_path, redis_url, "void")
    try:
        until(lambda: is_done() and counted(meter) == (1, 0))
        assert len(recorded(tmp_path)) == 1
    finally:
        meter.close()


def test_bill_bills_what_the_app_was_handed(tmp_path: Path, redis_url: str) -> None:
    """Each is recorded with what had passed at the last look; what was only decided is given back."""
    killed(tmp_path, redis_url, "bill")
    meter, is_done = recovered(tmp_path, redis_url, "bill")
    try:
        until(lambda: is_done() and counted(meter) == (3, 70))
        reaped = [each for each in recorded(tmp_path) if each.get("reaped")]
        assert sorted(each["response_bytes"] for each in reaped) == [0, 70]  # type: ignore[type-var]
        assert all((each["status"], each["requests"]) == (0, 1) for each in reaped)
        assert len(recorded(tmp_path)) == 3
    finally:
        meter.close()


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_what_no_limit_is_on_is_crossed_out_too(store: str, tmp_path: Path, redis_url: str) -> None:
    """An ended request is in no register: its successor would bill it once more."""
    made = rules(tmp_path, redis_url if store == "redis" else "memory://", "bill")
    meter = Meter(replace(made, plans={"default": Plan("default")}))
    try:
        exchange = meter.exchange(meter.admit(request(key="k")), "GET")
        register = meter._trail.register
        assert register is not None
        assert not register.is_empty
        exchange.begin(200, None)
        meter.conclude(exchange)
        assert register.is_empty
    finally:
        meter.close()


@pytest.mark.parametrize("reap", ["void", "bill"])
def test_what_is_in_the_journal_has_ended(reap: str, tmp_path: Path, redis_url: str) -> None:
    """Killed between the journal and the crossing out: the event counts, and it alone."""
    killed(tmp_path, redis_url, reap, "uncleared")
    meter, is_done = recovered(tmp_path, redis_url, reap)
    try:
        expected = (2, 0) if reap == "void" else (3, 70)
        until(lambda: is_done() and counted(meter) == expected)
        assert len(recorded(tmp_path)) == expected[0]
    finally:
        meter.close()


def test_a_long_one_is_billed_from_its_last_part_on(tmp_path: Path, redis_url: str) -> None:
    """The part that was over is recorded as it was; the one that was on its way has its own bytes."""
    killed(tmp_path, redis_url, "bill", "turned")
    meter, is_done = recovered(tmp_path, redis_url, "bill")
    try:
        until(lambda: is_done() and counted(meter) == (3, 75))
        parts = [each for each in recorded(tmp_path) if each.get("part")]
        assert [(each["response_bytes"], each["requests"], each["reaped"]) for each in parts] == [
            (5, 0, True)
        ]
    finally:
        meter.close()


def test_billed_twice_is_the_same_event(tmp_path: Path, redis_url: str) -> None:
    """Who bills and is killed before the entry is crossed out leaves it to be billed in the same words."""
    killed(tmp_path, redis_url, "bill")
    register = next((tmp_path / "journal").glob("*/register"))
    entries = register.read_bytes()
    for _ in range(2):
        meter, is_done = recovered(tmp_path, redis_url, "bill")
        try:
            until(lambda: is_done() and counted(meter) == (3, 70))  # noqa: B023 - it is called here
        finally:
            meter.close()
        register.write_bytes(entries)
    assert len(recorded(tmp_path)) == 3
