"""What befalls a journal: forks, power cuts, full and failing disks, damage, orphans and a long backlog."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from subprocess import PIPE
from typing import TYPE_CHECKING, Self

import pytest

from journal.conftest import SOURCE, MemorySink, contents, event, expected, ids, payloads
from meter_mw.admission import Admission
from meter_mw.journal import Flaw, Forwarder, Journal, JournalFull
from meter_mw.journal.estates import Estate, estate_paths, segment_numbers, segment_path
from meter_mw.meter import Meter
from meter_mw.policy.delivery import EventRules, OnFull
from meter_mw.policy.terms import Exemption
from meter_mw.sinks import Delivered, Outcome, Retry
from support.policies import policy, rate, request, route
from support.powercut import Platter

from .conftest import FAULTS, Disk, mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def only_segment(place: Path) -> Path:
    (estate,) = estate_paths(place)
    (number,) = segment_numbers(estate)
    return segment_path(estate, number)


def in_child(work: Callable[[], None]) -> int:
    """Run a function in a forked child and return how it went."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def soon(is_so: Callable[[], bool]) -> bool:
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + 30
    while not (came := is_so()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return came


def test_25_a_fork_after_use_gives_the_child_segments_of_its_own(journal: Journal, place: Path) -> None:
    """Parent and child go on with one journal object, and neither writes where the other does."""
    journal.append(event(0))

    def work() -> None:
        for number in range(100, 200):
            journal.append(event(number))
        journal.close()

    assert in_child(work) == 0
    for number in range(1, 100):
        journal.append(event(number))
    entries, damages = contents(place)
    assert damages == []
    by_estate = {path: [e.payload for e in entries if e.path.parent == path] for path in estate_paths(place)}
    assert sorted(map(ids, by_estate.values())) == sorted([expected(range(100)), expected(range(100, 200))])


def test_25_a_child_does_not_keep_its_parents_lock(place: Path) -> None:
    """When the parent dies and its child lives on, the parent's segments can be adopted."""
    reading, writing = os.pipe()
    born, tell = os.pipe()

    def work() -> None:
        journal = Journal(place, SOURCE)
        journal.append(event(1))
        if os.fork() == 0:
            os.close(writing)
            os.write(tell, b"!")
            os.read(reading, 1)  # lives until the test ends
            os._exit(0)
        os.read(born, 1)
        os._exit(0)

    assert in_child(work) == 0
    (path,) = estate_paths(place)
    estate = Estate.lock(path)
    for fd in (writing, reading, born, tell):
        os.close(fd)
    assert estate is not None
    estate.release()


def test_25_what_waits_in_memory_at_a_fork_is_written_by_the_parent_alone(place: Path, disk: Disk) -> None:
    """The child begins with an empty overflow, and with a disk that it tries anew."""
    journal = Journal(place, SOURCE, sync_interval=60)
    disk.fail(*FAULTS["ENOSPC"][:1], *FAULTS["ENOSPC"][1])
    journal.append(event(0))
    disk.heal()

    def work() -> None:
        assert journal.takes_events
        journal.append(event(1))
        journal.close()

    assert in_child(work) == 0
    assert ids(payloads(place)) == ["event-1"]
    journal.close()
    assert sorted(ids(payloads(place))) == ["event-0", "event-1"]


def test_26_forks_beside_busy_threads(journal: Journal, place: Path) -> None:
    """A child forked while other threads append and rotate is never stuck on a lock of theirs."""
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            journal.append(event("parent", 2000))

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()

    def work() -> None:
        signal.alarm(20)
        journal.append(event("child"))
        journal.close()

    assert [in_child(work) for _ in range(15)] == [0] * 15
    done.set()
    for thread in threads:
        thread.join()
    assert ids(payloads(place)).count("event-child") == 15


@pytest.mark.parametrize("fault", FAULTS)
def test_29_30_a_disk_that_fails_holds_up_no_event(
    place: Path, disk: Disk, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They wait in memory, are written in order when it takes them again, and little is said of it."""
    code, calls = FAULTS[fault]
    journal = Journal(place, SOURCE, segment_bytes=1 << 14, sync_interval=0.001)
    for number in range(10):
        journal.append(event(number))
    journal.sync()
    disk.fail(code, *calls)
    positions = [journal.append(event(number, 100), b"closing") for number in range(10, 500)]
    assert positions == sorted(positions)
    assert soon(lambda: "takes no events" in caplog.text)
    assert not journal.takes_events
    disk.heal()
    assert soon(lambda: journal.takes_events)
    journal.append(event(500))
    assert journal.wait(positions[-1], 30)
    found, damages = contents(place)
    assert ids([entry.payload for entry in found]) == expected(range(501))
    assert damages == []
    assert journal.lost == 0
    lines = [line for line in caplog.messages if "takes" in line]
    assert len(lines) <= 4  # a fault that comes in stages, as an EIO of a sync, is said with each
    assert os.strerror(code) in lines[0]
    assert "takes events again" in lines[-1]
    journal.close()


def test_29_what_the_overflow_has_no_room_for_is_counted(
    place: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """It is lost with an error to each caller, and one line with the number; what is held stays in order."""
    code, calls = FAULTS["EROFS"]
    journal = Journal(place, SOURCE, overflow_bytes=1000, sync_interval=0.001)
    disk.fail(code, *calls)
    kept, refusals = 0, set()
    for number in range(100):
        try:
            journal.append(event(number))
        except JournalFull as error:
            refusals.add(str(error))
        else:
            kept += 1
    assert 10 < kept < 20
    assert journal.lost == 100 - kept
    assert all("Read-only file system" in refusal for refusal in refusals)
    disk.heal()
    assert soon(lambda: journal.takes_events)
    assert ids(payloads(place)) == expected(range(kept))
    assert f"{kept} had waited in memory, {100 - kept} were lost" in caplog.text
    assert len(caplog.records) <= 2
    journal.close()


def test_29_what_waits_when_a_journal_is_closed_is_written_or_said(
    place: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """The last attempt is made at the end; what then has no place but memory is counted in the log."""
    code, calls = FAULTS["EROFS"]
    journal = Journal(place, SOURCE, sync_interval=60)
    disk.fail(code, *calls)
    for number in range(3):
        journal.append(event(number))
    disk.heal()
    journal.close()
    assert ids(payloads(place)) == expected(range(3))
    disk.fail(code, *calls)
    journal.append(event(3))
    journal.close()
    assert "1 events were in memory alone, and are lost" in caplog.text
    assert journal.lost == 1


def test_29_a_write_cut_short_leaves_no_gap(place: Path) -> None:
    """A real limit: the kernel takes half an event, and all that is appended is read, in order."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        journal = Journal(place, SOURCE, segment_bytes=1 << 16, sync_interval=30)
        journal.append(event(0, 1000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        assert journal.append(event(1, 5000)).is_held
        assert journal.append(event(2)).is_held
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal.wait(journal.append(event(3)), 30)
        for number in range(4, 200):
            assert not journal.append(event(number, 400)).is_held
        journal.close()

    assert in_child(work) == 0
    entries, damages = contents(place)
    assert ids([entry.payload for entry in entries]) == expected(range(200))
    assert damages == []


def test_29_a_full_file_system(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real one in memory: what it has no room for waits, nothing is torn, all is there when it has."""
    with mounted(tmp_path / "small", "size=300k"):
        place = tmp_path / "small" / "meter"
        journal = Journal(place, SOURCE, segment_bytes=1 << 16, sync_interval=0.001)
        number = 0
        while not journal.append(event(number, 1000)).is_held:
            number += 1
        assert 100 < number < 400
        for later in range(number + 1, number + 50):
            assert journal.append(event(later, 1000)).is_held
        assert soon(lambda: "No space left on device" in caplog.text)
        before = payloads(place)
        assert ids(before) == expected(range(number))
        (estate,) = estate_paths(place)
        segment_path(estate, 1).unlink()
        segment_path(estate, 2).unlink()
        assert soon(lambda: journal.takes_events)
        entries, damages = contents(place)
        found = ids([entry.payload for entry in entries])
        assert found == expected(range(number + 50))[-len(found) :]
        assert damages == []
        journal.close()


class Serves:
    """A meter whose disk fails, and the statuses of its answers."""

    def __init__(self, place: Path, on_full: OnFull) -> None:
        exempt = route("/health", exemption=Exemption.FREE)
        rules = policy(rate(1000), routes=(exempt,))
        self.meter = Meter(replace(rules, events=EventRules(place, (), on_full=on_full)))

    def ask(self, path: str = "/") -> tuple[int, dict[str, str]]:
        admission = self.meter.admit(request(path, key="k"))
        if not admission.serves:
            refusal, fields, _ = self.meter.refuse(admission)
            return refusal.status, dict(fields)
        exchange = self.meter.exchange(admission, "GET")
        exchange.begin(200, None)
        self.meter.conclude(exchange)
        return 200, {}


def test_29_requests_that_nothing_can_record_are_denied(place: Path, disk: Disk) -> None:
    """By 503 with a time to come back, and none of them is charged; what is exempt is served; it recovers."""
    all_ = Serves(place, OnFull.DENY)
    code, calls = FAULTS["EROFS"]
    disk.fail(code, *calls)
    assert all_.ask()[0] == 200  # the one that finds out: it waits in memory
    status, fields = all_.ask()
    assert (status, fields["Retry-After"]) == (503, "1")
    assert all_.ask("/health")[0] == 200
    disk.heal()
    assert soon(lambda: all_.ask()[0] == 200)
    all_.meter.close()
    assert [event["data"]["status"] for event in map(json.loads, payloads(place))] == [200, 200]


def test_29_requests_that_nothing_can_record_are_counted(place: Path, disk: Disk) -> None:
    """They are served and counted in the store, whatever the disk does."""
    all_ = Serves(place, OnFull.COUNT)
    code, calls = FAULTS["ENOSPC"]
    disk.fail(code, *calls)
    assert [all_.ask()[0] for _ in range(50)] == [200] * 50
    usage = all_.meter.usage(request(key="k"))
    assert not isinstance(usage, Admission)
    disk.heal()
    all_.meter.close()
    assert len(payloads(place)) == 50


def hasty() -> float:
    """Give a clock that is quicker, as a journal measures itself once a second."""
    return 50 * time.monotonic()


class Bounded:
    """A journal of 2.5 MiB at most, and a sink that takes all or nothing."""

    def __init__(self, place: Path, *, retention: float = 0.0) -> None:
        self.journal = Journal(place, SOURCE, max_bytes=40 << 16, sync_interval=0.001, clock=hasty)
        self.sink = MemorySink()
        self.forwarder = Forwarder(
            self.journal, [self.sink], retention=retention, longest_backoff=0.05, clock=hasty
        )
        self.number = 0

    def append(self, count: int) -> None:
        for _ in range(count):
            self.journal.append(event(self.number, 2000))
            self.number += 1

    def fill(self) -> None:
        """Append until the journal takes no more; it measures itself once a second."""
        while self.journal.takes_events:
            self.append(20)
            time.sleep(0.001)

    def close(self) -> None:
        self.forwarder.close(10)
        self.journal.close()


def test_29_a_journal_at_its_size_pushes_back_and_recovers(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At 95 % it takes no more requests; what is under way is kept; all arrives when the sink takes it."""
    all_ = Bounded(place)
    all_.sink.answer = lambda batch: [Retry()] * len(batch)
    all_.fill()
    size = sum(path.stat().st_size for path in place.rglob("*.seg"))
    assert 0.9 * (40 << 16) < size <= 40 << 16
    assert soon(lambda: "of its max_size" in caplog.text)
    all_.append(10)
    all_.sink.answer = lambda batch: [Delivered()] * len(batch)
    assert soon(lambda: all_.journal.takes_events)
    all_.append(10)
    assert all_.sink.await_accepted(all_.number)
    assert sorted(set(ids(all_.sink.accepted))) == sorted(expected(range(all_.number)))
    assert all_.journal.lost == 0
    all_.close()


def test_29_what_is_delivered_goes_first_when_space_is_needed(place: Path) -> None:
    """A retention of an hour is kept while there is room, and never at the price of a request."""
    all_ = Bounded(place, retention=3600)
    all_.append(400)
    assert all_.sink.await_accepted(400)
    assert len(payloads(place)) == 400
    while all_.number < 3000:
        assert all_.journal.takes_events
        all_.append(100)
        assert all_.sink.await_accepted(all_.number)
    assert 500 < len(payloads(place)) < 1300
    assert all_.journal.lost == 0
    all_.close()


def test_30_no_descriptor_is_left(place: Path) -> None:
    """A real limit: what comes meanwhile waits, no directory is left behind, and all is written after."""

    def work() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        journal = Journal(place, SOURCE, sync_interval=0.001)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        for number in range(100):
            assert journal.append(event(number)).is_held
        time.sleep(0.1)  # for some attempts of the journal's thread
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert journal.wait(journal.append(event(100)), 30)
        os._exit(0)

    assert in_child(work) == 0
    assert ids(payloads(place)) == expected(range(101))
    assert len(estate_paths(place)) == 1


def test_30_a_read_only_file_system(tmp_path: Path) -> None:
    """A real one: what is appended waits until it can be written again."""
    with mounted(tmp_path / "small", "size=1m") as remount:
        journal = Journal(tmp_path / "small" / "meter", SOURCE, segment_bytes=1 << 16, sync_interval=0.001)
        remount("ro")
        for number in range(100):
            assert journal.append(event(number)).is_held
        assert not journal.takes_events
        remount("rw")
        assert soon(lambda: journal.takes_events)
        assert ids(payloads(tmp_path / "small" / "meter")) == expected(range(100))
        journal.close()


def test_31_a_truncated_tail_gives_an_exact_prefix(journal: Journal, place: Path) -> None:
    """Cut anywhere, what is left is the first events, whole and unflawed up to the cut."""
    for number in range(60):
        journal.append(event(number, 10 * number % 300))
    path = only_segment(place)
    whole, end = path.read_bytes(), contents(place)[0][-1].after.offset
    for cut in [0, 1, end - 1, end, *random.sample(range(end), 200)]:
        path.write_bytes(whole[:cut])
        entries, damages = contents(place)
        assert ids([entry.payload for entry in entries]) == expected(range(len(entries)))
        assert all(damage.flaw is Flaw.TORN and damage.end == cut for damage in damages)
        after = entries[-1].after.offset if entries else 0
        assert damages or not entries or after == cut


def test_32_a_flipped_bit_loses_at_most_one_event_and_is_reported(journal: Journal, place: Path) -> None:
    """Wherever the bit, no wrong event is read and no other is lost."""
    for number in range(60):
        journal.append(event(number, 10 * number % 300))
    path = only_segment(place)
    whole, end = path.read_bytes(), contents(place)[0][-1].after.offset
    for _ in range(200):
        at, bit = random.randrange(end), random.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        entries, damages = contents(place)
        found = ids([entry.payload for entry in entries])
        assert len(found) >= 59
        assert set(found) <= set(expected(range(60)))
        assert any(damage.start <= at < damage.end for damage in damages)


class Serving:
    """Threads that append, and in a strict way wait, until they are told to end."""

    def __init__(self, journal: Journal, *, waits: bool) -> None:
        self.appended: dict[str, float] = {}
        self.durable: set[str] = set()
        self._journal = journal
        self._waits = waits
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._serve, args=(10_000 * each,)) for each in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _serve(self, number: int) -> None:
        while not self._done.wait(0.001):
            at = self._journal.append(event(number, 200))
            self.appended[f"event-{number}"] = time.monotonic()
            if self._waits and self._journal.wait(at, 30):
                self.durable.add(f"event-{number}")
            number += 1


@pytest.mark.parametrize("durability", ["standard", "strict"])
def test_28_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str) -> None:
    """What was told to be durable is there; else what was appended before the last sync began."""
    root = tmp_path / "disk"
    root.mkdir()
    platter, chance = Platter(monkeypatch, root), random.Random(28)
    journal = Journal(root / "var" / "meter", SOURCE, segment_bytes=1 << 14)
    covered, sync = [0.0], journal.sync

    def timed() -> None:
        begun = time.monotonic()
        sync()
        covered.append(begun)

    monkeypatch.setattr(journal, "sync", timed)
    with Serving(journal, waits=durability == "strict") as serving:
        for turn in range(8):
            time.sleep(0.03)
            durable, appended, until = set(serving.durable), dict(serving.appended), covered[-1]
            platter.cut(tmp_path / f"left-{turn}", chance)
            found = set(ids(payloads(tmp_path / f"left-{turn}" / "var" / "meter")))
            assert durable - found == set()
            assert [name for name, at in appended.items() if at < until and name not in found] == []
    journal.close()
    assert len(serving.durable) > 20 or durability == "standard"
    assert len(covered) > 5


ADOPTER = """
import sys, time
from pathlib import Path
from meter_mw.journal import Forwarder, Journal
from meter_mw.sinks import FileSink
home = Path(sys.argv[1])
forwarder = Forwarder(Journal(home / "meter", "urn:meter-mw:tests"), [FileSink(home / "usage.jsonl")])
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
forwarder.start()
sys.stdin.readline()
forwarder.close(10)
"""


def test_33_two_who_adopt_one_orphan(tmp_path: Path) -> None:
    """One wins: every event of the dead process arrives once."""

    def work() -> None:
        journal = Journal(tmp_path / "meter", SOURCE)
        for number in range(500):
            journal.append(event(number))
        os._exit(0)

    assert in_child(work) == 0
    command = [sys.executable, "-c", ADOPTER, str(tmp_path)]
    usage = tmp_path / "usage.jsonl"
    with ExitStack() as stack:
        adopters = [stack.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=PIPE)) for _ in range(2)]
        for adopter in adopters:
            assert adopter.stdout is not None
            assert adopter.stdout.readline() == b"ready\n"
        for adopter in adopters:
            tell(adopter)
        assert soon(lambda: usage.exists() and len(usage.read_bytes().splitlines()) >= 500)
        for adopter in adopters:
            tell(adopter)
        assert [adopter.wait(30) for adopter in adopters] == [0, 0]
    assert ids(usage.read_bytes().splitlines()) == expected(range(500))


def test_33_an_adopter_gives_back_what_the_dead_had_allocated(place: Path) -> None:
    """A process that dies again and again does not fill the journal with space that nothing is in."""

    def work() -> None:
        journal = Journal(place, SOURCE, segment_bytes=1 << 20, sync_interval=0.001)
        spare = threading.Event()
        journal.subscribe(spare.set)
        journal.append(event(0, 600_000))
        spare.wait(30)
        os._exit(0)

    assert in_child(work) == 0
    (estate,) = estate_paths(place)
    assert (estate / "spare").stat().st_size + only_segment(place).stat().st_size == 2 << 20
    sink = MemorySink()
    sink.answer = lambda batch: [Retry(3600)] * len(batch)
    forwarder = Forwarder(Journal(place, SOURCE), [sink])
    forwarder.start()
    assert soon(lambda: bool(sink.sent))
    assert 600_000 < sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) < 700_000
    assert ids(payloads(place)) == ["event-0"]
    forwarder.close(0)


def tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def test_34_a_long_backlog_holds_up_no_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start reads as much of it as the first batch takes, however long it is; none of it is lost.

    A million events and their times are in the bench.
    """
    old = Journal(place, SOURCE, segment_bytes=1 << 20)
    for number in range(20_000):
        old.append(event(number, 300))
    old.close()
    read, pread = [0], os.pread

    def counted(fd: int, size: int, at: int) -> bytes:
        data = pread(fd, size, at)
        read[0] += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    journal, sink, first = Journal(place, SOURCE), MemorySink(), list[int]()

    def answer(batch: Sequence[bytes]) -> Sequence[Outcome]:
        first.append(read[0])
        return [Delivered()] * len(batch)

    sink.answer = answer
    forwarder = Forwarder(journal, [sink])
    forwarder.start()
    journal.append(event("new"))
    assert sink.await_accepted(20_001)
    assert first[0] < 2 << 20 < read[0]
    assert sorted(ids(sink.accepted)) == sorted([*expected(range(20_000)), "event-new"])
    forwarder.close(10)
    journal.close()
