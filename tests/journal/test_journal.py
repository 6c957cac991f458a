"""The journal: what was appended is there, whatever is killed, cut, flipped or full."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meter_mw.journal import MAX_PAYLOAD, Flaw, Journal, JournalError
from meter_mw.journal.estates import Estate, estate_paths, segment_numbers, segment_path

from .conftest import SOURCE, contents, event, expected, ids, payloads

if TYPE_CHECKING:
    from pathlib import Path

WRITER = """
import sys
from pathlib import Path
from meter_mw.journal import Journal
journal = Journal(Path(sys.argv[1]), "urn:meter-mw:tests", segment_bytes=1 << 14)
number = int(sys.argv[2])
while True:
    journal.append(b'{"id": "event-%d", "pad": "%s"}' % (number, b"x" * (number * 7919 % 6000)))
    sys.stdout.write(f"event-{number}\\n")
    sys.stdout.flush()
    number += 1
"""


def only_segment(place: Path) -> Path:
    (estate,) = estate_paths(place)
    (number,) = segment_numbers(estate)
    return segment_path(estate, number)


def test_what_was_appended_is_read_in_order(journal: Journal, place: Path) -> None:
    """Across segments, with nothing damaged and every link in place."""
    for number in range(1000):
        journal.append(event(number, number % 700))
    entries, damages = contents(place)
    assert ids([entry.payload for entry in entries]) == expected(range(1000))
    assert damages == []
    assert len({entry.path for entry in entries}) > 3


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=30))
def test_any_payload_is_read_back(tmp_path: Path, batch: list[bytes]) -> None:
    """The journal does not look into a payload, not even one that holds frames of its own."""
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    journal = Journal(tmp_path / "any", SOURCE, segment_bytes=4096)
    for payload in batch:
        journal.append(payload)
    assert payloads(tmp_path / "any") == batch
    journal.close()
    assert contents(tmp_path / "any")[1] == []


def test_sizes(journal: Journal, place: Path) -> None:
    """One MiB is taken though the segments are smaller; more, or nothing, is refused."""
    journal.append(b"x" * MAX_PAYLOAD)
    journal.append(b"y")
    for payload in (b"", b"x" * (MAX_PAYLOAD + 1)):
        with pytest.raises(JournalError, match="1 to 1048576 bytes"):
            journal.append(payload)
    assert [len(payload) for payload in payloads(place)] == [MAX_PAYLOAD, 1]


def test_nothing_is_opened_before_the_first_append(place: Path) -> None:
    """A journal that is only built makes no directory."""
    Journal(place, SOURCE).close()
    assert not place.exists()


def test_only_the_owner_reads(journal: Journal, place: Path) -> None:
    """Directories have mode 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        journal.append(event(1))
    finally:
        os.umask(before)
    assert {place.stat().st_mode & 0o777, only_segment(place).parent.stat().st_mode & 0o777} == {0o700}
    assert only_segment(place).stat().st_mode & 0o777 == 0o600


def test_threads_share_a_journal(journal: Journal, place: Path) -> None:
    """Eight threads lose nothing and break no link."""

    def write(base: int) -> None:
        for number in range(base, base + 300):
            journal.append(event(number, 100))

    threads = [threading.Thread(target=write, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries, damages = contents(place)
    assert damages == []
    assert sorted(ids([e.payload for e in entries])) == sorted(
        f"event-{1000 * n + i}" for n in range(8) for i in range(300)
    )


def test_kill_9_of_a_writer_loses_no_appended_event(place: Path) -> None:
    """Killed at random moments, every event whose append returned is there, and nothing else is damaged."""
    acknowledged: set[str] = set()
    for turn in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(place), str(turn * 1_000_000)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        seen = [writer.stdout.readline()]
        deadline = time.monotonic() + random.uniform(0.0, 0.05)  # the moment is the test
        while time.monotonic() < deadline:
            seen.append(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        seen += writer.stdout.readlines()
        writer.wait()
        writer.stdout.close()
        acknowledged |= {line.decode().strip() for line in seen if line.endswith(b"\n")}
    entries, damages = contents(place)
    found = ids([entry.payload for entry in entries])
    assert acknowledged - set(found) == set()
    assert len(found) == len(set(found)) <= len(acknowledged) + 8
    assert [damage for damage in damages if damage.flaw is not Flaw.TORN] == []


def test_a_truncated_tail_gives_an_exact_prefix(journal: Journal, place: Path) -> None:
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


def test_a_flipped_bit_loses_at_most_one_event_and_is_reported(journal: Journal, place: Path) -> None:
    """Wherever the bit, no wrong event is read and no other is lost."""
    for number in range(60):
        journal.append(event(number, 10 * number % 300))
    path = only_segment(place)
    whole, end = path.read_bytes(), contents(place)[0][-1].after.offset
    for _ in range(300):
        at, bit = random.randrange(end), random.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        entries, damages = contents(place)
        found = ids([entry.payload for entry in entries])
        assert len(found) >= 59
        assert set(found) <= set(expected(range(60)))
        assert any(damage.start <= at < damage.end for damage in damages)


def test_a_flip_in_the_unused_tail_is_reported(journal: Journal, place: Path) -> None:
    """What is not zero behind the end of the log is reported and loses nothing."""
    journal.append(event(1))
    path = only_segment(place)
    whole = path.read_bytes()
    path.write_bytes(whole[:40_000] + b"\x01" + whole[40_001:])
    entries, damages = contents(place)
    assert len(entries) == 1
    assert [damage.flaw for damage in damages] == [Flaw.TORN]


def test_a_hole_in_the_middle_is_passed(journal: Journal, place: Path) -> None:
    """Zeros where a page was never written hide nothing behind them."""
    for number in range(100):
        journal.append(event(number, 200))
    path = only_segment(place)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    entries, damages = contents(place)
    assert ids([entries[-1].payload]) == ["event-99"]
    assert [damage.flaw for damage in damages] == [Flaw.BROKEN]


def test_a_removed_event_shows(journal: Journal, place: Path) -> None:
    """An event cut out cleanly, its neighbours intact, breaks the running hash."""
    for number in range(10):
        journal.append(event(number))
    path = only_segment(place)
    gone = contents(place)[0][4]
    whole = path.read_bytes()
    path.write_bytes(whole[: gone.position.offset] + whole[gone.after.offset :])
    entries, damages = contents(place)
    assert len(entries) == 9
    assert [damage.flaw for damage in damages] == [Flaw.UNLINKED]


def test_a_removed_segment_shows(journal: Journal, place: Path) -> None:
    """A missing segment, and a segment without its end, are reported though all that is left is intact."""
    for number in range(500):
        journal.append(event(number, 500))
    (estate,) = estate_paths(place)
    first = segment_path(estate, 1)
    last = [entry for entry in contents(place)[0] if entry.path == first][-1]
    first.write_bytes(first.read_bytes()[: last.position.offset])
    assert [damage.flaw for damage in contents(place)[1]] == [Flaw.UNLINKED]
    segment_path(estate, 2).unlink()
    assert [damage.flaw for damage in contents(place)[1]] == [Flaw.MISSING]


def test_a_symlinked_segment_is_refused(journal: Journal, place: Path, tmp_path: Path) -> None:
    """A link in place of a segment or of an estate is not followed."""
    for number in range(500):
        journal.append(event(number, 500))
    (estate,) = estate_paths(place)
    segment_path(estate, 1).rename(tmp_path / "elsewhere")
    segment_path(estate, 1).symlink_to(tmp_path / "elsewhere")
    entries, damages = contents(place)
    assert damages[0].flaw is Flaw.REFUSED
    assert all(entry.position.sequence > 1 for entry in entries)
    (place / "p00000000000000-1-00000000").symlink_to(estate)
    assert estate_paths(place) == [estate]
    assert Estate.lock(place / "p00000000000000-1-00000000") is None


def test_a_named_pipe_is_refused(place: Path) -> None:
    """What is no regular file blocks no reader."""
    estate = place / "p00000000000000-1-00000000"
    estate.mkdir(parents=True)
    os.mkfifo(segment_path(estate, 1))
    assert [damage.flaw for damage in contents(place)[1]] == [Flaw.REFUSED]


def in_child(work: object) -> int:
    """Run a function in a forked child and return how it went."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()  # type: ignore[operator]
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_write_cut_short_leaves_no_gap(place: Path) -> None:
    """The kernel takes half an event: the append says so, and all that is appended later is read."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        journal = Journal(place, SOURCE, segment_bytes=1 << 16, sync_interval=30)
        journal.append(event(0, 1000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        for _ in range(3):
            with pytest.raises(JournalError):
                journal.append(event("lost", 5000))
        journal.append(event(1))
        with pytest.raises(JournalError):
            journal.append(event("lost", 5000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        for number in range(2, 200):
            journal.append(event(number, 400))
        journal.close()

    assert in_child(work) == 0
    entries, damages = contents(place)
    assert ids([entry.payload for entry in entries]) == expected(range(200))
    assert damages == []


def test_no_room_for_a_segment(place: Path) -> None:
    """When no segment can be allocated, append says so each time, leaves no file, and recovers."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        journal = Journal(place, SOURCE, segment_bytes=1 << 16)
        for _ in range(3):
            with pytest.raises(JournalError, match="no new segment"):
                journal.append(event(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        journal.append(event(1))
        os._exit(0)

    assert in_child(work) == 0
    assert ids(payloads(place)) == ["event-1"]
    assert segment_numbers(estate_paths(place)[0]) == [1]


def test_a_full_disk(tmp_path: Path) -> None:
    """On a real full file system: errors while it is full, nothing torn, everything after."""
    mount = tmp_path / "small"
    mount.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "none", mount], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no tmpfs can be mounted here")
    try:
        filler = mount / "filler"
        journal = Journal(mount / "meter", SOURCE, segment_bytes=1 << 16, sync_interval=30)
        kept = []
        for number in range(1000):
            try:
                journal.append(event(number, 1000))
                kept.append(f"event-{number}")
            except JournalError:
                break
        assert 100 < len(kept) < 400
        assert not filler.exists()
        (estate,) = estate_paths(mount / "meter")
        segment_path(estate, 1).unlink()
        journal.append(event("after"))
        entries, damages = contents(mount / "meter")
        found = ids([entry.payload for entry in entries])
        assert found == [*kept[-(len(found) - 1) :], "event-after"]
        assert damages == []
        journal.close()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_a_fork_after_use_gives_the_child_segments_of_its_own(journal: Journal, place: Path) -> None:
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


def test_forks_beside_busy_threads(journal: Journal, place: Path) -> None:
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


def test_a_child_does_not_keep_its_parents_lock(place: Path) -> None:
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


def test_a_live_journal_is_locked(journal: Journal, place: Path) -> None:
    """No one can lock the estate of a process that lives; after close, anyone."""
    journal.append(event(1))
    (path,) = estate_paths(place)
    assert Estate.lock(path) is None
    journal.close()
    estate = Estate.lock(path)
    assert estate is not None
    estate.release()


def test_close_gives_back_space_and_append_begins_anew(journal: Journal, place: Path) -> None:
    """A closed segment is as long as its events, and a late event is not lost."""
    journal.append(event(1))
    journal.close()
    assert only_segment(place).stat().st_size < 1000
    journal.append(event(2))
    assert sorted(ids(payloads(place))) == ["event-1", "event-2"]
    assert len(estate_paths(place)) == 2


def test_sync_reaches_the_listeners(journal: Journal) -> None:
    """Listeners hear of an append within an interval, in another thread."""
    heard = threading.Event()
    journal.subscribe(heard.set)
    journal.append(event(1))
    assert heard.wait(10)
    journal.sync()


def test_a_spare_segment_is_ready(place: Path) -> None:
    """Past its half, a segment has its successor allocated, and no spare is left behind."""
    journal = Journal(place, SOURCE, segment_bytes=1 << 14, sync_interval=0.001)
    beaten = threading.Event()
    journal.subscribe(beaten.set)
    journal.append(event(0, 9000))
    assert beaten.wait(10)
    (estate,) = estate_paths(place)
    assert (estate / "spare").stat().st_size == 1 << 14
    journal.append(event(1, 9000))
    assert not (estate / "spare").exists()
    journal.close()
    assert ids(payloads(place)) == ["event-0", "event-1"]
    assert sorted(path.name for path in estate.iterdir()) == ["00000001.seg", "00000002.seg"]


def test_a_deleted_directory_is_noticed(journal: Journal, place: Path) -> None:
    """Someone deletes the journal under a running process: what follows is kept again."""
    journal.append(event(1))
    journal.sync()
    shutil.rmtree(place)
    journal.append(event(2))
    journal.sync()
    journal.append(event(3))
    assert ids(payloads(place)) == ["event-3"]
