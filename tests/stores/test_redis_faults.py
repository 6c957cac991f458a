"""Whatever Redis or the network does, an admission ends in time, and counts are right afterwards.

Each fault is met by the blocking and by the async store, through one face: `Caller`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from meter_mw.periods import Period, calendar
from meter_mw.quota import Cap
from meter_mw.rids import new_rid
from meter_mw.stores import redis_link, redis_pipe
from meter_mw.stores.aredis_store import open_async_store
from meter_mw.stores.memory import system_clock_us
from meter_mw.stores.port import Admit, Cancel, Charge, Outcome, StoreUnavailable, Verdict
from meter_mw.stores.redis_store import open_store
from support.proxy import FaultProxy, black_hole
from support.servers import BINARIES, RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meter_mw.stores.port import Tally

pytestmark = pytest.mark.timed

PATIENCE_US = 100_000
SLACK = 0.05
"""Seconds that an admission may take beyond its patience, on a machine with other things to do."""

TAG = "subject"


def charge(units: int = 10**6, take: int = 1) -> Charge:
    """Ask a cap by the year, so that no window rolls while a test runs."""
    return Charge(
        "c",
        Cap(units, Period.YEAR),
        take,
        take,
        calendar(Period.YEAR, "UTC", None).windows(system_clock_us()),
    )


def command(*charges: Charge, now_us: int | None = None, within_us: int = 10_000_000) -> Admit:
    """Make a command with a new rid."""
    now_us = system_clock_us() if now_us is None else now_us
    return Admit(new_rid(now_us), TAG, now_us + within_us, charges or (charge(),))


class Lag:
    """How late this machine wakes a thread that asked for a few ms: it has other things to do, too."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure)
        self._thread.start()

    def _measure(self) -> None:
        before = time.monotonic()
        while not self._over.wait(0.005):
            now = time.monotonic()
            self.worst = max(self.worst, now - before - 0.005)
            before = now

    def in_time(self, answers: list[tuple[object, float]], crowd: float = 0.0) -> bool:
        """Whether no answer took longer than the patience and the slack, beyond what the machine did."""
        slowest = max(took for _, took in answers)
        limit = PATIENCE_US / 1e6 + SLACK + crowd + self.worst
        assert slowest < limit, f"{slowest:.3f} s, where {limit:.3f} s was the limit"
        return True

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def lag() -> Iterator[Lag]:
    """Measure the machine beside a test."""
    measured = Lag()
    yield measured
    measured.end()


class Caller:
    """The blocking store, or the async one on a loop of its own."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self._runner = asyncio.Runner() if kind == "async" else None
        self.store = open_async_store(url) if self._runner else open_store(url)

    def admit(self, asked: Admit, patience_us: int = PATIENCE_US) -> Tally:
        if self._runner is None:
            return self.store.admit(asked, patience_us=patience_us)
        return self._runner.run(self.store.admit(asked, patience_us=patience_us))

    def timed(self, asked: Admit, patience_us: int = PATIENCE_US) -> tuple[Tally | StoreUnavailable, float]:
        """Admit, and say how long it took."""
        start = time.monotonic()
        try:
            answer: Tally | StoreUnavailable = self.admit(asked, patience_us)
        except StoreUnavailable as outage:
            answer = outage.with_traceback(None)
        return answer, time.monotonic() - start

    def many(
        self, asked: list[Admit], patience_us: int = PATIENCE_US
    ) -> list[tuple[Tally | StoreUnavailable, float]]:
        """Admit all at the same time."""
        if self._runner is None:
            with ThreadPoolExecutor(len(asked)) as threads:
                return list(threads.map(lambda each: self.timed(each, patience_us), asked))

        async def one(each: Admit) -> tuple[Tally | StoreUnavailable, float]:
            start = time.monotonic()
            try:
                answer: Tally | StoreUnavailable = await self.store.admit(each, patience_us=patience_us)
            except StoreUnavailable as outage:
                answer = outage.with_traceback(None)
            return answer, time.monotonic() - start

        async def all_of_them() -> list[tuple[Tally | StoreUnavailable, float]]:
            return await asyncio.gather(*map(one, asked))

        return self._runner.run(all_of_them())

    def close(self) -> None:
        if self._runner is None:
            self.store.close()
        else:
            self._runner.run(self.store.aclose())
            self._runner.close()


@pytest.fixture(params=["blocking", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    """Open stores of either kind."""
    opened: list[Caller] = []

    def open_one(url: str) -> Caller:
        opened.append(Caller(request.param, url))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str) -> Iterator[FaultProxy]:
    """Stand between a store and a clean server."""
    with FaultProxy(redis_server.port) as between:
        yield between


def used(url: str) -> int:
    """Read the count behind the proxy's back."""
    store = open_store(url)
    with contextlib.closing(store):
        (reading,) = store.peek(TAG, (charge(),)).readings
        return reading.state.part


def cancel(url: str, *commands: Admit) -> list[Outcome]:
    """Cancel what ended unknown, as every caller does."""
    with contextlib.closing(open_store(url)) as store:
        closings = [Cancel(each.rid, each.tag, each.charges) for each in commands]
        return [each.outcome for each in store.settle(closings)]


def is_outage(answer: object) -> bool:
    return isinstance(answer, StoreUnavailable)


# Lost and late replies


@pytest.mark.parametrize("lost", [1, 2])
def test_lost_reply_is_no_double_count(call, proxy, redis_url, lost) -> None:
    """A reply lost on its way is asked for again by the same rid, and charged once."""
    caller = call(proxy.url)
    caller.admit(command())
    for n in range(5):
        proxy.cut_replies = lost
        assert caller.admit(command(), 2_000_000).verdict is Verdict.ADMITTED
        assert used(redis_url) == n + 2


def test_a_reply_that_comes_twice_is_nobody_elses_answer(call, proxy, redis_url) -> None:
    """Every request is told of its own count, although an answer to another one comes before its own."""
    caller = call(proxy.url)
    for number in range(1, 21):
        proxy.double_replies = number % 2
        assert caller.admit(command(charge()), 5_000_000).readings[0].state.part == number
    assert used(redis_url) == 20


def test_replies_lost_again_and_again(call, proxy, redis_url) -> None:
    """After three lost replies the outcome is unknown; the cancellation puts the count right."""
    caller = call(proxy.url)
    assert used(redis_url) == 0  # and the server has the script now
    proxy.cut_replies = 3
    asked = command()
    answer, _ = caller.timed(asked, 2_000_000)
    assert is_outage(answer)
    assert used(redis_url) == 1
    assert cancel(redis_url, asked) == [Outcome.APPLIED]
    assert used(redis_url) == 0


def test_all_replies_swallowed(call, proxy, redis_url, lag) -> None:
    """A server that takes and never answers costs a caller its patience, not more, and the count 0."""
    caller = call(proxy.url)
    proxy.swallow = True
    asked = [command() for _ in range(4)]
    for each in asked:
        answer, took = caller.timed(each)
        assert is_outage(answer)
        assert lag.in_time([(answer, took)])
    cancel(redis_url, *asked)
    assert used(redis_url) == 0


def test_reply_after_patience(call, proxy, redis_url, lag) -> None:
    """A reply that comes too late belongs to nobody: the next caller gets its own."""
    caller = call(proxy.url)
    caller.admit(command())
    proxy.delay = 0.15
    late = command(charge(take=7))
    answer, took = caller.timed(late)
    assert is_outage(answer)
    assert lag.in_time([(answer, took)])
    proxy.delay = 0.0
    cancel(redis_url, late)
    tally = caller.admit(command(charge(take=2)), 2_000_000)
    assert tally.readings[0].state.part == 3


def test_dribble(call, proxy, lag) -> None:
    """A server that sends a byte at a time does not stretch the patience."""
    caller = call(proxy.url)
    caller.admit(command(), 2_000_000)
    proxy.dribble = 0.02
    answer, took = caller.timed(command())
    assert is_outage(answer)
    assert lag.in_time([(answer, took)])


def test_dribbled_handshake(call, start_redis, lag) -> None:
    """A slow handshake is part of the patience: AUTH and SELECT dribble in."""
    server = start_redis("requirepass secret-canary")
    with FaultProxy(server.port) as between:
        between.dribble = 0.03
        caller = call(f"redis://:secret-canary@127.0.0.1:{between.port}/3")
        answer, took = caller.timed(command())
        assert is_outage(answer)
        assert lag.in_time([(answer, took)])
        between.dribble = 0.0
        assert caller.admit(command(), 2_000_000).verdict is Verdict.ADMITTED


def test_tls(call, redis_server, redis_url, lag) -> None:
    """Over TLS all is the same: counts, lost replies, and a dribbling server."""
    with FaultProxy(redis_server.port, tls=True) as between:
        caller = call(between.url)
        assert caller.admit(command(), 2_000_000).verdict is Verdict.ADMITTED
        between.cut_replies = 1
        assert caller.admit(command(), 2_000_000).verdict is Verdict.ADMITTED
        assert used(redis_url) == 2
        between.dribble = 0.02
        answer, took = caller.timed(command())
        assert is_outage(answer)
        assert lag.in_time([(answer, took)])


def test_tls_to_a_stranger(call, redis_server) -> None:
    """A server whose certificate nobody vouches for is not spoken to."""
    with FaultProxy(redis_server.port, tls=True) as between:
        caller = call(between.url.partition("?")[0])
        answer, _ = caller.timed(command(), 2_000_000)
        assert is_outage(answer)
        assert "CERTIFICATE_VERIFY_FAILED" in str(answer)


def test_tls_handshake_that_never_ends(call, lag) -> None:
    """A server that accepts and says nothing, where TLS is expected."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        caller = call(f"rediss://127.0.0.1:{silent.getsockname()[1]}")
        answer, took = caller.timed(command())
        assert is_outage(answer)
        assert lag.in_time([(answer, took)])


def test_connections_cut_while_idle(call, proxy, redis_url) -> None:
    """Connections that died in the pool are replaced, and nobody notices."""
    caller = call(proxy.url)
    caller.many([command() for _ in range(20)], 2_000_000)
    proxy.cut_all()
    answers = caller.many([command() for _ in range(20)], 2_000_000)
    assert [answer.verdict for answer, _ in answers] == [Verdict.ADMITTED] * 20
    assert used(redis_url) == 40


# A server that does not answer


def test_frozen_server_leaves_no_zombies(call, start_redis, lag) -> None:
    """While Redis stands still no one waits beyond the patience; afterwards nothing was charged late."""
    server = start_redis()
    caller = call(server.url)
    caller.many([command() for _ in range(30)], 2_000_000)
    server.freeze()
    asked = [command(within_us=PATIENCE_US) for _ in range(30)]
    answers = caller.many(asked)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        asked.append(command(within_us=PATIENCE_US))
        answers.append(caller.timed(asked[-1]))
    server.thaw()
    assert all(is_outage(answer) for answer, _ in answers)
    assert lag.in_time(answers)
    assert len(answers) > 60, "the breaker spares most callers the wait"
    assert used(server.url) == 30
    assert Outcome.APPLIED not in cancel(server.url, *asked)
    back = time.monotonic()
    while is_outage(caller.timed(command())[0]):
        assert time.monotonic() < back + 1.3, "it must not go on failing when Redis is back"
        time.sleep(0.01)


def test_black_hole(call, lag) -> None:
    """A host that swallows SYNs costs a caller its patience."""
    with black_hole() as port:
        caller = call(f"redis://127.0.0.1:{port}")
        for _ in range(3):
            answer, took = caller.timed(command())
            assert is_outage(answer)
            assert lag.in_time([(answer, took)])


def test_refused(call) -> None:
    """Nobody listens: said at once, with the place and without the password."""
    port = free_port()
    caller = call(f"redis://user:secret-canary@127.0.0.1:{port}/0")
    answer, took = caller.timed(command())
    assert is_outage(answer)
    assert f"127.0.0.1:{port}" in str(answer)
    assert "secret-canary" not in str(answer)
    assert took < PATIENCE_US / 1e6


def test_more_callers_than_may_wait(call, proxy, redis_url, lag, monkeypatch) -> None:
    """300 callers at once and room for few, at a slow server: in time, and the counts add up."""
    assert used(redis_url) == 0  # and the server has the script now
    proxy.delay = 0.01
    monkeypatch.setattr(redis_pipe, "MOST_WAITING", 8)
    monkeypatch.setattr(redis_link, "CONNECTIONS", 8)
    caller = call(proxy.url)
    asked = [command() for _ in range(300)]
    answers = caller.many(asked)
    assert lag.in_time(answers, crowd=0.3)  # what 300 threads or tasks cost two cores by themselves
    unknown = [each for each, (answer, _) in zip(asked, answers, strict=True) if is_outage(answer)]
    admitted = [
        answer for answer, _ in answers if not is_outage(answer) and answer.verdict is Verdict.ADMITTED
    ]
    assert unknown
    assert admitted
    proxy.delay = 0.0
    cancel(redis_url, *unknown)
    assert used(redis_url) == len(admitted)


def test_busy_script(call, start_redis, lag) -> None:
    """Another client's endless script: callers wait no longer than their patience, and it passes."""
    server = start_redis("lua-time-limit 50")
    caller = call(server.url)
    caller.admit(command(), 2_000_000)

    def hog() -> None:
        with contextlib.suppress(Exception), server.client() as client:
            client.eval("while true do end", 0)

    thread = threading.Thread(target=hog)
    thread.start()
    time.sleep(0.02)
    answers = [caller.timed(command()) for _ in range(4)]
    with server.client() as client:
        for _ in range(100):
            with contextlib.suppress(Exception):
                client.script_kill()
                break
            time.sleep(0.05)
    thread.join()
    assert all(is_outage(answer) for answer, _ in answers)
    assert lag.in_time(answers)
    assert_recovers(caller)


def assert_recovers(caller: Caller, within: float = 1.5) -> None:
    """It must not go on failing when Redis is back."""
    end = time.monotonic() + within
    while True:
        answer, _ = caller.timed(command(within_us=2_000_000), 2_000_000)
        if not is_outage(answer):
            break
        assert time.monotonic() < end, str(answer)
        time.sleep(0.01)
    assert answer.verdict is Verdict.ADMITTED


# A server that comes back without what it knew


def test_restart(call, start_redis) -> None:
    """A restart in between costs nothing but the connections and the script."""
    server = start_redis()
    caller = call(server.url)
    caller.many([command() for _ in range(10)], 2_000_000)
    server.kill()
    answer, took = caller.timed(command())
    assert is_outage(answer)
    assert took < PATIENCE_US / 1e6
    server.start()
    assert_recovers(caller)


def test_script_flushed_before_every_call(call, redis_server, redis_url) -> None:
    """A server that has forgotten the script is sent it, within the same admission."""
    caller = call(redis_url)
    with redis_server.client() as client:
        for n in range(20):
            client.script_flush()
            assert caller.admit(command(), 2_000_000).verdict is Verdict.ADMITTED
            assert used(redis_url) == n + 1


def test_script_flushed_before_a_batch(redis_server, redis_url) -> None:
    """A batch brings the script along once, and every closing of it is applied."""
    with contextlib.closing(open_store(redis_url)) as store, redis_server.client() as client:
        asked = [command() for _ in range(150)]
        for each in asked:
            store.admit(each, patience_us=2_000_000)
        client.script_flush()
        client.config_resetstat()
        closings = [Cancel(each.rid, each.tag, each.charges) for each in asked]
        assert [each.outcome for each in store.settle(closings)] == [Outcome.APPLIED] * 150
        assert client.info("commandstats")["cmdstat_eval"]["calls"] == 1
        assert used(redis_url) == 0


def test_demoted_server(call, start_redis, lag) -> None:
    """A server that became a replica refuses; promoted again, it serves."""
    primary, server = start_redis(), start_redis()
    caller = call(server.url)
    caller.admit(command(), 2_000_000)
    with server.client() as client:
        client.replicaof("127.0.0.1", primary.port)
        answer, took = caller.timed(command())
        assert is_outage(answer)
        assert "READONLY" in str(answer) or "read only" in str(answer) or "LOADING" in str(answer)
        assert lag.in_time([(answer, took)])
        client.replicaof("NO", "ONE")
    assert_recovers(caller)


# A server that refuses


@pytest.mark.parametrize("binary", BINARIES)
@pytest.mark.parametrize("key", ["mw:{subject}", "rids"])
@pytest.mark.parametrize("content", ["list", "text", "other"])
def test_foreign_key(call, start_redis, binary, key, content) -> None:
    """What is not ours is refused before anything is written, and stays as it is."""
    server = start_redis(binary=binary)
    caller = call(server.url)
    asked = command()
    if key == "rids":
        key = f"mw:{{subject}}:{int(asked.rid.replace('-', '')[:12], 16) // 60_000 % 60:02}"
    with server.client() as client:
        if content == "list":
            client.lpush(key, "x")
        else:
            client.set(key, b"not ours" if content == "text" else b"\x93\x01\x02\x03")
        before = {each: client.dump(each) for each in client.scan_iter()}
        answer, _ = caller.timed(asked, 2_000_000)
        assert is_outage(answer)
        assert {each: client.dump(each) for each in client.scan_iter()} == before


@pytest.mark.parametrize("binary", BINARIES)
def test_out_of_memory(call, start_redis, binary) -> None:
    """Without memory an admission is refused and changes nothing; settling and cancelling go on."""
    server = start_redis("maxmemory-policy noeviction", binary=binary)
    caller = call(server.url)
    asked = [command() for _ in range(20)]
    for each in asked:
        caller.admit(each, 2_000_000)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        answer, _ = caller.timed(command(), 2_000_000)
        assert is_outage(answer)
        assert "maxmemory" in str(answer)
        assert used(server.url) == 20
        assert cancel(server.url, *asked) == [Outcome.APPLIED] * 20
        assert cancel(server.url, command()) == [Outcome.RECOVERED]
        assert used(server.url) == 0
        assert all(client.pttl(each) > 0 for each in client.scan_iter())


@pytest.mark.parametrize("given", ["", ":wrong-canary@", "nobody:wrong-canary@"])
def test_wrong_password(call, start_redis, given) -> None:
    """A server that does not let us in is named; the password is not."""
    server = start_redis("requirepass secret-canary")
    caller = call(f"redis://{given}127.0.0.1:{server.port}/0")
    answer, _ = caller.timed(command(), 2_000_000)
    assert is_outage(answer)
    assert f"127.0.0.1:{server.port}" in str(answer)
    assert "canary" not in str(answer)
    assert answer.__context__ is None
    assert answer.__cause__ is None or answer.__cause__.__traceback__ is None


# Crowds and cancellations


def test_exact_under_a_crowd(call, redis_url) -> None:
    """200 callers at once, a cap of 50: 50 are admitted."""
    caller = call(redis_url)
    for round_ in range(3):
        asked = [
            Admit(each.rid, f"crowd{round_}", each.not_after_us + 10**8, each.charges)
            for each in (command(charge(50)) for _ in range(200))
        ]
        verdicts = [answer.verdict for answer, _ in caller.many(asked, 20_000_000)]
        assert verdicts.count(Verdict.ADMITTED) == 50
        assert verdicts.count(Verdict.DENIED) == 150


def test_cancellation_storm(proxy, redis_url) -> None:
    """Tasks cancelled at any moment poison no connection, and their cancellations put the counts right."""
    store = open_async_store(proxy.url)
    proxy.delay = 0.002

    async def storm() -> tuple[list[Admit], int]:
        unknown: list[Admit] = []
        served = 0

        async def one(n: int) -> None:
            nonlocal served
            asked = command(charge(take=3), within_us=60_000_000)
            task = asyncio.ensure_future(store.admit(asked, patience_us=30_000_000))
            if n % 2:
                await asyncio.sleep((n % 23) * 0.0007)
                task.cancel()
            try:
                tally = await task
            except asyncio.CancelledError:
                unknown.append(asked)
            else:
                assert tally.verdict is Verdict.ADMITTED
                assert tally.readings[0].state.part % 3 == 0
                served += 1

        for _ in range(5):
            await asyncio.gather(*(one(n) for n in range(100)))
        await store.aclose()
        return unknown, served

    unknown, served = asyncio.run(storm())
    assert unknown
    assert served >= 250
    assert proxy.connections == 1, "who gives up leaves the connection as it was"
    cancel(redis_url, *unknown)
    assert used(redis_url) == served * 3
