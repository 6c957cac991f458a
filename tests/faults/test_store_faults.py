"""The store loses data, or a worker is killed: what is counted is what the journal says, to the unit.

Named by their numbers in the catalogue of faults. Compared are ids and sums per key, never totals.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.admission import Answer
from meter_mw.journal import read_journal
from meter_mw.meter import Meter
from meter_mw.model import Count
from meter_mw.policy.policy import Recovery
from support.policies import EGRESS, cap, key_of, policy, request, sink

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
            event = json.loads(entry.payload)  # type: ignore[union-attr]  # nothing is damaged here
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
    """A Redis that comes back as it was a while ago is told the rest again: by the living, and of the dead."""
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


def test_caps_while_counts_are_brought_back(
    open_site: Callable[..., Site], start_redis: Callable[..., RedisServer]
) -> None:
    """From the detection on a hard cap that fails closed answers as for a store that is away, for some seconds."""
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
