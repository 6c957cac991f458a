"""Closings, and waiting until an event is on the disk: what strict durability and replay stand on."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from meter_mw.audit.sealer import Sealer
from meter_mw.audit.seals import HmacKey
from meter_mw.journal import MAX_PAYLOAD, Journal, JournalError, Position, read_closings
from meter_mw.journal.durable import Durable
from meter_mw.journal.estates import estate_paths, opened, segment_path
from meter_mw.journal.frames import Frame, Kind, scan
from meter_mw.journal.segments import held

from .conftest import SOURCE, contents, event, expected, ids, payloads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def lazy(place: Path) -> Iterator[Journal]:
    """Give a journal that, left to itself, syncs after a minute."""
    journal = Journal(place, SOURCE, sync_interval=60)
    yield journal
    journal.close()


def closings(place: Path, start: Position | None = None) -> list[tuple[Position, bytes]]:
    return [each for estate in estate_paths(place) for each in read_closings(estate, start)]


def kinds(path: Path) -> list[Kind]:
    with opened(path) as fd:
        return [found.kind for found in scan(fd, chain=bytes(16)) if isinstance(found, Frame)]


def test_a_closing_travels_with_its_event(journal: Journal, place: Path) -> None:
    """Events are read without closings and closings without events, each where `append` said."""
    ends = [journal.append(event(number, 300), b"closing-%d" % number) for number in range(500)]
    ends.append(journal.append(b"", b"alone"))
    journal.append(event(500))
    assert ids(payloads(place)) == expected(range(501))
    found = closings(place)
    assert [payload for _, payload in found] == [*(b"closing-%d" % n for n in range(500)), b"alone"]
    assert [at for at, _ in found] == ends
    assert ends == sorted(ends)
    assert ends[-1].sequence > 1
    assert contents(place)[1] == []


def test_closings_are_read_from_a_position_on(journal: Journal, place: Path) -> None:
    """A reader that goes on from the last position it was given misses none and repeats none."""
    ends = [journal.append(event(number, 700), b"%d" % number) for number in range(300)]
    for place_in_line in (0, 1, 150, 299):
        rest = closings(place, ends[place_in_line])
        assert [payload for _, payload in rest] == [b"%d" % n for n in range(place_in_line + 1, 300)]


def test_an_event_and_its_closing_are_one_write(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill can leave neither without the other."""
    journal.append(event(0))
    writes: list[int] = []
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: writes.append(len(data)) or pwrite(fd, data, at))
    journal.append(event(1), b"closing")
    assert len(writes) == 1


def test_a_failed_write_leaves_nothing_of_either(
    lazy: Journal, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk takes the event whole and half of the closing, both are written anew, once."""
    lazy.append(event(0))
    pwrite, short = os.pwrite, [True]

    def cut(fd: int, data: bytes, at: int) -> int:
        if short and short.pop():
            return pwrite(fd, data[:-3], at)
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", cut)
    position = lazy.append(event(1), b"closing")
    assert (position.is_held, ids(payloads(place)), closings(place)) == (True, expected(range(1)), [])
    assert lazy.wait(position, 30)
    assert ids(payloads(place)) == expected(range(2))
    assert [payload for _, payload in closings(place)] == [b"closing"]
    assert contents(place)[1] == []


def test_sizes_of_closings(journal: Journal, place: Path) -> None:
    """One MiB of each is taken together; more, or nothing at all, is refused."""
    journal.append(b"x" * MAX_PAYLOAD, b"y" * MAX_PAYLOAD)
    with pytest.raises(JournalError, match="a closing takes 1 to 1048576 bytes, this one 1048577"):
        journal.append(b"x", b"y" * (MAX_PAYLOAD + 1))
    with pytest.raises(JournalError, match="an event takes 1 to 1048576 bytes, this one 0"):
        journal.append(b"", b"")
    assert len(payloads(place)) == len(closings(place)) == 1


def test_a_wait_is_served_at_once(lazy: Journal) -> None:
    """It does not sit out the interval, and what is on the disk already is known at once."""
    position = lazy.append(event(1))
    assert lazy.wait(position, 30)
    assert lazy.wait(position, 0)


def test_a_wait_ends_in_time(lazy: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk hangs, the one who waits is told no; the sync goes on."""
    go_on = threading.Event()
    fdatasync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: go_on.wait(30) and fdatasync(fd))
    position = lazy.append(event(1))
    assert not lazy.wait(position, 0.01)
    go_on.set()
    assert lazy.wait(position, 30)


def test_many_who_wait_share_a_sync(lazy: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred threads, whose events come during one sync, are all served by the next."""
    syncs, entered, go_on = [], threading.Event(), threading.Event()
    fdatasync = os.fdatasync

    def slow(fd: int) -> None:
        syncs.append(fd)
        entered.set()
        assert go_on.wait(30)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    first = threading.Thread(target=lambda: lazy.wait(lazy.append(event(0)), 30))
    first.start()
    assert entered.wait(30)
    positions = [lazy.append(event(number)) for number in range(1, 101)]
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda at=at: answers.append(lazy.wait(at, 30)))  # type: ignore[misc]
        for at in positions
    ]
    for thread in threads:
        thread.start()
    go_on.set()
    for thread in [first, *threads]:
        thread.join()
    assert answers == [True] * 100
    # The first's own, one for those who asked during it, and one more for who asked during that one.
    assert len(syncs) <= 4


def test_a_failed_sync_is_told_to_all_who_wait(lazy: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """And to those who ask later; what is appended afterwards goes elsewhere and is safe."""
    failing, fdatasync = [True], os.fdatasync

    def fail(fd: int) -> None:
        if failing:
            raise OSError(errno.EIO, "Input/output error")
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", fail)
    position = lazy.append(event(0))
    assert not lazy.wait(position, 30)
    failing.clear()
    after = lazy.append(event(1))
    assert lazy.wait(after, 30)
    assert not lazy.wait(position, 30)


def test_a_waiter_whose_loop_is_gone_holds_up_no_other() -> None:
    """Telling it fails, and the rest are told."""
    durable, told = Durable(), []

    def gone(answer: bool) -> None:
        raise RuntimeError("Event loop is closed")

    durable.when(Position(1, 10), gone)
    durable.when(Position(1, 20), told.append)
    durable.when(Position(1, 30), told.append)
    durable.reached(Position(1, 20), 0)
    assert told == [True]


def test_what_waits_in_memory_is_told_when_a_sync_has_covered_it() -> None:
    """Whatever else is on the disk by then."""
    durable, told = Durable(), []
    durable.when(held(1), told.append)
    durable.when(held(2), lambda _: told.append("second"))
    durable.reached(Position(1, 20), 0)
    assert told == []
    durable.reached(Position(1, 30), 1)
    assert told == [True]


def test_positions_never_go_back(journal: Journal, place: Path) -> None:
    """Whatever becomes of its directories, a process gives no position twice."""
    before = journal.append(event(0))
    journal.close()
    after = journal.append(event(1))
    assert after > before
    assert not journal.wait(Position(after.sequence, after.offset + 1), 0)
    assert journal.wait(after, 30)


def test_a_seal_is_the_last_frame_of_a_segment(place: Path) -> None:
    """It is linked, it does not disturb the link between segments, and readers of events pass it."""
    sealing = Sealer(place, SOURCE, HmacKey(b"a secret"))
    journal = Journal(place, SOURCE, segment_bytes=1 << 14, sealing=sealing)
    for number in range(100):
        journal.append(event(number, 500), b"closing")
    journal.close()
    (estate,) = estate_paths(place)
    numbers = range(1, len(list(estate.glob("*.seg"))) + 1)
    assert len(numbers) > 3
    for number in numbers:
        found = kinds(segment_path(estate, number))
        assert (found[0], found[-1], found.count(Kind.SEAL)) == (Kind.SEGMENT, Kind.SEAL, 1)
    entries, damages = contents(place)
    assert ids([entry.payload for entry in entries]) == expected(range(100))
    assert damages == []
    assert len(closings(place)) == 100
