"""The stores in Redis: what crosses the wire, what is kept, forks, loops, addresses."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import re
import threading
from typing import TYPE_CHECKING

import hiredis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.model import LARGEST_COST
from meter_mw.periods import Period
from meter_mw.quota import HORIZON_US, LETTERS, Cap, OnDeny, Rate, Slots
from meter_mw.rids import new_rid
from meter_mw.stores.aredis_store import open_async_store
from meter_mw.stores.memory import system_clock_us
from meter_mw.stores.port import (
    KEPT_US,
    REMEMBERED_US,
    Admit,
    Booking,
    Cancel,
    Charge,
    NotAsked,
    Outcome,
    Refusal,
    Settle,
    StoreUnavailable,
    Tally,
    Verdict,
)
from meter_mw.stores.redis_protocol import (
    DIGEST,
    SCRIPT,
    SERVER_CLOCK,
    GarbledReply,
    admit_call,
    closed,
    closing_call,
    peek_call,
    tally,
)
from meter_mw.stores.redis_store import RedisStore, open_store
from meter_mw.testing.stores import Bench, Clock
from support.servers import on_every_redis
from support.states import values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECOND = 1_000_000
LEASE_US = 30 * SECOND
ONE = Charge("r:one", Rate(10, SECOND, 5), 1, 1)


@pytest.fixture
def at(redis_url: str) -> Iterator[Bench]:
    """A bench on a clean server."""
    bench = Bench(lambda clock: open_store(redis_url, clock=clock))
    yield bench
    bench.store.close()


def eight(at: Bench) -> tuple[Charge, ...]:
    """Eight charges: four rates, four caps."""
    rates = (at.charge(f"r{n}", Rate(10, SECOND, n + 3)) for n in range(4))
    return (*rates, *(at.charge(f"c{n}", Cap(n + 4, Period.DAY)) for n in range(4)))


def calls(client) -> dict[str, int]:
    """Read how often each command was sent by a client, or called by a script."""
    return {
        name.removeprefix("cmdstat_"): each["calls"] for name, each in client.info("commandstats").items()
    }


# The wire


@pytest.mark.parametrize("kind", ["blocking", "async"])
@on_every_redis
def test_eight_charges_are_one_command(redis_server, at, kind) -> None:
    """Eight limits cost one command in one round trip, and nothing is said at connecting."""
    at.admit()  # brings the script
    asked = at.command(*eight(at))
    with redis_server.client() as client, redis_server.client() as watched:
        client.config_resetstat()
        with watched.monitor() as monitor:
            if kind == "blocking":
                with contextlib.closing(open_store(redis_server.url, clock=at.clock)) as store:
                    assert store.admit(asked, patience_us=SECOND).verdict is Verdict.ADMITTED
            else:

                async def ask() -> None:
                    store = open_async_store(redis_server.url, clock=at.clock)
                    assert (await store.admit(asked, patience_us=SECOND)).verdict is Verdict.ADMITTED
                    await store.aclose()

                asyncio.run(ask())
            client.ping()
            seen = []
            while not seen or seen[-1]["command"] != "PING":
                seen.append(monitor.next_command())
        assert [each["command"].split()[0] for each in seen if each["client_type"] != "lua"] == [
            "EVALSHA",
            "PING",
        ]
        assert calls(client)["evalsha"] == 1
        assert "eval" not in calls(client)


def test_hundred_closings_are_one_round_trip(redis_server, at) -> None:
    """A hundred closings go out together; nothing else is sent."""
    asked = [at.command(ONE) for _ in range(100)]
    at.send(asked[0])
    with redis_server.client() as client:
        before = client.info("stats")["total_commands_processed"]
        assert len(at.store.settle([Cancel(each.rid, each.tag, each.charges) for each in asked])) == 100
        client.config_resetstat()
        at.store.settle([Cancel(each.rid, each.tag, each.charges) for each in asked])
        assert calls(client)["evalsha"] == 100
        assert before > 0


def test_hundred_admissions_are_one_round_trip(redis_server, at) -> None:
    """Sent together, they go out together; one that cannot be answered is no other's failure."""
    asked = [at.command(ONE) for _ in range(100)]
    at.send(asked[0])
    with redis_server.client() as client:
        client.set("mw:{spoilt}", b"\x01")
        client.config_resetstat()
        bad = at.command(ONE, tag="spoilt")
        told = at.send_many(*asked[:50], bad, *asked[50:99])
        assert calls(client)["evalsha"] == 100
        assert sum(isinstance(each, Tally) for each in told) == 99
        assert isinstance(told[50], Refusal)
        assert "holds something else" in str(told[50])


def test_admissions_without_a_server(at) -> None:
    """Where nobody answers, each of them is told so."""
    with contextlib.closing(open_store("redis://127.0.0.1:1")) as store:
        told = store.admit_many([at.command(ONE)] * 150, patience_us=SECOND)
    assert [isinstance(each, NotAsked) for each in told] == [True] * 150


@on_every_redis
def test_no_float_reaches_redis(redis_server, at) -> None:
    """The largest numbers go in and come out as whole decimals."""
    huge = at.charge("c", Cap(LARGEST_COST, Period.YEAR), LARGEST_COST)
    tally = at.admit(huge, at.charge("a", Rate(LARGEST_COST, SECOND, LARGEST_COST), LARGEST_COST))
    assert tally.readings[0].state.part == LARGEST_COST
    assert not re.search(r"[^0-9]\d+\.\d+[^0-9.]", SCRIPT.replace("'%.0f", ""))


WHOLE = st.integers(0, LARGEST_COST)
MOMENTS = st.lists(st.integers(0, 2**53), min_size=4, max_size=4).map(lambda each: tuple(sorted(each)))


@st.composite
def charges(draw: st.DrawFn) -> Charge:
    """Any charge at all."""
    need, held, shadow = draw(WHOLE), draw(st.booleans()), draw(st.booleans())
    take = draw(WHOLE if held else st.integers(0, need))
    holder = draw(st.sampled_from(("", "x", "x:key", "pool")))
    told = {"held": held, "shadow": shadow, "holder": holder}
    kind = draw(st.sampled_from("rcs"))
    if kind == "r":
        units, burst = draw(st.integers(1, LARGEST_COST)), draw(st.integers(1, LARGEST_COST))
        period = draw(st.integers(1, max(1, min(HORIZON_US * units // burst - 1, HORIZON_US))))
        if burst * period >= HORIZON_US * units:
            burst = units
        return Charge("r", Rate(units, period, burst), need, take, **told)
    if kind == "s":
        return Charge("s", Slots(draw(st.integers(1, LARGEST_COST))), need, take, **told | {"held": True})
    cap = Cap(draw(WHOLE), Period.DAY, bills=draw(st.booleans()), warn=(1, LARGEST_COST))
    return Charge("c", cap, need, take, draw(MOMENTS), **told)


@given(told=st.lists(charges(), max_size=20), fence=st.integers(0, 2**53), lease=st.integers(1, 2**53))
def test_only_whole_numbers_in_range_are_sent(told, fence, lease) -> None:
    """What the script is asked, as it takes it: no number has a fraction, a sign, or more than 53 bits."""
    admit = Admit(new_rid(1), "x", fence, tuple(told), lease, OnDeny.SELF)
    bookings = tuple(Booking(each, each.need, each.windows[1] if each.windows else 0) for each in told)
    for call, size in (
        (admit_call(admit, SERVER_CLOCK), 12),
        (peek_call("x", tuple(told), SERVER_CLOCK), 12),
        (closing_call(Settle(admit.rid, "x", bookings), SERVER_CLOCK), 7),
    ):
        name, digest, keys, *rest = read(call.packed)
        packed, rid, after, echo = rest[int(keys) :]
        assert (name, digest, len(rest)) == (b"EVALSHA", DIGEST.encode(), int(keys) + 4)
        clock, until, verb, *terms = values_of(packed)
        assert (clock, until) == (SERVER_CLOCK, fence if verb == "admit" else 0)
        assert (len(rid), after, echo) == (0 if verb == "peek" else 16, b"", call.echo)
        assert len(terms) == 3 + size * len(told)
        assert all(0 <= each <= 2**53 for each in terms if isinstance(each, int))
        assert {type(each) for each in terms} <= {int, str}


@given(told=st.lists(charges(), max_size=20))
def test_what_was_packed_before_is_the_same(told) -> None:
    """The same tuple of charges again, or an equal one: the same bytes, but for the echo."""
    same = tuple(told)
    for tag in ("x", "y"):
        admits = [Admit(new_rid(1), tag, 7, each, 9) for each in (same, same, tuple(told))]
        first, *others = (admit_call(each._replace(rid=admits[0].rid), SERVER_CLOCK) for each in admits)
        for other in others:
            assert other.packed[:-6] == first.packed[:-6]
            assert other.echo != first.echo
        denies = admit_call(Admit(admits[0].rid, tag, 7, same, 9, OnDeny.ALL), SERVER_CLOCK)
        assert (b"all" in denies.packed, b"all" in first.packed) == (True, False)


def read(packed: bytes) -> list[bytes]:
    """Read a command as a server would."""
    reader = hiredis.Reader()
    reader.feed(packed)
    command = reader.gets()
    assert isinstance(command, list)
    return command


@pytest.mark.parametrize("windows", [(-1, 0, 1, 2), (0, 1, 2, 2**53 + 1), (3, 2, 1, 0)])
def test_windows_are_in_range(windows) -> None:
    """No boundary lies where the script could not count."""
    with pytest.raises(ValueError, match="windows lie"):
        Charge("c", Cap(1, Period.DAY), 1, 1, windows)


def test_garbled_replies() -> None:
    """A reply that the script does not give is an outage, not a crash."""
    for found in (
        None,
        [],
        ["admitted"],
        ["maybe", 1],
        ["admitted", "1"],
        ["admitted", 1.5],
        ["admitted", 1, [1, 2]],
        ["admitted", 1, [[1, True]]],
        ["admitted", 1, [[[1, 2], 1]]],
        ["admitted", 1, [[[1.5, 2], True]]],
        ["x", 1, 2],
        ["applied", 1],
        ["applied", 1, [[0]], 1],
        ["applied", 1, [[0, 1, 2]]],
        ["applied", 1, [[0, 1, [2, "x"]]]],
    ):
        packed = msgspec.msgpack.encode(found)
        for reply in (found, packed + b"echo", packed[:-1] + b"echo", packed, b"OK"):
            with pytest.raises(GarbledReply):
                tally(reply)
            with pytest.raises(StoreUnavailable):
                closed(reply)


# What is kept


def state(client) -> dict[bytes, bytes]:
    """Take everything that a server holds."""
    return {key: client.dump(key) for key in client.scan_iter()}


@on_every_redis
def test_refusals_leave_every_byte(redis_server, at) -> None:
    """A denial, a look, a repeat, a late, a void and a refreshed command write nothing at all."""
    full = (at.charge("a", Rate(10, SECOND, 5), 5), at.charge("c", Cap(5, Period.MINUTE), 5))
    admitted, void = at.command(*full), at.command(*full)
    old = at.charge("c", Cap(9, Period.MINUTE))
    at.cancel(void)
    at.send(admitted)
    at.clock.move(5)
    with redis_server.client() as client:
        before = state(client)
        assert len(before) == 2
        at.admit(*full)
        at.peek(*full)
        at.send(admitted)
        at.send(void)
        at.cancel(void)
        at.send(at.command(*full, within_us=-1))
        at.clock.move(3_600 * SECOND)
        assert at.admit(old).verdict is Verdict.REFRESH
        assert at.store.peek(at.tag, (old,)).verdict is Verdict.REFRESH
        assert state(client) == before


@on_every_redis
def test_refusals_of_holds_leave_every_byte(redis_server, at) -> None:
    """Nor do those who ask for what is held: only what is taken, or comes back, is written."""
    held = at.charge("s", Slots(1)), at.charge("c", Cap(5, Period.MONTH), 5, held=True)
    admitted, void = at.command(*held), at.command(*held)
    at.cancel(void)
    at.send(admitted)
    at.clock.move(5)
    with redis_server.client() as client:
        before = state(client)
        assert sorted(key.rpartition(b"}")[2][:2] for key in before) == [b"", b":0", b":h"]
        at.admit(*held)
        at.peek(*held)
        at.send(admitted)
        at.send(void)
        at.top_up(void, *held)
        at.top_up(admitted, at.charge("c", Cap(5, Period.MONTH), 6, held=True))
        at.send(at.command(*held, after=at.command()))
        assert state(client) == before
        at.clock.move(LEASE_US)
        at.peek(*held)
        assert state(client) == before
        assert at.admit(at.charge("c", Cap(5, Period.MONTH), 6)).verdict is Verdict.DENIED
        assert sorted(key.rpartition(b"}")[2][:2] for key in state(client)) == [b"", b":0"]


@on_every_redis
def test_clock_that_went_back_is_kept_even_by_a_denial(redis_server, at) -> None:
    """A denial after the clock went back writes the arrivals that went back with it."""
    full = at.charge("a", Rate(10, SECOND, 5), 5)
    at.admit(full)
    at.clock.move(-60 * SECOND)
    with redis_server.client() as client:
        before = state(client)
        at.peek(full)
        assert state(client) == before
        assert at.admit(full).verdict is Verdict.DENIED
        assert state(client) != before


@on_every_redis
def test_every_key_ends(redis_server, at) -> None:
    """Each key outlives what it says by a minute, and none lives for ever."""
    with redis_server.client() as client:
        for charge in (ONE, at.charge("c", Cap(5, Period.MINUTE)), at.charge("d", Cap(5, Period.YEAR))):
            asked = at.command(charge)
            at.send(asked)
            until = {
                "r": at.clock() + 100_000,
                "c": at.windows(Period.MINUTE)[2],
                "d": at.windows(Period.YEAR)[2],
            }[charge.id.removeprefix("c:")[0]]
            ttl = client.pttl(f"mw:{{{at.tag}}}")
            assert 0 <= (until + KEPT_US - at.clock()) / 1000 - ttl < 2000
            at.cancel(asked)
            assert not client.exists(f"mw:{{{at.tag}}}:h")
            for key in client.scan_iter("mw:*:*"):
                assert client.pttl(key) > REMEMBERED_US / 1000 + 59_000


@on_every_redis
def test_holds_live_as_long_as_the_longest(redis_server, at) -> None:
    """Neither a shorter lease beside it, nor the end of one, shortens the life of a hold."""
    rate = at.charge("a", Rate(10, SECOND, 5), 1, held=True)
    names = f"mw:{{{at.tag}}}", f"mw:{{{at.tag}}}:h"
    with redis_server.client() as client:
        for lease_us in (LEASE_US, 600 * SECOND, LEASE_US):
            at.send(at.command(rate, lease_us=lease_us))
        for passed_us in (0, LEASE_US):
            at.clock.move(passed_us)
            at.admit(rate)
            for name in names:
                left_ms = (600 * SECOND + KEPT_US - passed_us) / 1000
                assert 0 <= left_ms - client.pttl(name) < 2000


@on_every_redis
def test_holds_live_as_long_as_their_holder(redis_server, at) -> None:
    """The hash of what is held outlives its longest lease by a minute, and is gone with its last hold."""
    slot = at.charge("s", Slots(9))
    first, last = at.command(slot), at.command(slot, lease_us=600 * SECOND)
    with redis_server.client() as client:
        for each in (first, last, at.command(slot)):
            at.send(each)
        names = f"mw:{{{at.tag}}}", f"mw:{{{at.tag}}}:h"
        for name in names:
            assert 0 <= (600 * SECOND + KEPT_US) / 1000 - client.pttl(name) < 2000
        assert client.hlen(names[1]) == 3
        at.clock.move(LEASE_US)
        at.cancel(first)
        assert client.hlen(names[1]) == 1
        at.cancel(last)
        assert not client.exists(names[1])


def test_time_is_the_servers(redis_url) -> None:
    """Without a clock of a test's, the server's decides."""
    with contextlib.closing(open_store(redis_url)) as store:
        before = system_clock_us()
        told = store.peek("x", ()).now_us
        assert before - 5_000 <= told <= system_clock_us() + 5_000
        assert abs(store.now_us() - system_clock_us()) < 100_000


@pytest.mark.parametrize("tag", ["", "a" * 65, "a}b", "a{b", "a:b", "a b", "a\n", "é", "a*", "\x00"])
def test_tags_have_no_meaning_to_redis(at, tag) -> None:
    """A tag that could end the hash tag, or be read as a pattern, is refused."""
    with pytest.raises(ValueError, match="a tag is"):
        at.send(at.command(tag=tag) if tag else Admit(new_rid(1), tag, 1, ()))


@pytest.mark.parametrize(
    "rid", ["", "x", "01234567-89ab-4def-8123-456789abcdef", "0" * 32, "z" * 32, "a" * 40]
)
def test_rids_are_uuid7(at, rid) -> None:
    """A rid that tells no time of its own is refused."""
    with pytest.raises(ValueError, match="a rid is"):
        at.send(Admit(rid, at.tag, 1, ()))


def test_the_script_has_the_models_numbers() -> None:
    """What the script and Python both know, they know alike."""
    numbers = dict(re.findall(r"^local (\w+) = '?(\d+)'?", SCRIPT, re.MULTILINE))
    assert {name: int(value) for name, value in numbers.items()} == {
        "LARGEST_COST": LARGEST_COST,
        "HORIZON": HORIZON_US,
        "KEPT": KEPT_US,
        "FIRST": 7,
        "SECOND": SECOND,
        "REMEMBERED": REMEMBERED_US // 1000 + 60_000,
    }
    (letters,) = re.findall(r"^local RATE, CAP, SLOTS = (\d+), (\d+), (\d+)", SCRIPT, re.MULTILINE)
    assert [chr(int(each)) for each in letters] == [LETTERS[each] for each in (Rate, Cap, Slots)]


# Processes, threads and loops


def admit_here(store: RedisStore, results) -> None:
    results.put(
        store.admit(
            Admit(new_rid(system_clock_us()), "f", 8 * 10**15, (ONE,)), patience_us=SECOND
        ).verdict.value
    )


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork(redis_server, redis_url) -> None:
    """A child of a fork makes connections of its own, and its parent's go on."""
    store = open_store(redis_url)
    asked = [Admit(new_rid(system_clock_us()), "f", 8 * 10**15, ()) for _ in range(3)]
    store.admit(asked[0], patience_us=SECOND)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=admit_here, args=(store, results)) for _ in range(4)]
    for child in children:
        child.start()
    assert [results.get(timeout=10) for _ in children] == ["admitted"] * 4
    for child in children:
        child.join()
    with redis_server.client() as client:
        client.config_resetstat()
        before = client.info("stats")["total_connections_received"]
        assert store.admit(asked[1], patience_us=SECOND).verdict is Verdict.ADMITTED
        assert client.info("stats")["total_connections_received"] == before
    store.close()
    results.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_within_a_loop(redis_url) -> None:
    """A child that inherits a loop's connections leaves them alone; its parent's loop goes on."""
    store = open_async_store(redis_url)

    async def admit() -> Verdict:
        asked = Admit(new_rid(system_clock_us()), "f", 8 * 10**15, ())
        return (await store.admit(asked, patience_us=SECOND)).verdict

    async def parent() -> None:
        assert await admit() is Verdict.ADMITTED
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio._set_running_loop(None)
                with asyncio.Runner() as runner:
                    code = 0 if runner.run(admit()) is Verdict.ADMITTED else 2
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        for _ in range(3):
            assert await admit() is Verdict.ADMITTED
        await store.aclose()

    asyncio.run(parent())


def test_two_loops(redis_url) -> None:
    """Loops one after another and at the same time each have their own connections."""
    store = open_async_store(redis_url)

    async def admit() -> Verdict:
        verdicts = [
            (
                await store.admit(Admit(new_rid(system_clock_us()), "l", 8 * 10**15, ()), patience_us=SECOND)
            ).verdict
            for _ in range(5)
        ]
        await store.aclose()
        return verdicts[-1]

    assert [asyncio.run(admit()) for _ in range(3)] == [Verdict.ADMITTED] * 3
    told: list[Verdict] = []
    threads = [threading.Thread(target=lambda: told.append(asyncio.run(admit()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [Verdict.ADMITTED] * 4


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_closed_loops_are_let_go(redis_url) -> None:
    """A loop that ended without closing the store is not kept beyond the next one."""
    store = open_async_store(redis_url)
    for _ in range(3):
        asyncio.run(store.peek("l", ()))
    assert len(store._lines) == 1
    store._lines.clear()
    gc.collect()


def test_reopens_after_close(at) -> None:
    """A closed store opens again when it is asked."""
    assert at.admits(ONE)
    at.store.close()
    assert at.admits(ONE)


# Addresses


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_tcp_addresses(redis_server, redis_url, scheme) -> None:
    """A database, and options that would undo our promises, by URL."""
    url = f"{scheme}://127.0.0.1:{redis_server.port}/3?socket_timeout=99&retry_on_timeout=yes&protocol=3&decode_responses=yes"
    with contextlib.closing(open_store(url)) as store, redis_server.client() as client:
        assert (
            store.admit(Admit(new_rid(1), "x", 8 * 10**15, (ONE,)), patience_us=SECOND).verdict
            is Verdict.ADMITTED
        )
        assert "db3" in client.info("keyspace")


@pytest.mark.parametrize("scheme", ["unix", "redis+unix"])
def test_unix_sockets(redis_server, redis_url, scheme) -> None:
    """Both kinds of store over a Unix socket, with a database."""
    url = f"{scheme}://{redis_server.socket_path}?db=2"
    with contextlib.closing(open_store(url)) as store:
        assert (
            store.admit(Admit(new_rid(1), "x", 8 * 10**15, (ONE,)), patience_us=SECOND).verdict
            is Verdict.ADMITTED
        )

    async def ask() -> Verdict:
        other = open_async_store(url)
        told = await other.admit(Admit(new_rid(1), "x", 8 * 10**15, (ONE,)), patience_us=SECOND)
        await other.aclose()
        return told.verdict

    assert asyncio.run(ask()) is Verdict.ADMITTED


@pytest.mark.parametrize("opens", [open_store, open_async_store])
@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis+sentinel://h:1/m", "redis[+]sentinel:// is not supported yet"),
        ("http://h", "a store is redis"),
        ("memory", "a store is redis"),
        ("redis://:canary/s@h:1", "cannot be read"),
        ("redis://h/0?db=x", "cannot be read"),
        ("redis://h/0?colour=red", "not known.*colour"),
        ("rediss://h/0?colour=red", "TLS options.*colour"),
        ("rediss://:canary@h/0?ssl_ca_certs=/nowhere.pem", "TLS options.*No such file"),
        ("valkeys://:canary@h/0?ssl_cert_reqs=perhaps", "TLS options.*perhaps"),
    ],
)
def test_addresses_that_are_refused(opens: Callable[..., object], url, complaint) -> None:
    """What cannot be served is said when the store is opened, without a password."""
    with pytest.raises(ValueError, match=complaint) as caught:
        opens(url)
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None or "canary" not in str(caught.value.__context__)


def test_repr_hides_the_password() -> None:
    """An address can be shown."""
    assert "canary" not in repr(open_store("redis://u:canary@h:1")._address)


def test_moments_apart(at) -> None:
    """A rid's minute is its own, so commands about it meet however late they come."""
    asked = at.command(ONE, within_us=700 * SECOND)
    at.send(asked)
    at.clock.move(600 * SECOND)
    assert at.send(asked).verdict is Verdict.ADMITTED
    assert at.cancel(asked) is Outcome.APPLIED


def test_clock_stands() -> None:
    """The clock of these tests moves when it is told to."""
    clock = Clock()
    clock.move(3)
    assert clock() == Clock.START_US + 3
