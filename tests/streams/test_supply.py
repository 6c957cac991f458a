"""The supply of a stream: a courier stepped under a clock, on a real Redis."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from journal.conftest import Clock, MemorySink, expected, ids
from meter_mw.journal import read_parked
from meter_mw.journal.courier import Courier
from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown
from meter_mw.sinks.redis_line import RedisLine, companion
from meter_mw.sinks.redis_stream import RedisStreamSink
from meter_mw.streams import StreamStock, scripts
from meter_mw.streams.records import Record
from support.cluster import Cluster
from support.proxy import FaultProxy
from support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import redis

    from meter_mw.journal.supply import Consignment
    from meter_mw.sinks import Outcome
    from meter_mw.streams.supply import StreamSupply

LEASE = 15.0


def event(number: int) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": f"event-{number}",
            "source": "urn:meter-mw:tests",
            "type": "meter_mw.request.v1",
            "subject": "acme",
            "time": "2026-11-21T10:43:47.127149Z",
            "datacontenttype": "application/json",
            "data": {"requests": 1, "request_bytes": 2, "response_bytes": 3},
        }
    ).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Daemon:
    """A process of `meter-mw forward` as far as a stream sees it: a stock, and a courier for each sink."""

    def __init__(self, scene: Scene, url: str, sinks: Sequence[MemorySink]) -> None:
        self.scene = scene
        names = scene.names or [sink.name for sink in sinks]
        self.stock = StreamStock(url, scene.stream, names, clock=scene.clock, timeout=2.0, lease=LEASE)
        self.consumer = self.stock._place.consumer
        self.supplies: dict[str, StreamSupply] = {}
        self.couriers = [self._courier(sink) for sink in sinks]

    def _courier(self, sink: MemorySink) -> Courier:
        supply = self.stock.supply(sink.name, durable=sink.horizon is not None)
        self.supplies[sink.name] = supply
        return Courier(
            sink,
            supply,
            self.scene.place,
            clock=self.scene.clock,
            now=self.scene.clock,
            random=lambda: 1.0,
            backoff=0.5,
            longest_backoff=60.0,
        )

    def run(self, steps: int = 1000) -> None:
        """Step until nothing waits; the clock stands still in between."""
        for courier in self.couriers:
            for _ in range(steps):
                if courier.step() is None:
                    break

    def die(self) -> None:
        """End as by kill -9, and let the lease go by: nothing is said to the server."""
        self.stock._ended.set()
        self.stock._beating.join()
        self.scene.client.delete(companion(self.scene.stream, f"alive:{self.consumer}"))


class Scene:
    """A stream of its own, a clock, and daemons."""

    def __init__(self, server: RedisServer, place: Path) -> None:
        self.server = server
        self.client: redis.Redis = server.client()
        self.stream = f"events-{uuid.uuid4().hex[:8]}"
        self.place = place
        self.clock = Clock()
        self.names: list[str] = []
        self.daemons: list[Daemon] = []
        self._sink = RedisStreamSink(server.url, self.stream)

    def daemon(self, *sinks: MemorySink, url: str = "") -> Daemon:
        self.daemons.append(Daemon(self, url or self.server.url, sinks))
        return self.daemons[-1]

    def add(self, numbers: range) -> None:
        for start in range(numbers.start, numbers.stop, 100):
            batch = [event(number) for number in range(start, min(start + 100, numbers.stop))]
            assert set(self._sink.send(batch)) == {Delivered()}

    def later(self, seconds: float = LEASE + 1) -> None:
        self.clock.now += seconds

    def is_empty(self) -> bool:
        """Whether the outbox is empty: nothing in the stream, pending, or in hand."""
        groups = self.client.xinfo_groups(self.stream)
        hands = self.client.keys(companion(self.stream, "hand:*"))
        return (
            self.client.xlen(self.stream) == 0 and not hands and not any(each["pending"] for each in groups)
        )

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.stock._ended.set()
            daemon.stock.release()
            for supply in daemon.supplies.values():
                supply._line.close()
        self._sink.close()
        self.client.close()


@pytest.fixture
def scene(server: RedisServer, tmp_path: Path) -> Iterator[Scene]:
    with server.client() as client:
        client.flushall()
    scene = Scene(server, tmp_path)
    yield scene
    scene.close()


def always(outcome: Outcome) -> Callable[[Sequence[bytes]], Sequence[Outcome]]:
    return lambda batch: [outcome] * len(batch)


def sent(consignment: Consignment) -> list[str]:
    return ids([item.payload for item in consignment.items])


def test_all_arrives_and_nothing_is_left(scene: Scene) -> None:
    """In order, in batches of the sink; then the stream is empty and nothing is pending."""
    sink = MemorySink(max_batch=30)
    daemon = scene.daemon(sink)
    scene.add(range(100))
    daemon.run()
    assert ids(sink.accepted) == expected(range(100))
    assert [len(batch) for batch in sink.sent] == [30, 30, 30, 10]
    assert scene.is_empty()


def test_an_entry_is_deleted_when_every_group_has_it(scene: Scene) -> None:
    """Not before, whichever sink is slower, and also where it refuses some for good."""
    quick, slow = MemorySink("quick"), MemorySink("slow")
    daemon = scene.daemon(quick, slow)
    slow.answer = always(Retry())
    scene.add(range(20))
    daemon.run(steps=1)
    assert len(quick.accepted) == 20
    assert scene.client.xlen(scene.stream) == 20
    slow.answer = lambda batch: [Permanent("bad") if b'7"' in each else Delivered() for each in batch]
    scene.later()
    daemon.run()
    assert len(slow.accepted) == 18
    assert [each.payload for each in read_parked(scene.place)] == [event(7), event(17)]
    assert scene.is_empty()


def test_nothing_is_deleted_while_a_group_is_missing(scene: Scene) -> None:
    """A sink whose group could not be made yet will find all that was there."""
    first, second = MemorySink("first"), MemorySink("second")
    scene.names = ["first", "second"]
    daemon = scene.daemon(first)
    scene.client.xgroup_destroy(scene.stream, "second")
    scene.add(range(10))
    daemon.run()
    assert scene.client.xlen(scene.stream) == 10
    scene.daemon(second).run()
    assert ids(second.accepted) == expected(range(10))
    scene.later()
    daemon.run()
    assert scene.is_empty()


def test_a_group_that_is_gone_holds_nothing_up(scene: Scene) -> None:
    """What only a destroyed group still needed is swept."""
    scene.client.xgroup_create(scene.stream, "former", "0", mkstream=True)
    sink = MemorySink()
    daemon = scene.daemon(sink)
    scene.add(range(10))
    daemon.run()
    assert scene.client.xlen(scene.stream) == 10
    scene.client.xgroup_destroy(scene.stream, "former")
    scene.later()
    daemon.run()
    assert scene.is_empty()


@pytest.mark.parametrize("when", ["after it was handed out", "after the note", "after the sink", "half way"])
def test_a_daemon_that_is_killed_leaves_its_batch_to_another(scene: Scene, when: str) -> None:
    """As it was, with the moments of its items; not before the lease is over."""
    sink = MemorySink(max_batch=10)
    killed = scene.daemon(sink)
    supply = killed.supplies["memory"]
    scene.add(range(30))
    consignment = supply.take(10)
    assert consignment is not None
    if when != "after it was handed out":
        for item in consignment.items:
            item.sent = 1234.5
        supply.keep(consignment)
    if when == "half way":
        consignment.items = consignment.items[6:]
        supply.keep(consignment)

    other = scene.daemon(sink)
    other.run()
    assert ids(sink.accepted) == expected(range(10, 30))
    scene.later()
    other.run()
    assert len(sink.accepted) == 20
    killed.die()
    scene.later()
    taken = other.supplies["memory"].take(5)
    assert taken is not None
    assert sent(taken) == expected(range(6 if when == "half way" else 0, 10))
    moment = None if when == "after it was handed out" else 1234.5
    assert {item.sent for item in taken.items} == {moment}
    taken.items = []
    other.supplies["memory"].keep(taken)
    assert scene.is_empty()
    assert [each["name"].decode() for each in scene.client.xinfo_consumers(scene.stream, "memory")] == [
        other.consumer
    ]


def test_one_that_is_killed_twice_over(scene: Scene) -> None:
    """What was taken over is taken over again."""
    sink = MemorySink(max_batch=10)
    scene.add(range(10))
    for _ in range(3):
        daemon = scene.daemon(sink)
        daemon.supplies["memory"].take(10)
        scene.later()
        daemon.supplies["memory"].take(10)
        daemon.die()
    last = scene.daemon(sink)
    last.run()
    scene.later()
    last.run()
    assert ids(sink.accepted) == expected(range(10))
    assert scene.is_empty()


def test_a_release_spares_others_the_wait(scene: Scene) -> None:
    """An orderly end gives up the lease."""
    sink = MemorySink(max_batch=10)
    first = scene.daemon(sink)
    scene.add(range(10))
    assert first.supplies["memory"].take(10) is not None
    first.stock.release()
    second = scene.daemon(sink)
    second.run()
    scene.later()
    second.run()
    assert ids(sink.accepted) == expected(range(10))


def test_a_frozen_daemon_lets_go_of_what_was_taken_over(scene: Scene) -> None:
    """It finds out before it sends, where the sink forgets ids, and goes on with what is new."""
    sink, others = MemorySink(max_batch=10), MemorySink(max_batch=10)
    sink.horizon = others.horizon = 1e9
    frozen = scene.daemon(sink)
    sink.answer = always(Unknown())
    scene.add(range(10))
    frozen.run(steps=1)
    frozen.stock._ended.set()
    frozen.stock._beating.join()
    scene.client.delete(companion(scene.stream, f"alive:{frozen.consumer}"))

    other = scene.daemon(others)
    others.answer = always(Unknown())
    other.run(steps=1)
    scene.later()
    other.run(steps=1)
    sink.answer = others.answer = always(Delivered())
    scene.later(100)
    frozen.run()
    assert sink.accepted == []
    scene.later(100)
    other.run()
    assert ids(others.accepted) == expected(range(10))
    assert scene.is_empty()
    scene.add(range(10, 20))
    frozen.run()
    assert ids(sink.accepted) == expected(range(10, 20))
    assert scene.is_empty()


def test_what_may_be_at_the_destination_is_not_resent_when_its_id_is_forgotten(scene: Scene) -> None:
    """In doubt across a kill: the moment is in Redis, and the next daemon parks it."""
    sink = MemorySink(max_batch=10)
    sink.horizon = 3600.0
    sink.answer = lambda batch: [Unknown() if b'-3"' in each else Delivered() for each in batch]
    killed = scene.daemon(sink)
    scene.add(range(10))
    killed.run(steps=1)
    killed.die()
    scene.later(4000)
    sink.answer = always(Delivered())
    other = scene.daemon(sink)
    other.run()
    scene.later()
    other.run()
    (parked,) = read_parked(scene.place)
    assert parked.payload == event(3)
    assert "in doubt" in parked.reason
    assert ids(sink.accepted) == [f"event-{number}" for number in range(10) if number != 3]
    assert scene.is_empty()


def test_what_one_sink_has_in_hand_stays_for_it(scene: Scene) -> None:
    """Another that has it already deletes nothing of it."""
    quick, slow = MemorySink("quick"), MemorySink("slow")
    daemon = scene.daemon(quick, slow)
    scene.add(range(10))
    consignment = daemon.supplies["slow"].take(10)
    assert consignment is not None
    daemon.couriers[0].step()
    assert len(quick.accepted) == 10
    assert scene.client.xlen(scene.stream) == 10
    consignment.items = consignment.items[3:]
    daemon.supplies["slow"].keep(consignment)
    assert scene.client.xlen(scene.stream) == 7
    consignment.items = []
    daemon.supplies["slow"].keep(consignment)
    assert scene.is_empty()


def test_an_acknowledgement_that_could_not_be_made_is_made_up_for(tmp_path: Path) -> None:
    """The sink has them and the server was gone: nothing is handed out before the server knows."""
    with RedisServer("appendonly yes", "appendfsync always") as server:
        scene = Scene(server, tmp_path)
        sink = MemorySink(max_batch=10)
        daemon = scene.daemon(sink)
        scene.add(range(20))
        supply = daemon.supplies["memory"]
        consignment = supply.take(10)
        assert consignment is not None
        server.kill()
        consignment.items = []
        with pytest.raises(OSError, match="redis at"):
            supply.keep(consignment)
        assert supply.take(10) is None
        server.start()
        daemon.run()
        assert ids(sink.accepted) == expected(range(10, 20))
        assert scene.is_empty()
        scene.close()


@pytest.mark.parametrize("reply", ["TAKE", "KEEP"])
def test_a_reply_that_is_lost(scene: Scene, reply: str) -> None:
    """The script ran: what it handed out is found again after the connection, what it kept is kept."""
    sink = MemorySink(max_batch=10)
    with FaultProxy(scene.server.port) as proxy:
        daemon = scene.daemon(sink, url=proxy.url)
        scene.add(range(10))
        supply = daemon.supplies["memory"]
        if reply == "KEEP":
            consignment = supply.take(10)
            assert consignment is not None
            consignment.items = []
            proxy.cut_replies = 1
            with pytest.raises(OSError, match="did not answer"):
                supply.keep(consignment)
        else:
            assert supply.take(1) is not None
            proxy.cut_replies = 1
            assert supply.take(5) is None
        daemon.run()
        assert ids(sink.accepted) == ([] if reply == "KEEP" else expected(range(1, 10)))
        daemon.stock.release()
        supply._line.close()
        scene.daemons.clear()


def test_a_hand_out_that_a_frozen_server_makes_up_for(scene: Scene) -> None:
    """What we gave up on is carried out after the new connection has looked; it is found at a later look."""
    sink = MemorySink(max_batch=10)
    daemon = scene.daemon(sink)
    daemon.run()
    scene.add(range(20))
    place, zombie = daemon.stock._place, RedisLine(scene.server.url, 2.0)
    keys = [place.stream, place.hand("memory"), place.alive(place.consumer)]
    assert zombie.run(scripts.TAKE, keys, ["memory", place.consumer, 10, place.lease_ms])
    zombie.close()
    daemon.run()
    assert ids(sink.accepted) == expected(range(10, 20))
    scene.later()
    daemon.run()
    assert ids(sink.accepted) == expected(range(10, 20)) + expected(range(10))
    assert scene.is_empty()


def test_a_server_that_lost_everything(tmp_path: Path) -> None:
    """Stream, groups and notes are made anew; what was in hand is the last copy, and is delivered."""
    with RedisServer() as server:
        scene = Scene(server, tmp_path)
        sink = MemorySink(max_batch=10)
        sink.horizon = 1e9
        sink.answer = always(Retry())
        daemon = scene.daemon(sink)
        scene.add(range(10))
        daemon.run(steps=1)
        server.restart()
        sink.answer = always(Delivered())
        scene.later(100)
        scene.add(range(10, 20))
        daemon.run()
        scene.later(100)
        daemon.run()
        assert sorted(ids(sink.accepted)) == sorted(expected(range(20)))
        assert scene.is_empty()
        scene.close()


def test_a_server_that_came_back_older(tmp_path: Path) -> None:
    """An append-only file that lost its end: what had been acknowledged comes again, by the same ids."""
    with RedisServer("appendonly yes", "appendfsync always") as server:
        scene = Scene(server, tmp_path)
        sink = MemorySink(max_batch=10)
        daemon = scene.daemon(sink)
        scene.add(range(10))
        daemon.run(steps=1)
        server.kill()
        (log,) = Path(server.folder).rglob("*.aof")
        whole = log.read_bytes()
        cut = whole.rindex(b"*1\r\n$5\r\nMULTI", 0, whole.rindex(b"XACK"))  # the script that acknowledged
        log.write_bytes(whole[:cut])
        server.start()
        scene.later()
        daemon.run()
        assert ids(sink.accepted) == expected(range(10)) * 2
        assert scene.is_empty()
        scene.close()


def test_a_full_server_is_drained(scene: Scene) -> None:
    """What frees memory is let through, so a stream that has filled the server up is brought away."""
    sink = MemorySink(max_batch=10)
    sink.horizon = 1e9
    daemon = scene.daemon(sink)
    scene.add(range(50))
    scene.client.config_set("maxmemory-policy", "noeviction")
    scene.client.config_set("maxmemory", 1)
    try:
        assert isinstance(scene._sink.send([event(99)])[0], Retry)
        daemon.run()
    finally:
        scene.client.config_set("maxmemory", 0)
    assert ids(sink.accepted) == expected(range(50))
    assert scene.is_empty()


def test_an_entry_of_somebody_else_is_parked_like_any_other(scene: Scene) -> None:
    """What has no event in it is refused by the sink, and does not stay in the way."""
    sink = MemorySink()
    sink.answer = lambda batch: [Delivered() if each[:1] == b"{" else Permanent("none") for each in batch]
    daemon = scene.daemon(sink)
    scene.add(range(2))
    scene.client.xadd(scene.stream, {"foo": "bar"})
    daemon.run()
    (parked,) = read_parked(scene.place)
    assert parked.payload == b"foo bar"
    assert scene.is_empty()


def test_entries_that_nobody_noted(scene: Scene) -> None:
    """Pending by somebody's own XREADGROUP, and that consumer gone: taken over all the same."""
    scene.add(range(5))
    sink = MemorySink(max_batch=2)
    daemon = scene.daemon(sink)
    scene.client.xreadgroup("memory", "by-hand", {scene.stream: ">"})
    daemon.run()
    assert sink.accepted == []
    scene.later()
    daemon.run()
    assert ids(sink.accepted) == expected(range(5))
    assert max(map(len, sink.sent)) == 2
    assert scene.is_empty()


def test_entries_that_were_deleted_by_hand(scene: Scene) -> None:
    """A consignment whose entries are gone is taken over for what is left of it."""
    sink = MemorySink(max_batch=10)
    killed = scene.daemon(sink)
    scene.add(range(10))
    killed.supplies["memory"].take(10)
    killed.die()
    first = scene.client.xrange(scene.stream)[0][0]
    scene.client.xdel(scene.stream, first)
    other = scene.daemon(sink)
    other.run()
    scene.later()
    other.run()
    assert ids(sink.accepted) == expected(range(1, 10))
    assert scene.is_empty()


def test_how_far_behind_a_sink_is(scene: Scene) -> None:
    """What is in hand counts, of whomever; the oldest by when it entered the stream."""
    sink = MemorySink(max_batch=10)
    daemon = scene.daemon(sink)
    supply = daemon.supplies["memory"]
    assert supply.backlog().events == 0
    assert supply.backlog().oldest is None
    scene.add(range(25))
    assert supply.backlog().events == 25
    consignment = supply.take(10)
    assert consignment is not None
    consignment.items = consignment.items[:1]
    supply.keep(consignment)
    backlog = supply.backlog()
    assert backlog.events == 16
    assert backlog.oldest is not None
    assert abs(backlog.oldest - time.time()) < 60


def test_due_waits_for_what_was_there(scene: Scene) -> None:
    """Every sink has to have it, acknowledged; what came later does not count."""
    first, second = MemorySink("first", 10), MemorySink("second", 10)
    daemon = scene.daemon(first, second)
    assert daemon.stock.due()(0)
    scene.add(range(10))
    arrived = daemon.stock.due()
    assert not arrived(0)
    daemon.couriers[0].step()
    assert not arrived(0)
    consignment = daemon.supplies["second"].take(10)
    assert consignment is not None
    assert not arrived(0)
    scene.add(range(10, 20))
    consignment.items = []
    daemon.supplies["second"].keep(consignment)
    assert arrived(0)


def test_in_a_cluster(tmp_path: Path) -> None:
    """All keys of a stream are in one slot, so each script runs where they are."""
    with Cluster() as cluster:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        for stream in ("usage", "{shop}:usage", "meter-mw:events"):
            source = RedisStreamSink(url, stream)
            assert set(source.send([event(number) for number in range(10)])) == {Delivered()}
            assert set(source.send([event(0), event(1)])) == {Duplicate()}
            stock = StreamStock(url, stream, ["memory"], timeout=5.0)
            supply = stock.supply("memory", durable=False)
            consignment = supply.take(10)
            assert consignment is not None
            assert sent(consignment) == expected(range(10))
            supply.keep(consignment)
            consignment.items = []
            supply.keep(consignment)
            assert stock.due()(0)
            line = RedisLine(url, 5.0)
            assert line.call("XLEN", stream) == 0
            for each in (line, supply._line, source):
                each.close()
            stock.release()


def test_a_copy_that_the_stream_knows_is_no_second_entry(scene: Scene) -> None:
    """The whole way is once: appended twice, delivered once."""
    sink = MemorySink()
    daemon = scene.daemon(sink)
    scene.add(range(5))
    assert set(scene._sink.send([event(number) for number in range(5)])) == {Duplicate()}
    daemon.run()
    assert ids(sink.accepted) == expected(range(5))


@pytest.mark.parametrize("entries", [{}, {"1-0": None}, {"1-0": None, "1-1": 1763721830.25, "2-0": 1.0}])
def test_a_note_is_read_as_it_was_written(entries: dict[str, float | None]) -> None:
    record = Record("me/1-0", entries)
    assert Record.read(record.field.encode(), record.text.encode()) == record


def test_a_note_that_is_damaged_is_in_doubt() -> None:
    assert Record.read(b"me/1-0", b"1-0 2-0=x").entries == {"1-0": None, "2-0": 0.0}
