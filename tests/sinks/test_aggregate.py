"""Aggregating before a sink: from the app to Stripe, through outages and kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from meter_mw.journal.convoy import Convoy
from meter_mw.journal.parked import read_parked
from meter_mw.journal.supply import Backlog
from meter_mw.journal.unparking import is_in_doubt
from meter_mw.meter import open_sinks
from meter_mw.policy.loader import load
from meter_mw.reconciling.report import Reconciliation
from meter_mw.reconciling.rows import AGREES, IN_FLIGHT
from meter_mw.sinks import Delivered, Duplicate, Outcome, Permanent, Retry
from meter_mw.sinks.aggregate import Aggregate, folder_of
from meter_mw.sinks.base import Totals
from meter_mw.sinks.windows import Windows
from support.fakes.stripe import KEY, FakeStripe
from support.journeys import through_an_outage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SOURCE = "urn:meter-mw:shop"
NOW = 1_767_261_600.0  # 2026-01-01T10:00:00Z
MINUTE_US = 60_000_000
DAY_US = 86_400_000_000


class Inner:
    """A sink that answers as told."""

    name = "inner"
    max_batch = 3
    horizon = 86_400.0

    def __init__(self) -> None:
        self.sent: list[list[dict[str, Any]]] = []
        self.closed = 0
        self.answer: Callable[[Sequence[bytes]], Sequence[Outcome]] = lambda batch: [Delivered()] * len(batch)

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        self.sent.append([json.loads(payload) for payload in batch])
        return self.answer(batch)

    def close(self) -> None:
        self.closed += 1


def windows_in(folder: Path) -> Windows:
    return Windows(folder, SOURCE, length_us=60 * MINUTE_US, lateness_us=0, remember_us=3 * DAY_US)


def aggregate_of(folder: Path, inner: Inner) -> Aggregate:
    return Aggregate(inner, windows_in(folder / "windows"), ("requests", "tokens"), clock=lambda: NOW)


def used(number: int | str, *, age: float = 0, kind: str = "request", **data: object) -> bytes:
    time = datetime.fromtimestamp(NOW - age, UTC).isoformat()
    event = {"id": f"event-{number}", "source": SOURCE, "type": f"meter_mw.{kind}.v1", "subject": "acme"}
    return json.dumps({**event, "time": time, "data": {"requests": 1, "route": "v1", **data}}).encode()


class Nothing:
    """A stock that has nothing, so that a convoy ships windows alone."""

    def supply(self, sink: str, *, durable: bool) -> Nothing:
        return self

    def take(self, most: int) -> None:
        return None

    def keep(self, consignment: object) -> None:
        raise AssertionError

    def backlog(self) -> Backlog:
        return Backlog()

    def due(self) -> Callable[[float], bool]:
        return lambda timeout: True

    def release(self) -> None:
        pass


def convoy_of(aggregate: object, folder: Path, now: Callable[[], float]) -> Convoy:
    return Convoy(Nothing(), [aggregate], folder, idle=0.02, backoff=0.01, longest_backoff=0.05, now=now)  # type: ignore[list-item]


@pytest.fixture
def ship(tmp_path: Path) -> Iterator[Callable[..., Convoy]]:
    """Start convoys that ship sealed windows, an hour from now."""
    made: list[Convoy] = []

    def start(aggregate: object, now: Callable[[], float] = lambda: NOW + 3600) -> Convoy:
        made.append(convoy_of(aggregate, tmp_path, now))
        made[-1].start()
        return made[-1]

    yield start
    for convoy in made:
        convoy.stop()
        assert convoy.ended(10)


# -- what is added


def test_events_are_delivered_when_their_window_has_them(tmp_path: Path) -> None:
    """Usage is added, corrections with it; the rest is as good as delivered, and nothing goes out yet."""
    inner = Inner()
    aggregate = aggregate_of(tmp_path, inner)
    batch = [
        used(1, tokens=5),
        used(1, tokens=5),
        used(2, kind="threshold"),
        used(3, requests=0),
        used("void", kind="adjustment", requests=-1, amends="event-1"),
        used("other", kind="adjustment", requests=0, tokens=-2),
    ]
    assert list(aggregate.send(batch)) == [Delivered(), Duplicate(), *[Delivered()] * 4]
    assert inner.sent == []
    aggregate.windows.seal(int(NOW + 3600) * 1_000_000)
    found = aggregate.windows.batch(9, ())
    assert found is not None
    assert [json.loads(each.record)["data"]["tokens"] for each in found[1]] == [3]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "no usage event"),
        (used(1, tokens=0.5), "data.tokens is 0.5; expected a whole number"),
        (used(1, tokens=True), "data.tokens is True"),
        (used(1).replace(b"+00:00", b""), "expected RFC 3339 with a time zone"),
        (used(1, age=-301), "more than 5 minutes ahead"),
    ],
)
def test_what_cannot_be_added_is_parked(tmp_path: Path, payload: bytes, reason: str) -> None:
    """With the reason, and the rest goes on."""
    refused, added = aggregate_of(tmp_path, Inner()).send([payload, used(2)])
    assert isinstance(refused, Permanent)
    assert reason in refused.reason
    assert added == Delivered()


def test_a_disk_that_takes_nothing_is_waited_for(tmp_path: Path) -> None:
    """What is not on the disk is not delivered."""
    (tmp_path / "windows").write_bytes(b"")
    outcomes = aggregate_of(tmp_path, Inner()).send([used(1), used(2, kind="threshold"), used(3)])
    assert [type(each) for each in outcomes] == [Retry, Delivered, Retry]


def test_a_record_that_was_parked_goes_on_as_it_is(tmp_path: Path) -> None:
    """Sent again by hand it is a record still, and not usage to add."""
    inner = Inner()
    inner.answer = lambda batch: [Duplicate()]
    aggregate = aggregate_of(tmp_path, inner)
    record = used(1, kind="window")
    assert list(aggregate.send([record])) == [Duplicate()]
    assert (inner.sent, inner.closed) == ([[json.loads(record)]], 1)
    assert not aggregate.windows.folder.exists()


def test_it_works_in_a_child(tmp_path: Path) -> None:
    """After a fork, parent and child add to the same windows."""
    aggregate = aggregate_of(tmp_path, Inner())
    aggregate.send([used(1)])
    child = os.fork()
    if child == 0:
        os._exit(0 if list(aggregate.send([used(1), used(2)])) == [Duplicate(), Delivered()] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(aggregate.send([used(2), used(3)])) == [Duplicate(), Delivered()]


# -- what is sent


def test_sealed_windows_are_sent(tmp_path: Path, ship: Callable[..., Convoy]) -> None:
    """When they are over, in batches, by whoever runs."""
    inner = Inner()
    aggregate = aggregate_of(tmp_path, inner)
    aggregate.send([used(f"{hour}-{number}", age=3600 * hour) for hour in range(1, 8) for number in range(4)])
    convoy = ship(aggregate, lambda: NOW)
    assert convoy.flush(10)
    assert [len(batch) for batch in inner.sent] == [3, 3, 1]
    assert [each["data"]["requests"] for batch in inner.sent for each in batch] == [4] * 7
    assert convoy.reports()[-1].backlog == Backlog()


def test_records_are_sent_again_as_they_were(tmp_path: Path, ship: Callable[..., Convoy]) -> None:
    """Late usage meanwhile changes none of them."""
    inner = Inner()
    aggregate = aggregate_of(tmp_path, inner)
    answers = iter([[Retry()], [Retry()]])

    def fail_twice(batch: Sequence[bytes]) -> Sequence[Outcome]:
        if len(inner.sent) <= 3:
            aggregate.send([used(f"late-{len(inner.sent)}")])
        return next(answers, [Delivered()] * len(batch))

    inner.answer = fail_twice
    aggregate.send([used(1)])
    assert ship(aggregate).flush(10)
    first, second, third, *later = inner.sent
    assert first == second == third
    assert sum(each["data"]["requests"] for batch in later for each in batch) == 3
    assert len({each["id"] for batch in inner.sent for each in batch}) == 1 + sum(map(len, later))


def test_one_process_sends(tmp_path: Path, ship: Callable[..., Convoy]) -> None:
    """Another leaves the records to it while it lives, and takes over when it ends."""
    first, second = Inner(), Inner()
    one = ship(aggregate_of(tmp_path, first))
    aggregate_of(tmp_path, first).send([used(1)])
    assert one.flush(10)
    other = ship(aggregate_of(tmp_path, second))
    aggregate_of(tmp_path, first).send([used(2)])
    assert other.flush(10)
    assert one.flush(10)
    assert (len(first.sent), second.sent) == (2, [])
    one.stop()
    assert one.ended(10)
    aggregate_of(tmp_path, first).send([used(3)])
    deadline = time.monotonic() + 10
    while not second.sent and time.monotonic() < deadline:
        other.flush(1)
    assert (len(first.sent), len(second.sent)) == (2, 1)


def parked(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "parked.jsonl").read_text().splitlines()]


def test_a_refused_record_is_parked_with_what_it_stands_for(
    tmp_path: Path, ship: Callable[..., Convoy]
) -> None:
    """Whoever looks finds the events by the record."""
    inner = Inner()
    inner.answer = lambda batch: [Permanent("no customer for subject 'acme'")]
    aggregate = aggregate_of(tmp_path, inner)
    aggregate.send([used(1), used(2)])
    assert ship(aggregate).flush(10)
    (entry,) = parked(tmp_path)
    record = json.loads(entry["payload"])
    assert (entry["sink"], entry["why"]) == ("inner", "no customer for subject 'acme'")
    assert aggregate.windows.parts(record["id"]) == ["event-1", "event-2"]


def test_a_record_in_doubt_is_not_sent_blindly(tmp_path: Path, ship: Callable[..., Convoy]) -> None:
    """Its moment outlives the process; when the destination may have forgotten its id it is parked."""
    inner = Inner()
    inner.answer = lambda batch: [Retry()] * len(batch)
    aggregate = aggregate_of(tmp_path, inner)
    aggregate.send([used(1)])
    aggregate.windows.seal(int(NOW + 3600) * 1_000_000)
    assert aggregate.windows.batch(9, ()) is not None
    aggregate.windows.keep(1, {1: NOW + 3600})  # as a process that was killed while it sent it
    later = ship(aggregate_of(tmp_path, inner), lambda: NOW + 3600 + 23 * 3600)
    assert later.flush(10)
    assert inner.sent == []
    (entry,) = parked(tmp_path)
    assert entry["why"].startswith("in doubt: sent at 2026-01-01T11:00:00+00:00")
    (event,) = read_parked(tmp_path)
    assert is_in_doubt(event, aggregate, NOW + DAY_US)
    assert not is_in_doubt(replace(event, payload=used(1)), aggregate, NOW + DAY_US)
    assert not is_in_doubt(replace(event, payload=b"{"), aggregate, NOW + DAY_US)


# -- as a whole


def settings_of(fake: FakeStripe, **options: object) -> dict[str, object]:
    return {
        "stripe": "shop",
        "secret": "${STRIPE_KEY}",
        "api": fake.url,
        "stream": fake.url,
        "customers": {"acme": "cus_Acme", "globex": "cus_Globex", "initech": "cus_Initech"},
        **options,
    }


def policy_of(fake: FakeStripe, folder: Path, **options: object) -> dict[str, object]:
    sinks = [settings_of(fake, **options)]
    return {"version": 1, "service": "shop", "events": {"journal": str(folder), "sinks": sinks}}


ENVIRON = {"STRIPE_KEY": KEY, "METER_KEY_SECRET": "a secret of thirty-two bytes ...."}


def test_what_a_policy_says(tmp_path: Path) -> None:
    """Windows stand before the sink, under its name and with its totals; one that divides no day is told."""
    fake = FakeStripe()
    fake.close()
    (sink,) = open_sinks(load(policy_of(fake, tmp_path, window="1 hour"), ENVIRON))
    assert isinstance(sink, Aggregate)
    assert isinstance(sink, Totals)
    assert (sink.name, sink.horizon) == ("stripe:shop", None)
    assert sink.windows.folder == tmp_path / folder_of("stripe:shop")
    with pytest.raises(Exception, match="a window of 25200 s does not divide a day"):
        open_sinks(load(policy_of(fake, tmp_path, window="7 hours"), ENVIRON))


@pytest.mark.parametrize("by", ["stream", "call"])
def test_from_the_app_to_stripe(tmp_path: Path, by: str) -> None:
    """The sums at Stripe are those of the events, though it fails, forgets sessions and loses answers."""
    names = ("requests", "request_bytes", "response_bytes", "tokens")
    fake = FakeStripe(*names)
    settings = settings_of(fake, by=by, window="1 minute", lateness="1 s")
    others: list[sqlite3.Connection] = []

    def lock() -> None:
        path = tmp_path / "journal" / folder_of("stripe:shop") / "windows.db"
        others.append(sqlite3.connect(path, isolation_level=None))
        others[0].execute("BEGIN IMMEDIATE")

    def unlock() -> None:
        others[0].close()

    recorded = through_an_outage(tmp_path, settings, ENVIRON, lock, unlock)
    assert fake.taken == []
    fake.now = time.time() + 3600
    fake.retry_after = "0"
    policy = policy_of(fake, tmp_path / "journal", by=by, window="1 minute", lateness="1 s")
    policy["meters"] = {"tokens": {"count": "reported"}}
    rules = load(policy, ENVIRON)
    (aggregate,) = open_sinks(rules)
    now_us = int(time.time()) // 60 * MINUTE_US
    window_us = (now_us - 5 * MINUTE_US, now_us + MINUTE_US)

    def causes() -> set[str]:
        return {row.cause for row in Reconciliation(rules, [aggregate], None).rows(window_us, now_us)}

    assert causes() - {AGREES} == {IN_FLIGHT}
    fake.faults = [None, "lost", 503, "500 kept", "cut", 429]
    convoy = convoy_of(aggregate, tmp_path, lambda: time.time() + 3600)
    convoy.start()
    assert convoy.flush(30)
    convoy.stop()
    assert convoy.ended(10)
    fake.settle()
    fake.faults = []
    assert causes() == {AGREES}
    aggregate.close()
    fake.close()
    expected: Counter[tuple[str, str]] = Counter()
    for each in recorded:
        data = each["data"]
        assert isinstance(data, dict)
        expected += Counter(
            {(f"cus_{str(each['subject']).title()}", name): data.get(name, 0) for name in names}
        )
    assert fake.totals() == expected
    assert all(len(values) == 1 for values in fake.values.values())
    assert all(len(identifier) <= 100 for identifier in fake.values)
    assert len(fake.taken) < len(recorded)


WORKER = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from meter_mw.journal import Forwarder, Journal
from meter_mw.sinks.aggregate import Aggregate
from meter_mw.sinks.stripe import StripeSink
from meter_mw.sinks.windows import Windows
place, url, first, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
journal = Journal(place, "urn:meter-mw:tests", sync_interval=0.001)
sink = StripeSink("%s", {"requests": "api_requests"}, {"acme": "cus_Acme", "globex": "cus_Globex"}, api=url,
                  events=url, timeout=5)
windows = Windows(place / "windows", "urn:meter-mw:tests", length_us=60_000_000, lateness_us=0,
                  remember_us=3 * 86_400_000_000)
forwarder = Forwarder(journal, [Aggregate(sink, windows, ["requests"])], adopt_every=0.05, backoff=0.01,
                      longest_backoff=0.05)
forwarder.start()
for number in range(first, first + count):
    at = datetime.fromtimestamp(time.time() - 120 - number %% 300, UTC).isoformat()
    subject = "acme" if number %% 2 else "globex"
    event = {"id": f"event-{number}", "type": "meter_mw.request.v1", "subject": subject, "time": at,
             "source": "urn:meter-mw:tests", "data": {"requests": number %% 7 + 1}}
    journal.append(json.dumps(event).encode())
    print(number, flush=True)
    time.sleep(0.001)
done = forwarder.flush(30)
forwarder.close(5)
journal.close()
sys.exit(0 if done else 1)
"""


def test_kill_9_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Two processes share windows and are killed again and again while Stripe fails at random."""
    chance = random.Random(9)
    fake = FakeStripe("api_requests")
    fake.now, fake.retry_after = time.time(), "0"
    fake.faults = [chance.choice([None, None, None, "lost", "500 kept", 503, "cut"]) for _ in range(400)]
    place = tmp_path / "journal"

    def worker(first: int, count: int) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", WORKER % KEY, str(place), fake.url, str(first), str(count)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    told: set[int] = set()
    for turn in range(2):
        pair = [worker(10_000 * (2 * turn + half), 10_000) for half in range(2)]
        for process in pair:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(chance.randrange(60, 250))]
            process.send_signal(signal.SIGKILL)
            told |= {int(line) for line in lines}
            process.communicate()
    last = worker(900_000, 20)
    output, _ = last.communicate(timeout=60)
    assert last.returncode == 0
    told |= set(map(int, output.split()))
    windows = Windows(place / "windows", "", length_us=60_000_000, lateness_us=0, remember_us=1)
    expected: Counter[tuple[str, str]] = Counter()
    added: set[int] = set()
    for taken in fake.taken:
        for event in windows.parts(taken.identifier):
            number = int(event.removeprefix("event-"))
            assert number not in added
            added.add(number)
            expected["cus_Acme" if number % 2 else "cus_Globex", "api_requests"] += number % 7 + 1
    fake.close()
    assert told <= added
    assert fake.totals() == expected
    assert all(len(values) == 1 for values in fake.values.values())
    assert not (place / "parked.jsonl").exists()
