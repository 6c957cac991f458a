"""The sql sink on real databases: each event counts once, whatever is sent twice, killed or restarted."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import stat
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event as hooks

from meter_mw.ledger.tables import VERSION
from meter_mw.sinks import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown
from meter_mw.sinks.base import Listing, Totals
from meter_mw.sinks.sql import SqlSink
from meter_mw.testing.sinks import SinkConformance
from support.journeys import through_an_outage
from support.ledgers import (
    HOUR_US,
    NOON_US,
    SOURCE,
    Ledger,
    PostgresLedger,
    SqliteLedger,
    facts,
    ids,
    mixture,
    rolled_up,
    stored_ids,
    usage,
)
from support.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.postgres import PostgresServer

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(params=DATABASES)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param == "sqlite":
        return SqliteLedger(tmp_path)
    return PostgresLedger(request.getfixturevalue("postgres_server"))


@pytest.fixture
def sink(ledger: Ledger) -> Iterator[SqlSink]:
    sink = SqlSink(ledger.address, SOURCE)
    yield sink
    sink.close()


class SqlRig:
    secrets = ("canary-password",)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.sink = SqlSink(ledger.address, SOURCE, timeout=ledger.timeout)
        self.sink.send([])

    def received(self) -> list[dict[str, object]]:
        """A ledger has no order of arrival; the events of these tests are numbered."""
        if not self._ledger.rows(_TABLES[type(self._ledger)]):
            return []
        rows = self._ledger.rows("SELECT raw FROM meter_events ORDER BY length(id), id")
        return [json.loads(str(raw)) for (raw,) in rows]

    def fail(self) -> None:
        self._ledger.fail()

    def recover(self) -> None:
        self._ledger.recover()


_TABLES = {
    SqliteLedger: "SELECT 1 FROM sqlite_master WHERE name = 'meter_events'",
    PostgresLedger: "SELECT 1 FROM pg_class WHERE relname = 'meter_events'",
}


class TestSqlSink(SinkConformance):
    @pytest.fixture
    def rig(self, ledger: Ledger) -> Iterator[SqlRig]:
        rig = SqlRig(ledger)
        yield rig
        rig.sink.close()
        rig.recover()


# -- what is kept


def test_an_event_is_a_row_and_rolled_up(ledger: Ledger, sink: SqlSink) -> None:
    """Columns hold what reports ask for, the raw event everything; quantities of the app's own are rows."""
    told = {"method": "GET", "status": 200, "plan": "pro", "key": "k1_a", "account": "group", "policy": "ee"}
    rest = {"duration_us": 460, "overage": {"requests-month": 1}, "charged": True, "tokens": 812}
    event = usage(1, time_us=NOON_US + 127_149, response_bytes=8, route="items.read", **told, **rest)
    assert sink.send([event]) == [Delivered()]
    columns = "id, source, type, subject, account, key, time_us, route, method, status, plan, requests,"
    (row,) = ledger.rows(
        f"SELECT {columns} request_bytes, response_bytes, duration_us, overage, amends, policy, raw"
        " FROM meter_events"
    )
    assert row[:11] == (
        *("event-1", SOURCE, "meter_mw.request.v1", "acme", "group", "k1_a"),
        *(NOON_US + 127_149, "items.read", "GET", 200, "pro"),
    )
    assert row[11:] == (1, 0, 8, 460, '{"requests-month":1}', None, "ee", event.decode())
    assert ledger.rows("SELECT * FROM meter_quantities") == [("event-1", "tokens", 812)]
    series = ("acme", SOURCE, "group", "pro", "items.read")
    counts = (1, 0, 8, 1, *(0, 1, 0, 0, 0), 0, 0, 460)
    noon, midnight = (NOON_US, *series), (NOON_US - 12 * HOUR_US, *series)
    assert ledger.rows("SELECT * FROM meter_usage_hours") == [(*noon, 1, *counts)]
    assert ledger.rows("SELECT * FROM meter_usage_days") == [(*midnight, 1, *counts)]
    assert ledger.rows("SELECT * FROM meter_quantity_hours") == [(*noon, "tokens", 812)]
    assert ledger.rows("SELECT * FROM meter_quantity_days") == [(*midnight, "tokens", 812)]


def test_hours_are_half_open(ledger: Ledger, sink: SqlSink) -> None:
    """The last µs of an hour belongs to it, the next to the next; late events go where they belong."""
    moments = (NOON_US + HOUR_US, NOON_US, NOON_US + HOUR_US - 1, NOON_US - 30 * HOUR_US, -1)
    sink.send([usage(number, time_us=moment) for number, moment in enumerate(moments)])
    rolled = ledger.rows("SELECT hour_us, requests, events FROM meter_usage_hours ORDER BY hour_us")
    assert rolled == [
        (-HOUR_US, 1, 1),
        (NOON_US - 30 * HOUR_US, 1, 1),
        (NOON_US, 2, 2),
        (NOON_US + HOUR_US, 1, 1),
    ]


def test_corrections_take_away_and_thresholds_count_nothing(ledger: Ledger, sink: SqlSink) -> None:
    """An adjustment may be negative; an event of another type is kept, whatever numbers it has."""
    events = [
        usage(1, response_bytes=1000, tokens=5),
        usage(2, kind="meter_mw.adjustment.v1", requests=-1, response_bytes=-1000, amends="event-1"),
        usage(3, requests=0, tokens=2, amends="event-1"),
        usage(4, kind="meter_mw.threshold.v1", cap=100, threshold=80, since_us=NOON_US),
    ]
    assert list(sink.send(events)) == [Delivered()] * 4
    assert rolled_up(ledger) == {("acme", "tokens"): 7}
    rows = ledger.rows("SELECT id, requests, response_bytes, amends FROM meter_events ORDER BY id")
    assert rows == [
        ("event-1", 1, 1000, None),
        ("event-2", -1, -1000, "event-1"),
        ("event-3", 0, 0, "event-1"),
        ("event-4", 0, 0, None),
    ]
    assert ledger.rows("SELECT count(*) FROM meter_quantities") == [(2,)]


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (b"{", "not an event of usage"),
        (b'{"id": "x"}', "missing required field `source`"),
        (usage(1).replace(b"+00:00", b""), "not an event of usage"),
        (usage(1, subject="a\x00b"), "subject has a NUL character in it"),
        (usage(1, tokens=0.5), "data.tokens is 0.5, not a whole number"),
        (usage(1, tokens=2**52 + 1), "data.tokens is 4503599627370497, beyond 2^52"),
        (usage(1, **{"a\x00": 1}), "a\x00 has a NUL character in it"),
        (usage(1).replace(b"acme", b"\xff"), "not an event of usage"),
        (usage(1).replace(b"acme", b"\\ud800"), "not an event of usage"),
    ],
)
def test_what_is_no_event_of_usage_stands_alone(
    ledger: Ledger, sink: SqlSink, poison: bytes, reason: str
) -> None:
    """What cannot be counted is refused with the reason, and what is with it is not held up."""
    outcomes = sink.send([usage(2), poison, usage(3)])
    assert [outcomes[0], outcomes[2]] == [Delivered()] * 2
    assert isinstance(outcomes[1], Permanent)
    assert reason in outcomes[1].reason
    assert stored_ids(ledger) == {"event-2", "event-3"}


def test_what_the_database_refuses_is_found(postgres_server: PostgresServer) -> None:
    """In a database that has no Chinese, the one event with any is parked, and the others arrive."""
    options = "ENCODING 'LATIN1' TEMPLATE template0"
    ledger = PostgresLedger(postgres_server, options)
    sink = SqlSink(ledger.address, SOURCE)
    batch = [usage(number, subject="語" if number == 37 else "é") for number in range(100)]
    outcomes = sink.send(batch)
    sink.close()
    assert [number for number, each in enumerate(outcomes) if each != Delivered()] == [37]
    assert isinstance(outcomes[37], Permanent)
    assert "can't encode character" in outcomes[37].reason
    assert rolled_up(ledger) == {("é", "requests"): 99}


def test_a_sum_beyond_64_bits_is_refused(ledger: Ledger, sink: SqlSink) -> None:
    """A roll-up that would overflow parks the event that brings it about, and is no float afterwards."""
    sink.send([usage(1)])
    ledger.run(f"UPDATE meter_usage_hours SET requests = {2**63 - 2}")
    first, second = sink.send([usage(2), usage(3)])
    assert first == Delivered()
    assert isinstance(second, Permanent)
    assert ledger.rows("SELECT requests, events FROM meter_usage_hours") == [(2**63 - 1, 2)]
    assert stored_ids(ledger) == {"event-1", "event-2"}


# -- once


def test_what_comes_again_is_known_and_changes_nothing(ledger: Ledger, sink: SqlSink) -> None:
    """Batches that overlap at random are answered exactly per event, and sums are those of the facts."""
    events = mixture(seed=1, count=300)
    dice = random.Random(2)
    seen: set[bytes] = set()
    for _ in range(12):
        batch = dice.choices(events, k=100)
        expected: list[Outcome] = []
        for each in batch:
            expected.append(Duplicate() if each in seen else Delivered())
            seen.add(each)
        assert list(sink.send(batch)) == expected
    assert stored_ids(ledger) == ids(list(seen))
    assert rolled_up(ledger) == facts(seen)


def test_writers_in_several_processes(ledger: Ledger) -> None:
    """Processes that begin at once on an empty database, with batches that overlap, count each event once."""
    events = mixture(seed=3, count=600)
    with ProcessPoolExecutor(4, get_context("fork")) as pool:
        found = list(pool.map(_send_until_taken, [ledger.address] * 4, [events] * 4, range(4)))
    assert sum(new for new, _ in found) == len(events)
    assert stored_ids(ledger) == ids(events)
    assert rolled_up(ledger) == facts(events)
    if isinstance(ledger, PostgresLedger):  # whose writers wait for each other, row by row
        assert [failed for _, failed in found] == [0] * 4


def test_writers_that_share_roll_ups(postgres_server: PostgresServer) -> None:
    """Writers with events of their own, in the same hours, wait for each other and lock nobody out."""
    ledger = PostgresLedger(postgres_server)
    batches = [
        [usage(f"{writer}-{number}", route=f"r{number % 800:03}") for number in range(2400)]
        for writer in range(4)
    ]
    with ProcessPoolExecutor(4, get_context("fork")) as pool:
        found = list(pool.map(_send_until_taken, [ledger.address] * 4, batches, range(4), [800] * 4))
    assert found == [(2400, 0)] * 4
    assert rolled_up(ledger) == {("acme", "requests"): 9600}


def _send_until_taken(address: str, events: Sequence[bytes], seed: int, size: int = 60) -> tuple[int, int]:
    """Send everything in an order of its own; return how many events were new, and how many tries failed."""
    sink = SqlSink(address, SOURCE, timeout=20)
    order = random.Random(seed).sample(events, len(events))
    new = failed = 0
    for start in range(0, len(order), size):
        waiting = order[start : start + size]
        while waiting:
            outcomes = sink.send(waiting)
            new += outcomes.count(Delivered())
            waiting = [
                each
                for each, outcome in zip(waiting, outcomes, strict=True)
                if not isinstance(outcome, Delivered | Duplicate)
            ]
            failed += bool(waiting)
    sink.close()
    return new, failed


def test_a_fork_within_a_transaction(ledger: Ledger, sink: SqlSink) -> None:
    """A child that is born while its parent writes has connections of its own, and spoils nothing."""
    events = mixture(seed=8, count=60)
    sink.send(events[:20])
    exits: list[int] = []

    def fork(connection: object) -> None:
        child = os.fork()
        if child == 0:
            sink._database._timeout = 0.4
            sink.send([usage("child", subject="child")])
            sink.close()
            os._exit(0)
        exits.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    hooks.listens_for(sink._database._engine, "commit", once=True)(fork)
    assert list(sink.send(events)) == [Duplicate()] * 20 + [Delivered()] * 40
    sink.send([usage("child", subject="child")])
    assert exits == [0]
    assert rolled_up(ledger) == facts([*events, usage("child", subject="child")])
    if isinstance(ledger, SqliteLedger):
        assert ledger.rows("PRAGMA integrity_check") == [("ok",)]


# -- killed, restarted, unanswered


def test_a_writer_killed_within_its_transaction(ledger: Ledger, sink: SqlSink) -> None:
    """A kill -9 between the writes and the commit leaves nothing: the batch is new to the next writer."""
    events = mixture(seed=4, count=200)
    sink.send(events[:50])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _stall_before_commit(ledger.address, lambda: os.write(writing, b"x")).send(events)
        os._exit(1)
    assert os.read(reading, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    assert list(sink.send(events)) == [Duplicate()] * 50 + [Delivered()] * 150
    assert rolled_up(ledger) == facts(events)


def _stall_before_commit(address: str, reached: object) -> SqlSink:
    sink = SqlSink(address, SOURCE)
    sink.send([])
    with sink._database.connected() as connection:
        assert connection

    def stall(connection: object) -> None:
        reached()  # type: ignore[operator]
        threading.Event().wait()

    hooks.listen(sink._database._engine, "commit", stall)
    return sink


def test_a_server_that_restarts_within_a_batch(postgres_server: PostgresServer) -> None:
    """A crash of the server before the commit undoes the batch; sent again, all is counted once."""
    ledger = PostgresLedger(postgres_server)
    sink = SqlSink(ledger.address, SOURCE)
    events = mixture(seed=5, count=200)
    sink.send(events[:50])
    restart = hooks.listens_for(sink._database._engine, "commit", once=True)
    restart(lambda connection: postgres_server.restart(signal.SIGQUIT))
    outcomes = sink.send(events)
    assert all(isinstance(each, Unknown) for each in outcomes)
    assert list(sink.send(events)) == [Duplicate()] * 50 + [Delivered()] * 150
    sink.close()
    assert rolled_up(ledger) == facts(events)


def test_a_server_that_restarts_between_batches(postgres_server: PostgresServer) -> None:
    """A connection that the server has closed costs one attempt, and no event."""
    ledger = PostgresLedger(postgres_server)
    sink = SqlSink(ledger.address, SOURCE)
    sink.send([usage(1)])
    postgres_server.restart(signal.SIGINT)
    assert isinstance(sink.send([usage(2)])[0], Retry)
    assert list(sink.send([usage(1), usage(2)])) == [Duplicate(), Delivered()]
    sink.close()


def test_an_answer_that_never_comes(postgres_server: PostgresServer) -> None:
    """Where the answer to the commit is lost, nobody knows; the next attempt finds the events there."""
    ledger = PostgresLedger(postgres_server)
    with FaultProxy(postgres_server.port) as proxy:
        address = ledger.address.replace(str(postgres_server.port), str(proxy.port))
        sink = SqlSink(address, SOURCE, timeout=2)
        sink.send([usage(1)])
        swallow = hooks.listens_for(sink._database._engine, "commit", once=True)
        swallow(lambda connection: setattr(proxy, "swallow", True))
        begin = time.monotonic()
        (outcome,) = sink.send([usage(2)])
        assert isinstance(outcome, Unknown)
        assert outcome.reason.startswith("not done within the timeout: OperationalError")
        assert time.monotonic() - begin < 20
        proxy.swallow = False
        assert list(sink.send([usage(1), usage(2)])) == [Duplicate()] * 2
        sink.close()


def test_a_thread_that_waits_for_another_writer(ledger: Ledger) -> None:
    """While one writer is in its transaction another waits, and then knows what that one wrote."""
    events = mixture(seed=6, count=50)
    go, there = threading.Event(), threading.Event()
    first, second = SqlSink(ledger.address, SOURCE), SqlSink(ledger.address, SOURCE)
    first.send([])
    with first._database.connected() as connection:
        assert connection
    holding = hooks.listens_for(first._database._engine, "commit", once=True)
    holding(lambda connection: (there.set(), go.wait(20)))
    found: dict[str, Sequence[Outcome]] = {}
    threads = [
        threading.Thread(target=lambda: found.update(first=first.send(events))),
        threading.Thread(target=lambda: found.update(second=second.send(events))),
    ]
    threads[0].start()
    assert there.wait(20)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    go.set()
    for thread in threads:
        thread.join(20)
    assert list(found["first"]) == [Delivered()] * 50
    assert list(found["second"]) == [Duplicate()] * 50
    assert rolled_up(ledger) == facts(events)
    first.close()
    second.close()


# -- whose ledger it is


def test_a_ledger_of_a_later_release_is_left_alone(
    ledger: Ledger, sink: SqlSink, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables of a greater version are refused with words, and events wait."""
    sink.send([usage(1)])
    sink.close()
    ledger.run(f"UPDATE meter_schema SET version = {VERSION + 1}")
    (outcome,) = sink.send([usage(2)])
    assert isinstance(outcome, Retry)
    assert f"tables of version {VERSION + 1}, and this release writes version {VERSION}" in outcome.reason
    assert outcome.reason[:60] in caplog.text
    assert stored_ids(ledger) == {"event-1"}


def test_a_table_of_somebody_else_is_not_used(ledger: Ledger, sink: SqlSink) -> None:
    """A table that has the name of ours is not taken for ours."""
    ledger.run("CREATE TABLE meter_events (id TEXT)")
    (outcome,) = sink.send([usage(1)])
    assert isinstance(outcome, Retry)
    assert "already exists" in outcome.reason
    assert ledger.rows("SELECT * FROM meter_events") == []


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Who used what is nobody else's business."""
    ledger = SqliteLedger(tmp_path)
    sink = SqlSink(ledger.address, SOURCE)
    sink.send([usage(1)])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    sink.close()
    assert modes == {"ledger.db": 0o600, "ledger.db-shm": 0o600, "ledger.db-wal": 0o600}


def test_names_say_where_and_not_who() -> None:
    """A cursor survives a change of password; another database or schema is another destination."""

    def name(address: str) -> str:
        return SqlSink(address, SOURCE).name

    assert name("postgresql://a:canary@h/x") == name("postgresql+psycopg://b@h/x") == "sql:postgresql://h/x"
    assert name("sqlite:////var/x.db") == "sql:sqlite:////var/x.db"
    placed = {name(f"postgresql://h/x?{query}") for query in ("", "options=-csearch_path%3Dm", "host=/run")}
    assert len(placed) == 3
    assert name("postgresql://h/x?sslmode=require") == name("postgresql://h/x")


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("sqlite://", "an SQLite ledger is a file"),
        ("sqlite:///:memory:", "an SQLite ledger is a file"),
        ("sqlite:///x.db?mode=ro", "has no parameters"),
        ("postgresql://h", "names no database"),
        ("postgresql://[::1/x", "cannot be read"),
    ],
)
def test_a_useless_address_is_refused(address: str, fault: str) -> None:
    """What leads nowhere is said before anything is sent there."""
    with pytest.raises(ValueError, match=fault):
        SqlSink(address, SOURCE)


def test_secrets_stay_out_of_logs(postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a password nor an event shows where a database or its tables are missing."""
    ledger = PostgresLedger(postgres_server)
    missing = SqlSink(postgres_server.url("nowhere"), SOURCE)
    sink = SqlSink(ledger.address, SOURCE)
    with caplog.at_level(logging.DEBUG):
        shown = str(missing.send([usage(1, subject="canary-subject")]))
        sink.send([usage(1)])
        ledger.run("DROP TABLE meter_usage_hours")
        shown += str(sink.send([usage(2, subject="canary-subject")]))
    for each in (missing, sink):
        each.close()
    assert 'database "nowhere" does not exist' in shown
    assert "42P01" in shown
    assert caplog.text.count("see to the database") == 1
    assert "canary" not in shown + caplog.text + repr([vars(record) for record in caplog.records])


# -- totals


def test_totals_are_exact_for_any_span(ledger: Ledger, sink: SqlSink) -> None:
    """Whole hours or none, a minute or ten hours: what is given is what the events say."""
    assert isinstance(sink, Totals)
    events = mixture(seed=7, count=400)
    sink.send([*events, usage("other", source="urn:meter-mw:other")])
    minute = 60_000_000
    spans = [(-5 * 60, 5 * 60), (0, 60), (-7, 7), (-7, 187), (1, 59), (60, 60), (-600, -590)]
    spans += [(start, start + 13 * start % 300) for start in range(-300, 300, 37)]
    for start, end in spans:
        span = (NOON_US + start * minute, NOON_US + end * minute)
        found = sink.totals(["acme", "globex", "initech"], *span)
        assert dict(found) == facts(events, *span), span
    asked = [f"nobody-{number}" for number in range(1200)] + ["acme"]
    everything = sink.totals(asked, NOON_US - 9 * HOUR_US, NOON_US + 9 * HOUR_US)
    assert dict(everything) == {key: units for key, units in facts(events).items() if key[0] == "acme"}
    assert sink.totals([], 0, NOON_US) == {}


def test_who_has_used_anything(ledger: Ledger, sink: SqlSink) -> None:
    """Those with usage of this service in any hour that the span touches, once each and in order."""
    sink.send(
        [
            usage(1, subject="globex", time_us=NOON_US + HOUR_US - 1),
            usage(2, subject="acme", time_us=NOON_US),
            usage(3, subject="acme", time_us=NOON_US, route="other"),
            usage(4, subject="later", time_us=NOON_US + HOUR_US),
            usage(5, subject="earlier", time_us=NOON_US - 1),
            usage(6, subject="elsewhere", source="urn:meter-mw:other"),
            usage(7, subject="nothing", requests=0),
        ]
    )
    assert isinstance(sink, Listing)
    assert sink.subjects(NOON_US, NOON_US + HOUR_US) == ["acme", "globex"]
    assert sink.subjects(NOON_US + HOUR_US // 2, NOON_US + HOUR_US + 1) == ["acme", "globex", "later"]


def test_totals_of_a_database_that_is_away(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """Who asks is told that there was no answer."""
    for address in (postgres_server.url("nowhere"), f"sqlite:///{tmp_path}/nowhere/ledger.db"):
        sink = SqlSink(address, SOURCE)
        with pytest.raises(ConnectionError, match="nowhere"):
            sink.totals(["acme"], 0, NOON_US)
        sink.close()


# -- the whole way


def test_all_arrives_through_an_outage(ledger: Ledger, tmp_path: Path) -> None:
    """Events of an app that goes on while its database is away are there in the end, each once."""
    SqlSink(ledger.address, "urn:meter-mw:shop").send([])
    environ = {"LEDGER": ledger.address}
    sink = {"sql": "${LEDGER}", "timeout": "1 s"}
    recorded = through_an_outage(tmp_path, sink, environ, ledger.fail, ledger.recover)
    assert stored_ids(ledger) == {each["id"] for each in recorded}
    assert rolled_up(ledger) == facts(json.dumps(each).encode() for each in recorded)
