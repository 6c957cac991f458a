"""The one connection of an event loop: shared writes, replies in order, lag that is no silence."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter_mw.periods import Period, calendar
from meter_mw.quota import Cap
from meter_mw.rids import new_rid
from meter_mw.stores import redis_pipe
from meter_mw.stores.aredis_store import AsyncRedisStore, open_async_store
from meter_mw.stores.memory import system_clock_us
from meter_mw.stores.port import Admit, Cancel, Charge, StoreUnavailable, Verdict
from meter_mw.stores.redis_link import read_url
from meter_mw.stores.redis_store import open_store
from support.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.stores.port import Tally
    from support.servers import RedisServer

pytestmark = pytest.mark.timed

PATIENCE_US = 100_000
LONG_US = 20_000_000
TAG = "subject"


def command(take: int = 1, tag: str = TAG) -> Admit:
    """Ask a cap by the year for `take`, with a new rid."""
    now_us = system_clock_us()
    windows = calendar(Period.YEAR, "UTC", None).windows(now_us)
    charge = Charge("c", Cap(10**9, Period.YEAR), take, take, windows)
    return Admit(new_rid(now_us), tag, now_us + 60_000_000, (charge,))


def used(url: str, tag: str = TAG) -> int:
    """Read the count by another store."""
    with contextlib.closing(open_store(url)) as store:
        (reading,) = store.peek(tag, command().charges).readings
        return reading.state.part


async def outcome(store: AsyncRedisStore, asked: Admit, patience_us: int) -> Tally | StoreUnavailable:
    """Admit, and give what came of it."""
    try:
        return await store.admit(asked, patience_us=patience_us)
    except StoreUnavailable as outage:
        return outage.with_traceback(None)


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str) -> Iterator[FaultProxy]:
    """Stand between a store and a clean server, which has the script."""
    assert used(redis_url) == 0
    with FaultProxy(redis_server.port) as between:
        yield between


class Recorder:
    """A server that says what the test tells it to, and keeps what it heard, piece by piece."""

    def __init__(self, *answers: bytes, wait: float = 0.0) -> None:
        self.heard: list[bytes] = []
        self._answers = list(answers)
        self._wait = wait
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    while data := client.recv(1 << 20):
                        self.heard.append(data)
                        time.sleep(self._wait)
                        if not self._answers:
                            break
                        client.sendall(self._answers.pop(0))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


# Writes


def test_calls_of_one_turn_share_a_write(redis_url, monkeypatch) -> None:
    """Where nothing is under way a call goes out at once; what is asked in the same turn follows in one."""
    assert used(redis_url) == 0
    sizes: list[int] = []

    class Counted:
        def __init__(self, transport: asyncio.Transport) -> None:
            self.abort = transport.abort
            self._transport = transport

        def write(self, data: bytes) -> None:
            sizes.append(data.count(b"EVALSHA"))
            self._transport.write(data)

    made = redis_pipe._Pipe.connection_made

    def connection_made(pipe: redis_pipe._Pipe, transport: asyncio.Transport) -> None:
        made(pipe, transport)
        pipe._transport = Counted(transport)

    monkeypatch.setattr(redis_pipe._Pipe, "connection_made", connection_made)

    async def rounds() -> None:
        store = open_async_store(redis_url)
        for _ in range(3):
            await asyncio.gather(*(store.admit(command(), patience_us=LONG_US) for _ in range(50)))
        await store.aclose()

    asyncio.run(rounds())
    assert sizes == [50, 1, 49, 1, 49]  # the first are kept together while the connection opens
    assert used(redis_url) == 150


# A busy loop


@pytest.mark.parametrize("width", [64, 200])
@pytest.mark.parametrize("held", [0.002, 0.005])
def test_busy_loop_is_no_dead_redis(proxy, redis_url, width, held) -> None:
    """Handlers that hold the loop make everyone wait for longer than the patience, and nobody fails."""
    rounds = 3 if width == 64 else 1
    answers: list[Tally | StoreUnavailable] = []
    longest = 0.0

    async def serve(store: AsyncRedisStore) -> None:
        nonlocal longest
        for _ in range(rounds):
            start = time.monotonic()
            answers.append(await outcome(store, command(), PATIENCE_US))
            longest = max(longest, time.monotonic() - start)
            time.sleep(held)  # noqa: ASYNC251 - a handler that computes
            await asyncio.sleep(0)

    async def server() -> None:
        store = open_async_store(proxy.url)
        await store.peek(TAG, ())
        await asyncio.gather(*(serve(store) for _ in range(width)))
        await asyncio.gather(*(serve(store) for _ in range(width)))
        await store.aclose()

    asyncio.run(server())
    assert [each for each in answers if isinstance(each, StoreUnavailable)] == []
    assert len(answers) == used(redis_url) == 2 * rounds * width
    assert proxy.connections == 1
    assert longest > PATIENCE_US / 1e6 or width * held < 0.2


def test_busy_loop_while_connecting(proxy, redis_url) -> None:
    """A loop that is held in each step of connecting takes longer, and fails nobody."""

    async def server() -> None:
        store = open_async_store(proxy.url.replace("/0", "/0?client_name=us"))
        over = False

        async def busy() -> None:
            while not over:
                time.sleep(0.06)  # noqa: ASYNC251
                await asyncio.sleep(0)

        hog = asyncio.ensure_future(busy())
        tally = await store.admit(command(), patience_us=PATIENCE_US)
        assert tally.verdict is Verdict.ADMITTED
        over = True
        await hog
        await store.aclose()

    asyncio.run(server())
    assert used(redis_url) == 1
    assert proxy.connections == 1


def test_lag_that_has_used_the_patience_up(redis_url) -> None:
    """A caller whose own time was over before it came still gets an answer that is there at once."""

    async def ask() -> None:
        store = open_async_store(redis_url)
        await store.admit(command(), patience_us=LONG_US)
        assert (await store.admit(command(), patience_us=-1)).verdict is Verdict.ADMITTED
        await store.aclose()

    asyncio.run(ask())


def test_idle_loop_knows_a_silence_in_time(proxy) -> None:
    """With nothing else to do, a silence is known after the patience and few milliseconds."""
    proxy.swallow = True

    async def ask() -> float:
        store = open_async_store(proxy.url)
        start = time.monotonic()
        assert isinstance(await outcome(store, command(), PATIENCE_US), StoreUnavailable)
        took = time.monotonic() - start
        await store.aclose()
        return took

    fastest = min(asyncio.run(ask()) for _ in range(5))
    assert 0.1 <= fastest < 0.125


# Callers that give up


def test_cancelled_callers_leave_one_connection(proxy, redis_url) -> None:
    """Cancelled at any moment: the connection stays, the others get theirs, the counts can be put right."""
    proxy.delay = 0.002
    unknown: list[Admit] = []
    served = 0

    async def one(store: AsyncRedisStore, n: int) -> None:
        nonlocal served
        asked = command(take=n % 5 + 1)
        task = asyncio.ensure_future(store.admit(asked, patience_us=LONG_US))
        if n % 3:
            await asyncio.sleep((n % 17) * 0.0005)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            unknown.append(asked)
        else:
            served += n % 5 + 1

    async def storm() -> None:
        store = open_async_store(proxy.url)
        for _ in range(5):
            await asyncio.gather(*(one(store, n) for n in range(200)))
        await store.aclose()

    asyncio.run(storm())
    assert len(unknown) > 100
    assert proxy.connections == 1
    with contextlib.closing(open_store(redis_url)) as store:
        store.settle([Cancel(each.rid, each.tag, each.charges) for each in unknown])
    assert used(redis_url) == served


@settings(max_examples=25, deadline=None)
@given(
    plan=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8), st.booleans()), min_size=1, max_size=60),
    delay=st.sampled_from([0.0, 0.001, 0.004]),
    dribble=st.sampled_from([0.0, 0.0, 0.00001]),
)
def test_each_gets_its_own_answer(shared_proxy, plan, delay, dribble) -> None:
    """However replies are delayed and torn, and whoever gives up: nobody reads another's reply.

    Each caller has a subject of its own, and takes as much as no other.
    """
    shared_proxy.delay, shared_proxy.dribble = delay, dribble
    mark = new_rid(system_clock_us())[-12:]

    async def one(store: AsyncRedisStore, n: int, after_ms: int, for_ms: int, *, leaves: bool) -> None:
        await asyncio.sleep(after_ms / 1000)
        asked = store.admit(command(take=1000 + n, tag=f"{mark}-{n}"), patience_us=LONG_US)
        if leaves:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(for_ms / 1000):
                    await asked
        else:
            tally = await asked
            assert tally.verdict is Verdict.ADMITTED
            assert tally.readings[0].state.part == 1000 + n

    async def all_of_them() -> None:
        store = open_async_store(shared_proxy.url)
        await store.peek(mark, ())
        before = shared_proxy.connections
        await asyncio.gather(
            *(one(store, n, a // 3, b, leaves=leaves) for n, (a, b, leaves) in enumerate(plan))
        )
        assert shared_proxy.connections == before
        await store.aclose()

    asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def shared_proxy(_running) -> Iterator[FaultProxy]:
    """Stand before a server for all examples of a test."""
    from support.servers import BINARIES, RedisServer  # noqa: PLC0415

    with RedisServer(binary=BINARIES[0]) as server, FaultProxy(server.port) as between:
        yield between


# Losses and silences


@pytest.mark.parametrize("moment", [0.0, 0.001, 0.005, 0.02])
def test_connection_lost_with_a_hundred_under_way(proxy, redis_url, moment) -> None:
    """All are asked again on one new connection, and each rid is charged once."""
    proxy.delay = 0.01

    async def ask() -> list[Tally]:
        store = open_async_store(proxy.url)
        await store.peek(TAG, ())
        asking = asyncio.gather(*(store.admit(command(take=3), patience_us=LONG_US) for _ in range(100)))
        await asyncio.sleep(moment)
        proxy.cut_all()
        tallies = await asking
        await store.aclose()
        return tallies

    assert [each.verdict for each in asyncio.run(ask())] == [Verdict.ADMITTED] * 100
    assert used(redis_url) == 300
    assert proxy.connections <= 2


def test_frozen_redis_is_bounded_and_heals(start_redis) -> None:
    """While Redis stands still the breaker opens and few connections are tried; thawed, it serves."""
    server: RedisServer = start_redis()

    async def ask() -> None:
        store = open_async_store(server.url)
        await asyncio.gather(*(store.admit(command(), patience_us=LONG_US) for _ in range(50)))
        with server.client() as client:
            before = client.info("stats")["total_connections_received"]
        server.freeze()
        frozen: list[Admit] = []
        slowest, spared = 0.0, 0
        start = time.monotonic()

        async def one() -> None:
            nonlocal slowest, spared
            frozen.append(command())
            begun = time.monotonic()
            assert isinstance(await outcome(store, frozen[-1], PATIENCE_US), StoreUnavailable)
            slowest = max(slowest, time.monotonic() - begun)
            spared += time.monotonic() - begun < 0.01

        tasks = []
        while time.monotonic() < start + 0.8:
            tasks.append(asyncio.ensure_future(one()))
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        server.thaw()
        assert slowest < 0.1 + 0.15
        assert spared > len(tasks) / 2
        healed = time.monotonic()
        while isinstance(await outcome(store, command(), PATIENCE_US), StoreUnavailable):
            assert time.monotonic() < healed + 1.3
            await asyncio.sleep(0.01)
        with server.client() as client:
            assert client.info("stats")["total_connections_received"] - before < 12
        with contextlib.closing(open_store(server.url)) as behind:
            behind.settle([Cancel(each.rid, each.tag, each.charges) for each in frozen])
        assert used(server.url) == 51
        await store.aclose()

    asyncio.run(ask())


def test_those_with_time_left_outlive_a_silence(start_redis) -> None:
    """One caller's short patience ends the connection; the others are answered on the next."""
    server: RedisServer = start_redis()

    async def ask() -> None:
        store = open_async_store(server.url)
        await store.admit(command(), patience_us=LONG_US)
        server.freeze()
        patient = [asyncio.ensure_future(store.admit(command(), patience_us=LONG_US)) for _ in range(20)]
        assert isinstance(await outcome(store, command(), PATIENCE_US), StoreUnavailable)
        assert isinstance(await outcome(store, command(), PATIENCE_US), StoreUnavailable)
        server.thaw()
        assert {each.verdict for each in await asyncio.gather(*patient)} == {Verdict.ADMITTED}
        assert (await store.admit(command(), patience_us=PATIENCE_US)).verdict is Verdict.ADMITTED
        await store.aclose()

    asyncio.run(ask())
    assert used(server.url) in {22, 23, 24}  # those two nobody has cancelled


def test_clock_stands_while_nobody_waits(redis_url) -> None:
    """No timer is left when all is answered, nor when a silence has been told."""

    async def ask() -> None:
        store = open_async_store(redis_url)
        await store.admit(command(), patience_us=LONG_US)
        await asyncio.sleep(0.03)
        assert store._line()._timer is None
        await store.aclose()

    asyncio.run(ask())


# Strange servers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*-5\r\n",
        b":99999999999999999999\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n",
        b"-\xff\xfe\r\n",
        b"*1\r\n*1\r\n",
        b"",
        b"*2\r\n$8\r\nadmitted\r\n:5\r\n",
        b"-ERR max number of clients reached\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
    ],
)
def test_strange_answers_are_outages(answer) -> None:
    """What no Redis says ends in an outage for each caller, in time, and in no error of the loop's."""
    strange = Recorder(*[answer] * 8)
    complaints: list[object] = []

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        store = open_async_store(strange.url)
        for _ in range(2):
            asked = [outcome(store, command(), PATIENCE_US) for _ in range(3)]
            answers = await asyncio.wait_for(asyncio.gather(*asked), 2)
            assert all(isinstance(each, StoreUnavailable) for each in answers), answers
        await store.aclose()

    try:
        asyncio.run(ask())
    finally:
        strange.close()
    assert complaints == []


def test_full_connection_refuses(redis_url, monkeypatch) -> None:
    """Beyond what may wait nothing is asked, and the server is not thought ill of."""
    monkeypatch.setattr(redis_pipe, "MOST_WAITING", 10)

    async def ask() -> None:
        store = open_async_store(redis_url)
        answers = await asyncio.gather(*(outcome(store, command(), LONG_US) for _ in range(25)))
        refused = [each for each in answers if isinstance(each, StoreUnavailable)]
        assert len(refused) == 15
        assert "was not asked" in str(refused[0])
        assert (await store.admit(command(), patience_us=LONG_US)).verdict is Verdict.ADMITTED
        await store.aclose()

    asyncio.run(ask())
    assert used(redis_url) == 11


def test_nothing_is_asked_before_the_greeting_is_answered(start_redis) -> None:
    """A user, a password, a name and a database come first; a wrong database is never written to."""
    server: RedisServer = start_redis("databases 2")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "us", "on", ">canary", "~*", "+@all")

    async def ask(database: int) -> Tally | StoreUnavailable:
        store = open_async_store(f"redis://us:canary@127.0.0.1:{server.port}/{database}?client_name=meter")
        told = await outcome(store, command(), LONG_US)
        if database == 1:
            with server.client() as client:
                assert [(each["name"], each["user"], each["db"]) for each in client.client_list()][:1] == [
                    ("meter", "us", "1")
                ]
        await store.aclose()
        return told

    assert asyncio.run(ask(1)).verdict is Verdict.ADMITTED
    refused = asyncio.run(ask(7))
    assert isinstance(refused, StoreUnavailable)
    assert "at the door" in str(refused)
    assert "canary" not in str(refused)
    with server.client() as client:
        assert set(client.info("keyspace")) == {"db1"}


def test_host_that_is_no_name() -> None:
    """A host that cannot be looked up is an outage."""

    async def ask() -> Tally | StoreUnavailable:
        store = AsyncRedisStore(read_url(f"redis://{'a' * 70}.example:6379"))
        return await outcome(store, command(), LONG_US)

    assert isinstance(asyncio.run(ask()), StoreUnavailable)
