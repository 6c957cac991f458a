"""The store on a real cluster: every law, and what only several nodes can do wrong."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from redis.crc import key_slot

from meter_mw.admission import Answer
from meter_mw.meter import Meter
from meter_mw.periods import Period, calendar
from meter_mw.policy.loader import load
from meter_mw.quota import Cap, OnDeny, Rate
from meter_mw.rids import new_rid
from meter_mw.stores.aredis_store import open_async_store
from meter_mw.stores.cluster import split
from meter_mw.stores.cluster_astore import AsyncClusterStore
from meter_mw.stores.cluster_map import read_cluster_url
from meter_mw.stores.cluster_store import ClusterStore
from meter_mw.stores.port import (
    Admit,
    Booking,
    Cancel,
    Charge,
    Closed,
    Note,
    Outcome,
    Settle,
    StoreUnavailable,
    Verdict,
)
from meter_mw.stores.redis_link import Transport
from meter_mw.stores.redis_store import open_store
from meter_mw.testing.stores import StoreConformance, settlement
from meter_mw.testing.stores.bench import PATIENCE_US, SECOND_US
from support.cluster import Cluster, speaking_tls
from support.policies import request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from meter_mw.stores.port import Closing, Tally, TopUp
    from meter_mw.stores.redis_protocol import Call
    from meter_mw.stores.redis_store import RedisStore
    from support.servers import RedisServer

SLACK_S = 0.15
"""What a busy machine may add to a wait."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Keep one cluster for all tests here."""
    with Cluster() as running:
        yield running


class RunAsync:
    """An async store behind blocking calls."""

    def __init__(self, url: str, clock: Callable[[], int]) -> None:
        self._runner = asyncio.Runner()
        self._store = AsyncClusterStore(read_cluster_url(url), clock=clock)
        self.now_us = self._store.now_us

    def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        return self._runner.run(self._store.admit(command, patience_us=patience_us))

    def admit_many(
        self, commands: Sequence[Admit | TopUp], *, patience_us: int
    ) -> Sequence[Tally | StoreUnavailable]:
        return self._store._background.admit_many(commands, patience_us=patience_us)

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        return self._runner.run(self._store.peek(tag, charges))

    def settle(self, closings: Sequence[Closing]) -> Sequence[Closed]:
        return self._runner.run(self._store.settle(closings))

    def close(self) -> None:
        self._runner.run(self._store.aclose())
        self._runner.close()


class _OnCluster(StoreConformance):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.seeds = read_cluster_url(cluster.url)
        self.url = cluster.url


class TestClusterStore(_OnCluster):
    def make_store(self, clock: Callable[[], int]) -> ClusterStore:
        return ClusterStore(self.seeds, clock=clock)


class TestAsyncClusterStore(_OnCluster):
    def make_store(self, clock: Callable[[], int]) -> RunAsync:
        return RunAsync(self.url, clock)


@dataclass(frozen=True)
class Load:
    """Requests of many subjects on the same pools, each counted under its subject too."""

    caps: dict[str, int]

    def charges(self, *, units: int = 1) -> tuple[Charge, ...]:
        windows = calendar(Period.YEAR, "UTC", None).windows(time.time_ns() // 1_000)
        own = Charge("c:own", Cap(10_000, Period.YEAR), units, units, windows)
        pools = (
            Charge(f"c:{name}", Cap(most, Period.YEAR), units, units, windows, holder=name)
            for name, most in self.caps.items()
        )
        return (own, *pools)

    def command(self, tag: str, charges: tuple[Charge, ...] | None = None) -> Admit:
        now_us = time.time_ns() // 1_000
        return Admit(new_rid(now_us), tag, now_us + 30 * SECOND_US, charges or self.charges())

    def used(self, store: ClusterStore, tags: Sequence[str]) -> tuple[int, ...]:
        """Read what all subjects used together, and what of each pool."""
        looks = [store.peek(tag, self.charges()).readings for tag in tags]
        return (sum(each[0].state.part for each in looks), *(each.state.part for each in looks[0][1:]))


@pytest.fixture
def store(cluster: Cluster) -> Iterator[ClusterStore]:
    opened = open_store(cluster.url)
    assert isinstance(opened, ClusterStore)
    yield opened
    opened.close()


def new_load(cluster: Cluster, *caps: int) -> tuple[Load, list[str]]:
    """Make pools on nodes of their own, as far as there are, and fifty subjects anywhere."""
    names = {
        cluster.tag_on(cluster.nodes[number % 3], f"{uuid4().hex[:12]}-{number}-"): most
        for number, most in enumerate(caps)
    }
    return Load(names), [f"{uuid4().hex[:20]}-{number}" for number in range(50)]


def race(store: ClusterStore, load: Load, tags: list[str], requests: int = 4) -> int:
    """Let all subjects ask at the same time, so often; give how many were admitted."""

    def ask(tag: str) -> bool:
        return store.admit(load.command(tag), patience_us=PATIENCE_US).verdict is Verdict.ADMITTED

    with ThreadPoolExecutor(max_workers=requests * len(tags)) as threads:
        return sum(threads.map(ask, tags * requests))


async def arace(url: str, load: Load, tags: list[str], requests: int = 4) -> int:
    store = AsyncClusterStore(read_cluster_url(url))

    async def ask(tag: str) -> bool:
        tally = await store.admit(load.command(tag), patience_us=PATIENCE_US)
        return tally.verdict is Verdict.ADMITTED

    admitted = await asyncio.gather(*(ask(tag) for tag in tags * requests))
    await store.aclose()
    return sum(admitted)


def test_a_tight_pool_is_exact(cluster: Cluster, store: ClusterStore) -> None:
    """200 requests of 50 subjects race for 100 units: 100 have them, and nothing else is charged."""
    for racing in ("threads", "tasks"):
        load, tags = new_load(cluster, 100, 10_000)
        if racing == "threads":
            admitted = race(store, load, tags)
        else:
            admitted = asyncio.run(arace(cluster.url, load, tags))
        assert admitted == 100
        assert load.used(store, tags) == (100, 100, 100)


def test_two_tight_pools_are_never_passed(cluster: Cluster, store: ClusterStore) -> None:
    """Who is denied by one has taken nothing of the other; what is left goes to who asks next."""
    for racing in ("threads", "tasks"):
        load, tags = new_load(cluster, 100, 60, 80)
        if racing == "threads":
            admitted = race(store, load, tags)
        else:
            admitted = asyncio.run(arace(cluster.url, load, tags))
        assert 0 < admitted <= 60
        assert load.used(store, tags) == (admitted,) * 4
        more = sum(
            store.admit(load.command(tag), patience_us=PATIENCE_US).verdict is Verdict.ADMITTED
            for tag in (tags * 2)[:70]
        )
        assert admitted + more == 60
        assert load.used(store, tags) == (60,) * 4


def test_tasks_that_are_cancelled_leave_nothing(cluster: Cluster, store: ClusterStore) -> None:
    """At whatever step of a decision they were: what is cancelled after them is given back whole."""
    load, tags = new_load(cluster, 10_000, 60)
    chance = random.Random(7)

    async def run() -> int:
        asking = AsyncClusterStore(read_cluster_url(cluster.url))
        await asking.peek(tags[0], load.charges())

        async def ask(tag: str) -> bool:
            command = load.command(tag)
            try:
                async with asyncio.timeout(chance.choice((0.002, 0.01, 0.05, None))):
                    tally = await asking.admit(command, patience_us=PATIENCE_US)
            except TimeoutError:
                await asking.settle((Cancel(command.rid, tag, command.charges),), patience_us=PATIENCE_US)
                gone.append(tag)
                return False
            return tally.verdict is Verdict.ADMITTED

        gone: list[str] = []
        admitted = sum(await asyncio.gather(*(ask(tag) for tag in tags * 3)))
        assert gone
        await asking.aclose()
        return admitted

    admitted = asyncio.run(run())
    assert 0 < admitted <= 60
    assert load.used(store, tags) == (admitted,) * 3


def test_slots_move_under_load(cluster: Cluster, store: ClusterStore) -> None:
    """A pool and a subject go to other nodes and back, while charges, settlements and refunds go on."""
    load, tags = new_load(cluster, 100_000, 100_000)
    pool = next(iter(load.caps))
    homes = {tag: cluster.home(tag) for tag in (pool, tags[0])}
    stopping = threading.Event()

    def press(number: int) -> int:
        asked = 0
        while not stopping.is_set():
            tag = tags[(number + asked) % 3]
            command = load.command(tag)
            tally = store.admit(command, patience_us=PATIENCE_US)
            assert tally.verdict is Verdict.ADMITTED
            if asked % 3 == 0:
                store.settle((Cancel(command.rid, tag, command.charges),), patience_us=PATIENCE_US)
            elif asked % 3 == 1:
                store.settle((settlement(command, tally, 3, 3, 3),), patience_us=PATIENCE_US)
            counts[number] += (0, 3, 1)[asked % 3]
            asked += 1
        return asked

    counts = Counter[int]()
    with ThreadPoolExecutor(max_workers=6) as threads:
        runs = [threads.submit(press, number) for number in range(6)]
        try:
            for _ in range(2):
                for tag, home in homes.items():
                    for target in (cluster.nodes[cluster.nodes.index(home) - 1], home):
                        cluster.move(tag, target)
                        time.sleep(0.1)
        finally:
            stopping.set()
        asked = sum(each.result() for each in runs)
    assert asked > 100
    assert load.used(store, tags) == (counts.total(),) * 3


async def aask(url: str, key: str, script: str) -> list[object]:
    store = AsyncClusterStore(read_cluster_url(url))
    replies = await store.ask((("INCR", key), ("EVAL", script, 1, key)), patience_us=SECOND_US)
    await store.aclose()
    return replies


def test_a_slot_on_its_way_is_asked_for_where_it_goes(cluster: Cluster, store: ClusterStore) -> None:
    """What is not there any more is asked of the node that takes the slot over, by its leave."""
    tag = uuid4().hex
    source = cluster.home(tag)
    target = cluster.nodes[cluster.nodes.index(source) - 1]
    script = "return redis.call('INCR', KEYS[1])"
    with cluster.moving(tag, target):
        replies = [
            store.ask(
                (("INCR", f"mw:{{{tag}}}:x"), ("EVAL", script, 1, f"mw:{{{tag}}}:x")), patience_us=SECOND_US
            )
            for _ in range(2)
        ]
        replies.append(asyncio.run(aask(cluster.url, f"mw:{{{tag}}}:x", script)))
        with target.client() as client:
            assert client.execute_command("CLUSTER", "COUNTKEYSINSLOT", key_slot(tag.encode())) == 1
        command = Load({}).command(tag)
        with pytest.raises(StoreUnavailable):
            store.admit(command, patience_us=50_000)
    assert replies == [[1, 2], [3, 4], [5, 6]]
    assert store.admit(command, patience_us=SECOND_US).verdict is Verdict.ADMITTED
    assert store.peek(tag, command.charges).readings[0].state.part == 1


def split_over_two(cluster: Cluster, cap: int = 100) -> tuple[Load, str, str]:
    """Give a load, a subject and a pool that live on different nodes."""
    tag = cluster.tag_on(cluster.nodes[0], uuid4().hex[:12])
    pool = cluster.tag_on(cluster.nodes[1], uuid4().hex[:12])
    return Load({pool: cap}), tag, pool


class Away:
    """A node that can be made to answer nothing, or to lose its answers; it is a real one behind."""

    def __init__(self, node: RedisStore) -> None:
        self.node = node
        self.answers = 1_000
        self.hears = False

    def ask(self, calls: Sequence[Call], **how: int) -> list[object]:
        self.answers -= 1
        replies = self.node.ask(calls, **how) if self.answers >= 0 or self.hears else []
        if self.answers < 0:
            raise StoreUnavailable("away")
        return replies

    def close(self) -> None:
        self.node.close()


def node_of(store: ClusterStore, server: RedisServer) -> Away:
    away = Away(store._node(("127.0.0.1", server.port)))
    store._nodes["127.0.0.1", server.port] = away
    return away


def test_what_cannot_be_given_back_at_once_is_given_back_later(cluster: Cluster, store: ClusterStore) -> None:
    """The pool denies, and the subject's node has gone silent since it was charged: denied, and soon free."""
    load, tag, _ = split_over_two(cluster, 0)
    store.peek(tag, load.charges())
    own = node_of(store, cluster.nodes[0])
    own.answers = 1
    denied = store.admit(load.command(tag), patience_us=SECOND_US)
    assert (denied.verdict, [each.fits for each in denied.readings]) == (Verdict.DENIED, [True, False])
    own.answers = 0
    time.sleep(0.02)
    own.answers = 1_000
    assert store._undo.flush(10)
    assert load.used(store, [tag]) == (0, 0)


def test_a_pool_whose_answer_was_lost_is_given_back_too(cluster: Cluster, store: ClusterStore) -> None:
    """One pool was charged and its answer lost, another denies: denied, and the first is free again."""
    names = [cluster.tag_on(node, uuid4().hex[:12]) for node in cluster.nodes]
    load = Load({names[1]: 100, names[2]: 0})
    store.peek(names[0], load.charges())
    lossy = node_of(store, cluster.nodes[1])
    lossy.answers, lossy.hears = 0, True
    denied = store.admit(load.command(names[0]), patience_us=SECOND_US)
    assert (denied.verdict, [each.fits for each in denied.readings]) == (Verdict.DENIED, [True, True, False])
    lossy.answers = 1_000
    assert store._undo.flush(10)
    assert load.used(store, [names[0]]) == (0, 0, 0)


def test_a_loop_leaves_what_it_cannot_give_back_to_a_thread(cluster: Cluster, store: ClusterStore) -> None:
    """The same on an event loop, which does not wait for it."""
    load, tag, _ = split_over_two(cluster, 0)

    async def ask() -> Tally:
        asking = AsyncClusterStore(read_cluster_url(cluster.url))
        await asking.peek(tag, load.charges())
        place = ("127.0.0.1", cluster.nodes[0].port)
        node, asked = asking._nodes[place], []

        class Once:
            async def ask(self, calls: Sequence[Call], **how: int) -> list[object]:
                asked.append(calls)
                if len(asked) > 1:
                    raise StoreUnavailable("away")
                return await node.ask(calls, **how)

            aclose = node.aclose

        asking._nodes[place] = Once()
        denied = await asking.admit(load.command(tag), patience_us=SECOND_US)
        assert len(asked) == 2
        await asking.aclose()
        return denied

    assert asyncio.run(ask()).verdict is Verdict.DENIED
    assert load.used(store, [tag]) == (0, 0)


def test_a_failure_is_the_callers_to_settle_or_cancel(cluster: Cluster, store: ClusterStore) -> None:
    """As of one node: what was charged of it stays until it is closed, and is booked or given back whole."""
    for settles in (True, False):
        load, tag, _ = split_over_two(cluster)
        store.peek(tag, load.charges())
        pool = node_of(store, cluster.nodes[1])
        pool.answers = 0
        command = load.command(tag)
        with pytest.raises(StoreUnavailable):
            store.admit(command, patience_us=SECOND_US)
        pool.answers = 1_000
        opening = command.charges[0].windows[1]
        bookings = tuple(Booking(each, 2, opening) for each in command.charges)
        closing = Settle(command.rid, tag, bookings) if settles else Cancel(command.rid, tag, command.charges)
        assert [each.outcome for each in store.settle((closing,))] == [Outcome.RECOVERED]
        assert load.used(store, [tag]) == ((2, 2) if settles else (0, 0))
        assert store.admit(command, patience_us=SECOND_US).verdict is Verdict.VOID


def test_while_a_pool_is_away_nothing_is_charged_before_it_is_back(
    cluster: Cluster, store: ClusterStore
) -> None:
    """So what is served meanwhile is marked as overage, and announced, by its settlement."""
    load, tag, _ = split_over_two(cluster)
    windows = load.charges()[0].windows
    own = Charge("c:billed", Cap(10, Period.YEAR, bills=True, warn=(8,)), 12, 12, windows)
    pool = node_of(store, cluster.nodes[1])
    pool.answers = 0
    with pytest.raises(StoreUnavailable):
        store.admit(load.command(tag), patience_us=SECOND_US)
    command = load.command(tag, (own, *load.charges()[1:]))
    with pytest.raises(StoreUnavailable):
        store.admit(command, patience_us=SECOND_US)
    assert store.peek(tag, (own,)).readings[0].state.part == 0
    pool.answers = 1_000
    bookings = tuple(Booking(each, each.take, windows[1]) for each in command.charges)
    (closed,) = store.settle((Settle(command.rid, tag, bookings),))
    assert closed == Closed(Outcome.RECOVERED, (Note(0, 2, (0, 8)),))
    assert store.admit(load.command(tag), patience_us=SECOND_US).verdict is Verdict.ADMITTED


def test_a_threshold_is_announced_though_a_pool_denies(cluster: Cluster, store: ClusterStore) -> None:
    """It is told once, and so by whoever reached it, even if what it was charged was given back."""
    load, tag, _ = split_over_two(cluster, 0)
    own = Charge("c:w", Cap(10, Period.YEAR, warn=(1,)), 1, 1, load.charges()[0].windows)
    denied = store.admit(load.command(tag, (own, *load.charges()[1:])), patience_us=SECOND_US)
    assert (denied.verdict, denied.readings[0].warned) == (Verdict.DENIED, (0, 1))
    assert denied.readings[0].state.part == 0
    admitted = store.admit(load.command(tag, (own,)), patience_us=SECOND_US)
    assert (admitted.verdict, admitted.readings[0].warned) == (Verdict.ADMITTED, (0, 0))


@pytest.mark.timed
def test_a_frozen_node_holds_up_nobody_else(cluster: Cluster, store: ClusterStore) -> None:
    """Its callers wait no longer than they said; what had reached it changes nothing when it wakes."""
    load, tag, _ = split_over_two(cluster)
    store.peek(tag, load.charges())
    commands = [load.command(tag) for _ in range(3)]
    cluster.nodes[1].freeze()
    try:
        took = []
        for command in commands:
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                store.admit(command, patience_us=200_000)
            took.append(time.monotonic() - start)
        assert max(took) < 0.2 + SLACK_S
        alone = Load({})
        start = time.monotonic()
        assert store.admit(alone.command(tag), patience_us=SECOND_US).verdict is Verdict.ADMITTED
        assert time.monotonic() - start < SLACK_S
    finally:
        cluster.nodes[1].thaw()
    for command in commands:
        store._undo.put(Cancel(command.rid, tag, command.charges))
    assert store._undo.flush(10)
    assert load.used(store, [tag]) == (1, 0)


def test_a_step_that_wants_other_windows_is_asked_again(cluster: Cluster, store: ClusterStore) -> None:
    """The repeat charges what was charged already no second time (Rule 1)."""
    load, tag, _ = split_over_two(cluster)
    command = load.command(tag)
    own, shared = command.charges
    assert shared.windows is not None
    stale = replace(shared, windows=tuple(each - 10**15 for each in shared.windows))
    asked = store.admit(command._replace(charges=(own, stale)), patience_us=SECOND_US)
    assert (asked.verdict, asked.readings) == (Verdict.REFRESH, ())
    assert store.admit(command, patience_us=SECOND_US).verdict is Verdict.ADMITTED
    assert load.used(store, [tag]) == (1, 1)


def test_what_a_denial_costs_is_kept_where_it_was_charged(cluster: Cluster, store: ClusterStore) -> None:
    """With `all`, the subject's rates keep it where a pool denies; with `self`, they do not."""
    for on_deny, left in ((OnDeny.NONE, 5), (OnDeny.SELF, 5), (OnDeny.ALL, 3)):
        load, tag, _ = split_over_two(cluster, 0)
        rate = Charge("r:own", Rate(1, 3_600 * SECOND_US, 5), 2, 2)
        command = load.command(tag, (*load.charges(), rate))._replace(on_deny=on_deny)
        denied = store.admit(command, patience_us=SECOND_US)
        assert (denied.verdict, [each.fits for each in denied.readings]) == (
            Verdict.DENIED,
            [True, False, True],
        )
        looked = store.peek(tag, (rate,))
        assert rate.quota.remaining(looked.readings[0].state, looked.now_us) == left
        assert load.used(store, [tag]) == (0, 0)


def test_one_who_is_over_their_own_limits_touches_no_pool(cluster: Cluster, store: ClusterStore) -> None:
    """And is told how the pools stand all the same."""
    load, tag, _ = split_over_two(cluster, 7)
    assert store.admit(load.command(tag), patience_us=SECOND_US).verdict is Verdict.ADMITTED
    full = (Charge("c:full", Cap(0, Period.YEAR), 1, 1, load.charges()[0].windows), load.charges()[1])
    before = load.used(store, [tag])
    with cluster.nodes[1].client() as client:
        client.config_resetstat()
        denied = store.admit(load.command(tag, full), patience_us=SECOND_US)
        assert "cmdstat_set" not in client.info("commandstats")
    assert [each.fits for each in denied.readings] == [False, True]
    assert denied.readings[1].state.part == 1
    assert load.used(store, [tag]) == before


def test_steps_are_the_subjects_first() -> None:
    """Keys of the subject go with it; each tag is one step; the places of the charges are kept."""
    load = Load({"pool": 1, "acct:x": 1, "acct:y": 1, "me:k1": 1})
    steps = split("me", load.charges())
    assert [(step.tag, step.at) for step in steps] == [("me", (0, 4)), ("acct", (2, 3)), ("pool", (1,))]
    assert [(step.tag, step.at) for step in split("me", ())] == [("me", ())]


def test_urls() -> None:
    """Several hosts, one password, one set of options; TLS where the scheme says so."""
    seeds = read_cluster_url("redis+cluster://u:p%40@a:1,b:2,[::1]:3/?client_name=x")
    assert seeds.places == (("a", 1), ("b", 2), ("::1", 3))
    address = seeds.address(("c", 9))
    assert (address.place, address.transport) == ("c:9", Transport.TCP)
    assert {
        name: address.options[name] for name in ("host", "port", "username", "password", "client_name")
    } == {
        "host": "c",
        "port": 9,
        "username": "u",
        "password": "p@",
        "client_name": "x",
    }
    assert "p@" not in repr(seeds)
    assert read_cluster_url("rediss+cluster://a").entrance.transport is Transport.TLS
    assert isinstance(open_async_store("redis+cluster://a,b"), AsyncClusterStore)
    for url in ("redis+cluster://a/3", "redis+cluster://a/?db=2", "redis+cluster://a/?wrong=2"):
        with pytest.raises(ValueError, match=r"one database|not known"):
            read_cluster_url(url)


def test_a_server_that_is_no_cluster_is_said(redis_url: str) -> None:
    """In its own words."""
    store = open_store(redis_url.replace("redis://", "redis+cluster://"))
    with pytest.raises(StoreUnavailable, match="cluster support disabled"):
        store.admit(Load({}).command(uuid4().hex), patience_us=SECOND_US)
    store.close()


def test_the_map_is_read_from_whoever_answers(cluster: Cluster) -> None:
    """A seed that is gone, and one that hangs, cost a part of the first call's time, and no more."""
    load, tag, _ = split_over_two(cluster)
    nobody = open_store("redis+cluster://127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            nobody.admit(load.command(tag), patience_us=SECOND_US)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = open_store(f"redis+cluster://127.0.0.1:1,127.0.0.1:{port},127.0.0.1:{cluster.nodes[2].port}")
        assert store.admit(load.command(tag), patience_us=SECOND_US).verdict is Verdict.ADMITTED
        store.close()


def test_other_commands_go_to_the_node_of_their_key(cluster: Cluster, store: ClusterStore) -> None:
    """Several at once, those without a key to any; the replies come back in order."""
    keys = [f"mw:{{{cluster.tag_on(node, uuid4().hex[:12])}}}" for node in cluster.nodes]
    calls: list[Call] = [("TIME",), *(("SET", key, at) for at, key in enumerate(keys))]
    calls += [("GET", key) for key in reversed(keys)]
    replies = store.ask(calls, patience_us=SECOND_US)
    assert replies[1:] == [b"OK"] * 3 + [b"2", b"1", b"0"]
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        store.ask((("GET", keys[0]), ("HGET", keys[1], "x")), patience_us=SECOND_US)


def test_over_tls() -> None:
    """The nodes are found, and each is entered by the certificates that the URL names."""
    binary = speaking_tls()
    if binary is None:
        pytest.skip("no server here was built with TLS")
    with Cluster(binary=binary, tls=True) as cluster:
        load, tag, _ = split_over_two(cluster)
        store = open_store(cluster.url)
        assert store.admit(load.command(tag), patience_us=SECOND_US).verdict is Verdict.ADMITTED
        assert load.used(store, [tag]) == (1, 1)
        store.close()
        assert asyncio.run(arace(cluster.url, load, [tag], 3)) == 3


@pytest.mark.parametrize("edge", ["blocking", "awaited"])
def test_an_account_is_shared_by_its_subjects(cluster: Cluster, tmp_path: Path, edge: str) -> None:
    """The whole meter, on a policy that names the cluster: pool, slots of everyone, and settlement."""
    policy = load(
        {
            "version": 1,
            "service": f"shop-{uuid4().hex[:8]}",
            "store": cluster.url,
            "identity": {"secret": "s" * 32, "unknown": "reject"},
            "keys": [
                {"key": f"key-{name}-0123456789", "subject": name, "account": "group"} for name in "abc"
            ],
            "plans": {
                "default": {
                    "limits": [
                        {"cap": "100/month", "name": "own"},
                        {"cap": "4/month", "scope": "account", "name": "pool"},
                        {"concurrent": 1, "scope": "everyone", "name": "all"},
                    ]
                }
            },
            "events": {"journal": str(tmp_path / "journal"), "sinks": [{"file": str(tmp_path / "usage")}]},
            "on_store_failure": {"deadline": "5s"},
        },
        {},
    )
    meter = Meter(policy)
    answers = []
    try:
        with asyncio.Runner() as runner:
            for turn in range(6):
                asked = request(key=f"key-{'abc'[turn % 3]}-0123456789")
                admission = meter.admit(asked) if edge == "blocking" else runner.run(meter.aadmit(asked))
                answers.append((admission.answer, [each.line.limit.name for each in admission.denied_by]))
                if not admission.serves:
                    continue
                exchange = meter.exchange(admission, "GET")
                exchange.begin(200, "0")
                settlement = meter.finish(exchange)
                assert settlement is not None
                if edge == "blocking":
                    meter.release(exchange, settlement)
                else:
                    runner.run(meter.arelease(exchange, settlement))
            if meter._async_store is not None:
                runner.run(meter._async_store.aclose())
    finally:
        meter.close()
    assert answers == [(Answer.ALLOWED, [])] * 4 + [(Answer.DENIED, ["pool"])] * 2
