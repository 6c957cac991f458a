"""The store loses data, or a worker is killed: what is counted is what the journal says, to the unit.

Named by their numbers in the catalogue of faults. Compared are ids and sums per key, never totals.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.admission import Answer
from meter_mw.journal import Entry, read_journal, read_parked
from meter_mw.meter import Meter
from meter_mw.model import Count
from meter_mw.policy.loader import load as load_policy
from meter_mw.policy.policy import Recovery
from meter_mw.policy.terms import Failure
from meter_mw.stores import canary
from support.cluster import Cluster
from support.policies import EGRESS, SECRET, cap, key_of, policy, request, sink
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meter_mw.policy.policy import Policy
    from support.servers import RedisServer

LONG = 30.0
SIZE = 1_000
"""Bytes of each response."""

AOF = ("appendonly yes", "appendfsync everysec")
RDB = ('save ""',)


class Site:
    """Meters on one Redis, as processes would have them, and what they have recorded."""

    def __init__(self, folder: Path, server: RedisServer, **options: object) -> None:
        self.journal = folder / "journal"
        limits = (cap(1_000_000), replace(cap(10**12, meter=EGRESS, name="egress"), reserve=100))
        self.policy: Policy = replace(
            policy(
                *limits,
                store=server.url,
                journal=self.journal,
                sinks=[sink("file", folder / "usage.jsonl")],
                deadline_us=2_000_000,
            ),
            **options,  # type: ignore[arg-type]  # fields of a policy
        )
        self.meters: list[Meter] = []

    def open(self) -> Meter:
        """Open a meter, as a process does when it starts."""
        self.meters.append(Meter(self.policy))
        self.meters[-1].start()
        return self.meters[-1]

    def close(self) -> None:
        for meter in self.meters:
            meter.close()

    def facts(self) -> dict[str, tuple[int, int]]:
        """Give the requests and bytes of each subject by the events in the journal, each id once."""
        found: dict[str, dict[str, object]] = {}
        for entry in read_journal(self.journal):
            if not isinstance(entry, Entry):  # an end that is just being written
                continue
            event = json.loads(entry.payload)
            assert found.setdefault(event["id"], event) == event
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for event in found.values():
            data = event["data"]
            sums[str(event["subject"])][0] += data["requests"]  # type: ignore[index]
            sums[str(event["subject"])][1] += data["response_bytes"]  # type: ignore[index]
        return {subject: (requests, size) for subject, (requests, size) in sums.items()}


def serve(meter: Meter, key: str, *, size: int = SIZE) -> Answer:
    """Take one request through; give what it was answered."""
    admission = meter.admit(request(key=key))
    if admission.answer is not Answer.ALLOWED:
        return admission.answer
    exchange = meter.exchange(admission, "GET")
    exchange.begin(200, None)
    exchange.count(Count.RESPONSE_BYTES, size)
    meter.conclude(exchange)
    return admission.answer


def counted(meter: Meter, key: str) -> tuple[int, int]:
    """Give what the store has counted for a key."""
    found = meter.usage(request(key=key))
    used = {each.standing.line.limit.name: each.standing.used for each in found.limits}  # type: ignore[union-attr]
    return used["cap"] or 0, used["egress"] or 0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def agrees(site: Site, meter: Meter, keys: list[str]) -> bool:
    """Whether the counters are the sums of the events, for each key."""
    facts = site.facts()
    return all(counted(meter, key) == facts.get(key_of(key), (0, 0)) for key in keys)


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def open_(server: RedisServer, **options: object) -> Site:
        sites.append(Site(tmp_path, server, **options))
        return sites[-1]

    yield open_
    for site in sites:
        site.close()


KEYS = ["a", "b", "c"]


@pytest.mark.parametrize("recovery", [Recovery.LEARN, Recovery.SERVE])
def test_19_flushall(
    recovery: Recovery, open_site: Callable[..., Site], start_redis: Callable[..., RedisServer]
) -> None:
    """After FLUSHALL every process replays what it has, and the counters are the sums of the events."""
    server = start_redis()
    site = open_site(server, recovery=recovery)
    meters = [site.open(), site.open()]
    for number in range(60):
        serve(meters[number % 2], KEYS[number % 3])
    for meter in meters:
        assert meter.flush()
    until(lambda: len(server.client().keys("*:canary:*")) == 4, "two canaries and their twins")
    assert agrees(site, meters[0], KEYS)
    server.client().flushall()
    assert not agrees(site, meters[0], KEYS)
    for number in range(30):
        serve(meters[number % 2], KEYS[number % 3])
    until(lambda: agrees(site, meters[0], KEYS), "counters as they were")


def copy_of(server: RedisServer, to: Path) -> None:
    """Copy what a server has on its disk, as a backup does."""
    shutil.copytree(server.folder, to, ignore=shutil.ignore_patterns("s", "log", "redis.conf"))


def go_back(server: RedisServer, copy: Path) -> None:
    """Kill a server, and start it on an older copy of its data."""
    server.kill()
    for path in Path(server.folder).iterdir():
        if path.name != "log":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(copy, server.folder, dirs_exist_ok=True)
    server.start()


def test_6_killed_with_aof(open_site: Callable[..., Site], start_redis: Callable[..., RedisServer]) -> None:
    """A Redis that is killed and comes back with its AOF, twice, agrees with the events."""
    server = start_redis(*AOF)
    site = open_site(server)
    meter = site.open()
    for _ in range(2):
        for number in range(60):
            serve(meter, KEYS[number % 3])
        server.kill()
        server.start()
    until(lambda: serve(meter, "a") is Answer.ALLOWED, "the store is back")
    assert meter.flush()
    until(lambda: agrees(site, meter, KEYS), "counters as they were")


@pytest.mark.parametrize("options", [AOF, ("save 3600 1",)], ids=["aof", "rdb"])
def test_7_8_an_older_copy(
    options: tuple[str, ...],
    open_site: Callable[..., Site],
    start_redis: Callable[..., RedisServer],
    tmp_path: Path,
) -> None:
    """A Redis that comes back as it was is told the rest again: by the living, and of the dead."""
    server = start_redis(*options)
    site = open_site(server)
    meters = [site.open(), site.open()]
    for number in range(30):
        serve(meters[number % 2], KEYS[number % 3])
    assert all(meter.flush() for meter in meters)
    time.sleep(1.1)  # a beat
    on_the_way = meters[0].exchange(meters[0].admit(request(key="a")), "GET")
    if options != AOF:
        server.client().save()
    copy_of(server, tmp_path / "copy")
    for number in range(45):
        serve(meters[number % 2], KEYS[number % 3])
    on_the_way.begin(200, None)
    on_the_way.count(Count.RESPONSE_BYTES, 5)
    meters[0].conclude(on_the_way)
    assert all(meter.flush() for meter in meters)
    meters[1].close()
    go_back(server, tmp_path / "copy")
    until(lambda: serve(meters[0], "a") is Answer.ALLOWED, "the store is back, and nothing is brought back")
    until(lambda: serve(meters[0], "b") is not Answer.UNAVAILABLE, "learning is over")
    third = site.open()
    serve(third, "c")
    until(lambda: agrees(site, meters[0], KEYS), "counters as they were")


def test_an_outage_that_memory_cannot_hold(
    open_site: Callable[..., Site], start_redis: Callable[..., RedisServer]
) -> None:
    """What is served while the store is away, and is too much for memory, is sent from the journal."""
    server = start_redis(*AOF)
    site = open_site(server)
    opened = {
        name: replace(
            each, limits=tuple(replace(limit, on_store_failure=Failure.OPEN) for limit in each.limits)
        )
        for name, each in site.policy.plans.items()
    }
    site.policy = replace(site.policy, plans=opened)
    meter = site.open()
    for key in KEYS:
        serve(meter, key)
    assert meter.flush()
    meter._settler._most_waiting = 5  # type: ignore[union-attr]  # 200,000 take too long
    server.kill()
    assert [serve(meter, KEYS[number % 3]) for number in range(40)] == [Answer.ALLOWED] * 40
    assert meter._settler.waiting <= 6  # type: ignore[union-attr]
    server.start()
    until(lambda: agrees(site, meter, KEYS), "counters as the events say")


def test_18_a_foreign_key(
    open_site: Callable[..., Site], start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Where something else lies in a key of ours its closings are put aside with a reason, and no others."""
    server = start_redis()
    site = open_site(server)
    meter = site.open()
    exchange = meter.exchange(meter.admit(request(key="a")), "GET")
    client = server.client()
    (name,) = [
        each for each in client.keys("mw:*") if client.type(each) == b"string" and b"canary" not in each
    ]
    client.delete(name)
    client.rpush(name, "somebody else's")
    exchange.begin(200, None)
    meter.conclude(exchange)
    for _ in range(10):
        assert serve(meter, "b") is Answer.ALLOWED
    assert meter.flush()
    until(lambda: agrees(site, meter, ["b"]), "the others' counters")
    until(lambda: bool(list(read_parked(site.journal))), "the closing is parked")
    (parked,) = read_parked(site.journal)
    assert parked.sink == "store"
    assert "WRONGTYPE" in parked.reason


def test_caps_while_counts_are_brought_back(
    open_site: Callable[..., Site], start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the detection on a cap that fails closed answers as for a store that is away, for some seconds."""
    monkeypatch.setattr(canary, "LEARN_US", 2_000_000)
    server = start_redis()
    site = open_site(server)
    meter = site.open()
    serve(meter, "a")
    assert meter.flush()
    until(lambda: bool(server.client().keys("*:canary:*")), "a canary")
    server.client().flushall()
    until(lambda: serve(meter, "a") is Answer.UNAVAILABLE, "learning")
    other = site.open()
    until(lambda: serve(other, "b") is Answer.UNAVAILABLE, "the other process learns of it")
    until(lambda: serve(meter, "a") is Answer.ALLOWED, "learning is over")
    assert meter.flush()
    assert other.flush()
    until(lambda: agrees(site, meter, KEYS), "counters as they were")


class Load:
    """Clients that ask a server until they are told to stop, and know which answers came whole."""

    def __init__(self, port: int) -> None:
        self.whole: Counter[str] = Counter()
        self.broken = 0
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(KEYS[n % 3],)) for n in range(6)]
        for thread in self._threads:
            thread.start()

    def _run(self, key: str) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("GET", "/hello", headers={"X-API-Key": key})
                with connection.getresponse() as answer:
                    is_whole = answer.status == 200 and len(answer.read()) == 300
            except (OSError, http.client.HTTPException):
                is_whole = False
                time.sleep(0.02)
            finally:
                connection.close()
            if is_whole:
                self.whole[key] += 1
            else:
                self.broken += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def workers_of(command: tuple[str, ...], policy_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a server with workers until the block ends."""
    port = free_port()
    environment = os.environ | {"METER_POLICY": str(policy_path), "METER_KEY_SECRET": SECRET.decode()}
    words = [word.format(port=port) for word in command]
    with (policy_path.parent / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=Path(__file__).parent, env=environment, stderr=log, stdout=log
        )
        try:
            yield port, server
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def children_of(pid: int) -> list[int]:
    """Give the workers of a server."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


KILLS = 10
UVICORN = ("uvicorn", "store_apps:asgi", "--port", "{port}", "--workers", "3", "--log-level", "warning")
GUNICORN = (
    "gunicorn",
    "store_apps:wsgi",
    "--bind",
    "127.0.0.1:{port}",
    "-k",
    "gthread",
    "--threads",
    "4",
    "-w",
    "3",
)


@pytest.mark.parametrize(
    ("command", "reap"), [(UVICORN, "bill"), (GUNICORN, "void")], ids=["uvicorn-bill", "gunicorn-void"]
)
def test_22_27_killed_workers(
    command: tuple[str, ...], reap: str, tmp_path: Path, start_redis: Callable[..., RedisServer]
) -> None:
    """Workers are killed at any moment: no answer is without its event, and the counters are the sums."""
    server = start_redis()
    path = tmp_path / "meter.yaml"
    path.write_text(POLICY.format(store=server.url, folder=tmp_path, reap=reap))
    with workers_of(command, path) as (port, process):
        load = Load(port)
        for _ in range(KILLS):
            goal = sum(load.whole.values()) + 25
            until(lambda goal=goal: sum(load.whole.values()) >= goal, "more answers")
            time.sleep(random.uniform(0, 0.05))
            os.kill(random.choice(children_of(process.pid)), signal.SIGKILL)
        load.stop()
    site = Site(tmp_path, server)
    site.policy = load_policy(path, environ={"METER_KEY_SECRET": SECRET.decode()})
    try:
        meter = site.open()
        until(lambda: agrees(site, meter, KEYS), "counters as the events say")
        until(lambda: not on_their_way(site), "registers without entries")
        facts = {key: site.facts().get(key_of(key), (0, 0)) for key in KEYS}
        assert agrees(site, meter, KEYS)
        reaped = reaped_of(site)
    finally:
        site.close()
    assert all(facts[key][0] >= load.whole[key] for key in KEYS)
    assert all(facts[key][0] <= load.whole[key] + load.broken for key in KEYS)
    if reap == "void":
        assert not reaped
    print(
        f"{command[0]} {reap}: {sum(load.whole.values())} whole, {load.broken} broken, {len(reaped)} reaped"
    )


POLICY = """
version: 1
service: orders-api
store: {store}
identity: {{secret: "${{METER_KEY_SECRET}}"}}
on_store_failure: {{deadline: 2s}}
meters: {{requests: {{count: requests}}, egress: {{count: response-bytes}}}}
plans:
  default:
    limits:
      - {{name: cap, cap: 1000000/month}}
      - {{name: egress, meter: egress, cap: 1000 GB/month, reserve: 100 B}}
      - {{concurrent: 50}}
events: {{journal: {folder}/journal, reap: {reap}, sinks: [{{file: {folder}/usage.jsonl}}]}}
"""


def on_their_way(site: Site) -> list[int]:
    """Give the places of registers that have an entry still."""
    found = []
    for path in site.journal.glob("*/register"):
        data = path.read_bytes()[4096:]
        found += [at for at in range(0, len(data), 1024) if data[at]]
    return found


def reaped_of(site: Site) -> list[dict[str, object]]:
    """Give the events of requests that others ended."""
    entries = (entry for entry in read_journal(site.journal) if isinstance(entry, Entry))
    events = (json.loads(entry.payload) for entry in entries)
    return [event for event in events if event["data"].get("reaped")]


def test_19_one_node_of_a_cluster(open_site: Callable[..., Site]) -> None:
    """A node that loses its data is told again what it had; what others had is not counted twice."""
    keys = [f"key-{number}" for number in range(9)]
    with Cluster() as cluster:
        site = open_site(cluster.nodes[0])
        site.policy = replace(site.policy, store=cluster.url)
        meters = [site.open(), site.open()]
        for number in range(36):
            serve(meters[number % 2], keys[number % 9])
        assert all(meter.flush() for meter in meters)
        assert agrees(site, meters[0], keys)
        until(lambda: all(len(node.client().keys("*:canary:*")) == 4 for node in cluster.nodes), "canaries")
        cluster.nodes[1].client().flushall()
        for number in range(18):
            serve(meters[number % 2], keys[number % 9])
        until(lambda: agrees(site, meters[0], keys), "counters as they were")
        time.sleep(1.5)  # beats
        assert agrees(site, meters[0], keys)
