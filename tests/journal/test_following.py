"""Following a living writer: its events up to the last whole frame, and two locks that keep two apart."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Journal
from meter_mw.journal.estates import Estate, estate_paths, segment_path
from meter_mw.journal.following import read_living, step_over, tail_of
from meter_mw.journal.frames import MAX_PAYLOAD, frame_size
from meter_mw.journal.holdings import Holdings
from meter_mw.journal.mandates import Mandate
from meter_mw.journal.segments import Position

from .conftest import SOURCE, Clock, MemorySink, event, expected, ids
from .scenes import Scene

if TYPE_CHECKING:
    from pathlib import Path

    from meter_mw.journal.reading import Run

BEGINNING = Position(0, 0)

WRITER = """
import sys
from pathlib import Path
from meter_mw.journal import Journal
journal = Journal(Path(sys.argv[1]), "urn:meter-mw:tests", segment_bytes=1 << 16, sync_interval=0.001)
number = 0
while line := sys.stdin.readline():
    for _ in range(int(line)):
        journal.append(b'{"id": "event-%d", "pad": "%s"}' % (number, b"x" * (number * 7919 % 3000)))
        number += 1
    print(number, flush=True)
"""


def read_all(estate: Path, start: Position = BEGINNING, count: int = 1 << 30) -> Run:
    return read_living(estate, start, count=count, size=1 << 30)


def ids_of(run: Run) -> list[str]:
    return ids([entry.payload for entry in run.entries])


@pytest.fixture
def writing(journal: Journal, place: Path) -> Path:
    for number in range(10):
        journal.append(event(number), b"a closing")
    (estate,) = estate_paths(place)
    return estate


def flip(estate: Path, at: int, text: bytes) -> None:
    fd = os.open(segment_path(estate, 1), os.O_WRONLY)
    os.pwrite(fd, text, at)
    os.close(fd)


def test_up_to_the_last_whole_frame(journal: Journal, writing: Path) -> None:
    """What follows is there at the next look, once."""
    run = read_all(writing)
    assert ids_of(run) == expected(range(10))
    assert read_all(writing, run.after).entries == ()
    journal.append(event(10))
    further = read_all(writing, run.after)
    assert ids_of(further) == ["event-10"]
    assert read_all(writing, further.after).after == further.after == tail_of(writing)


@pytest.mark.parametrize("length", [1, 7, 12, 30, 60])
def test_a_frame_that_is_being_written_is_not_damage(journal: Journal, writing: Path, length: int) -> None:
    """Half of it is not there yet: nothing is passed, and nothing said."""
    tail = tail_of(writing)
    journal.append(event(10))
    whole = segment_path(writing, 1).read_bytes()[tail.offset : tail_of(writing).offset]
    flip(writing, tail.offset + length, bytes(len(whole) - length))
    run = read_all(writing)
    assert (ids_of(run), run.damages) == (expected(range(10)), ())
    assert run.after <= tail
    flip(writing, tail.offset, whole)
    assert ids_of(read_all(writing, run.after)) == ["event-10"]


@pytest.mark.parametrize("where", [0, 4, 40])
def test_damage_before_a_whole_frame_is_damage(journal: Journal, writing: Path, where: int) -> None:
    """A flipped byte costs one event, which is reported, though its writer lives."""
    at = read_all(writing, count=4).after.offset
    flip(writing, at + frame_size(len(b"a closing")) + where, b"?")
    first = read_all(writing)
    rest = read_all(writing, first.after)
    assert ids_of(first) + ids_of(rest) == [one for one in expected(range(10)) if one != "event-4"]
    assert len(first.damages + rest.damages) == 1
    assert read_all(writing, max(first.after, rest.after)).entries == ()


def test_damage_at_the_end_is_told_when_more_follows(journal: Journal, writing: Path) -> None:
    """Until then it could be a frame that is being written."""
    before = read_all(writing, count=9).after
    flip(writing, before.offset + frame_size(len(b"a closing")), b"?")
    run = read_all(writing, before)
    assert (run.entries, run.damages) == ((), ())
    journal.append(event(10))
    run = read_all(writing, run.after)
    assert ids_of(run) == ["event-10"]
    assert len(run.damages) == 1


def test_across_segments_as_they_are_written(journal: Journal, place: Path) -> None:
    """At any moment, what was appended is read, in order and once."""
    found: list[str] = []
    at = BEGINNING
    for number in range(400):
        journal.append(event(number, number * 37 % 900))
        if number % 7 == 0:
            (estate,) = estate_paths(place)
            run = read_all(estate, at)
            found += ids_of(run)
            at = run.after
    found += ids_of(read_all(estate, at))
    assert found == expected(range(400))
    assert at.sequence > 2


def test_nothing_yet(tmp_path: Path) -> None:
    """An estate without a segment, and a segment without an event."""
    assert read_all(tmp_path).after == BEGINNING
    assert tail_of(tmp_path) == BEGINNING
    assert step_over(tmp_path / "none", 5) == (0, 5)
    (tmp_path / "00000001.seg").write_bytes(bytes(4096))
    assert read_all(tmp_path).entries == ()


def test_events_are_counted(journal: Journal, writing: Path) -> None:
    """By the lengths of frames, without their bytes; other records do not count."""
    events, end = step_over(segment_path(writing, 1), 0)
    assert (events, end) == (10, tail_of(writing).offset)
    third = read_all(writing, count=3).after.offset
    assert step_over(segment_path(writing, 1), third)[0] == 7
    assert step_over(segment_path(writing, 1), 0, third)[0] == 3
    journal.append(b"x" * MAX_PAYLOAD)
    assert sum(step_over(path, 0)[0] for path in writing.glob("*.seg")) == 11


def test_exactly_one_has_the_mandate(writing: Path) -> None:
    """Whether the writer lives or not; it is free again when it is left."""
    mandate = Mandate.take(writing)
    assert mandate is not None
    assert Mandate.take(writing) is None
    mandate.release()
    again = Mandate.take(writing)
    assert again is not None
    again.release()
    assert Mandate.take(writing / "gone") is None


def test_a_mandate_of_what_was_removed_is_none(writing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had it may have deleted the estate between the opening and the lock."""
    lock = fcntl.flock

    def removed_first(fd: int, how: int) -> None:
        (writing / "forwarder").unlink()
        lock(fd, how)

    monkeypatch.setattr("meter_mw.journal.mandates.fcntl.flock", removed_first)
    assert Mandate.take(writing) is None


class Daemon:
    """A forwarder of what others write, step by step, and the process that writes."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.clock = Clock()
        self.writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.scene = Scene(place, Journal(place, SOURCE))
        self.scene.clock = self.clock
        self.scene.living = True
        self.scene.begin()

    def write(self, count: int) -> None:
        assert self.writer.stdin is not None
        assert self.writer.stdout is not None
        self.writer.stdin.write(f"{count}\n")
        self.writer.stdin.flush()
        self.writer.stdout.readline()

    def run(self) -> list[str]:
        self.clock.now += 30
        self.scene.run()
        return ids(self.scene.sink.accepted)

    def kill(self) -> None:
        self.writer.kill()
        self.writer.communicate()


@pytest.fixture
def daemon(place: Path) -> Daemon:
    daemon = Daemon(place)
    yield daemon
    daemon.kill()


def test_a_living_writer_is_forwarded(daemon: Daemon, place: Path) -> None:
    """As it writes, and to the end after it was killed; then its estate is removed."""
    daemon.write(300)
    assert daemon.run() == expected(range(300))
    assert len(list(estate_paths(place)[0].glob("*.seg"))) <= 2
    daemon.write(50)
    assert daemon.run() == expected(range(350))
    daemon.write(50)
    daemon.kill()
    assert daemon.run() == expected(range(400))
    daemon.run()
    assert estate_paths(place) == []


def test_events_of_living_writers_gather(daemon: Daemon, place: Path) -> None:
    """One that writes and one that does not: after what is there nothing more lies ready."""
    idle = Journal(place, SOURCE)
    idle.append(event("idle"))
    daemon.write(5)
    daemon.clock.now += 30
    behind = []
    for _ in range(4):
        while daemon.scene.courier.step() is not None:
            behind.append(daemon.scene.courier.behind)
        daemon.write(5)
    assert behind == [True, False, False, False, False]
    idle.close()


def test_its_writer_keeps_its_lock(daemon: Daemon, place: Path) -> None:
    """Nobody adopts what is written and forwarded at the same time."""
    daemon.write(10)
    daemon.run()
    (path,) = estate_paths(place)
    assert Estate.lock(path) is None
    assert Mandate.take(path) is None


def test_who_comes_second_waits_for_the_mandate(daemon: Daemon, place: Path) -> None:
    """Of two daemons one forwards; when it leaves, the other goes on where it stood."""
    daemon.write(100)
    assert daemon.run() == expected(range(100))
    second = Holdings(
        Journal(place, SOURCE), ["memory"], clock=daemon.clock, adopt_every=30, retention=0, living=True
    )
    assert second.current() == []
    assert daemon.scene.holdings is not None
    daemon.scene.holdings.release()
    daemon.clock.now += 30
    ((holding, stop),) = second.current()
    assert stop is None
    assert holding.marks["memory"] == tail_of(holding.path)
    second.release()


def test_an_orphan_of_a_daemon_is_not_adopted_by_another(daemon: Daemon, place: Path) -> None:
    """Its writer is dead, but who forwards it is not."""
    daemon.write(10)
    daemon.scene.courier.step()
    daemon.kill()
    second = Holdings(Journal(place, SOURCE), ["memory"], clock=daemon.clock, adopt_every=30, retention=0)
    assert second.current() == []
    assert daemon.run() == expected(range(10))


def test_a_thread_leaves_its_own_to_a_daemon(place: Path, journal: Journal) -> None:
    """Where a daemon was first, the process does not forward; when the daemon is gone, it does."""
    clock = Clock()
    journal.append(event(1))
    theirs = Holdings(
        Journal(place, SOURCE), ["memory"], clock=clock, adopt_every=30, retention=0, living=True
    )
    assert len(theirs.current()) == 1
    ours = Holdings(journal, ["memory"], clock=clock, adopt_every=30, retention=0)
    assert ours.current() == []
    theirs.release()
    assert ours.current() == []
    clock.now += 30
    assert len(ours.current()) == 1
    assert theirs.current() == []
    ours.release()


def test_the_due_of_a_living_writer(daemon: Daemon) -> None:
    """What is there at the call; what comes later is not waited for."""
    daemon.write(25)
    daemon.clock.now += 30
    assert daemon.scene.holdings is not None
    arrived = daemon.scene.holdings.due()
    daemon.write(25)
    assert not arrived(0)
    for _ in range(3):
        daemon.scene.courier.step()
    assert arrived(0)
    assert isinstance(daemon.scene.sink, MemorySink)


def test_how_far_behind(daemon: Daemon) -> None:
    """Counted through what is in hand, what was read and what lies ahead."""
    daemon.write(325)
    daemon.scene.courier.step()
    daemon.clock.now += 30
    supply = daemon.scene.supply
    assert supply.backlog().events == 315
    daemon.run()
    assert supply.backlog().events == 0


def test_a_segment_that_is_delivered_while_it_is_synced_is_not_missed(
    journal: Journal, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Written to its end, forwarded and deleted in the middle of a sync: nothing was lost, all is well."""
    journal.append(event(0))
    (estate,) = estate_paths(place)
    real = os.fdatasync

    def meanwhile(fd: int) -> None:
        real(fd)
        monkeypatch.setattr(os, "fdatasync", real)
        while not segment_path(estate, 2).exists():
            journal.append(event(1, 9000))
        segment_path(estate, 1).unlink()

    monkeypatch.setattr(os, "fdatasync", meanwhile)
    journal.sync()
    end = journal.append(event(2))
    assert journal.wait(end, 30)
    assert estate_paths(place) == [estate]
    assert "deleted" not in caplog.text


def test_a_segment_that_is_cut_while_it_is_counted(writing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer may finish it at any moment: what it held counts, and nobody is killed by looking."""
    path, pread = segment_path(writing, 1), os.pread
    counted = step_over(path, 0)

    def cut(fd: int, size: int, at: int) -> bytes:
        os.truncate(path, counted[1])
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", cut)
    assert step_over(path, 0) == counted
    assert step_over(path, counted[1] + 8192) == (0, counted[1] + 8192)
