"""The journal: what was appended is there, whatever is killed, cut, flipped or full."""

from __future__ import annotations

import os
import random
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
