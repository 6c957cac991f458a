"""Estates: who has the segments of a dead process, and where each sink stands in them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meter_mw.journal import Journal
from meter_mw.journal.estates import Estate, estate_paths, segment_numbers
from meter_mw.journal.holdings import Holdings

from .conftest import SOURCE, Clock, event

ADOPTER = """
import sys
from pathlib import Path
from meter_mw.journal.estates import Estate, estate_paths
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
print([bool(Estate.lock(path)) for path in estate_paths(Path(sys.argv[1]))].count(True), flush=True)
sys.stdin.readline()
"""


def orphan(place: Path, *, source: str = SOURCE, count: int = 3) -> Path:
    journal = Journal(place, source)
    for number in range(count):
        journal.append(event(number))
    journal.close()
    return estate_paths(place)[-1]


def holdings(journal: Journal, clock: Clock, *, retention: float = 0.0) -> Holdings:
    return Holdings(journal, ["a", "b"], clock=clock, adopt_every=30, retention=retention)


def test_two_processes_and_one_orphan(place: Path) -> None:
    """Of processes that look at the same moment, exactly one adopts."""
    orphan(place)
    adopters = [
        subprocess.Popen(
            [sys.executable, "-c", ADOPTER, str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for adopter in adopters:
        assert adopter.stdout is not None
        adopter.stdout.readline()
    for adopter in adopters:
        assert adopter.stdin is not None
        adopter.stdin.write("go\n")
        adopter.stdin.flush()
    wins = [int(adopter.stdout.readline()) for adopter in adopters if adopter.stdout]
    for adopter in adopters:
        adopter.communicate("done\n")
    assert sorted(wins) == [0, 0, 1]


def test_adopts_what_its_source_left(place: Path, journal: Journal) -> None:
    """An orphan of the same source is adopted, one of another service is left alone."""
    mine, other = orphan(place), orphan(place, source="urn:meter-mw:other")
    held = holdings(journal, Clock()).current()
    assert [holding.path for holding, _ in held] == [mine]
    stranger = Estate.lock(other)
    assert stranger is not None
    stranger.release()


def test_looks_for_orphans_now_and_then(place: Path, journal: Journal) -> None:
    """A process that dies later is found at the next look."""
    clock = Clock()
    mine = holdings(journal, clock)
    assert mine.current() == []
    orphan(place)
    clock.now += 29
    assert mine.current() == []
    clock.now += 1
    assert len(mine.current()) == 1
    mine.release()


def test_an_empty_orphan_is_removed(place: Path, journal: Journal) -> None:
    """A process that died before its first segment leaves nothing behind."""
    Estate.create(place, 1).release()
    assert holdings(journal, Clock()).current() == []
    assert estate_paths(place) == []


def test_a_segment_goes_when_every_sink_has_it(place: Path, journal: Journal) -> None:
    """One sink at the end is not enough; the last to arrive empties the estate."""
    orphan(place)
    mine = holdings(journal, Clock())
    ((holding, end),) = mine.current()
    mine.passed(holding, "a", end)
    assert segment_numbers(holding.path) == [1]
    mine.passed(holding, "b", end)
    assert estate_paths(place) == []
    assert mine.current() == []


def test_retention_keeps_a_segment(place: Path, journal: Journal) -> None:
    """With a retention, a delivered segment stays until it is that old."""
    path = orphan(place)
    clock = Clock()
    mine = holdings(journal, clock, retention=3600)
    ((holding, end),) = mine.current()
    for sink in ("a", "b"):
        mine.passed(holding, sink, end)
    assert segment_numbers(holding.path) == [1]
    before = time.time() - 3601
    os.utime(path / "00000001.seg", (before, before))
    clock.now += 30
    mine.current()
    assert estate_paths(place) == []


def test_an_estate_of_somebody_else_is_not_taken(place: Path) -> None:
    """Segments that another user planted are not forwarded as ours."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    path = orphan(place)
    os.chown(path, 12345, 12345)
    place.parent.parent.chmod(0o777)
    child = os.fork()
    if child == 0:
        os.seteuid(54321)
        os._exit(0 if Estate.lock(path) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_newborn_that_another_process_removes_is_born_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found empty between its making and its opening, it was taken for an orphan's: no append fails."""
    real, removed = os.open, []

    def removed_first(path: object, *arguments: int) -> int:
        newborn = Path(str(path))
        if not removed and newborn.parent == place:
            removed.append(newborn)
            newborn.rmdir()
        return real(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", removed_first)
    estate = Estate.create(place, 1)
    assert removed != [estate.path]
    assert estate_paths(place) == [estate.path]
    estate.release()


def test_an_estate_that_goes_while_it_is_looked_at_is_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look for orphans goes on past what another process removes meanwhile."""
    mine = orphan(place)
    gone = place / mine.name.replace("-", "-9", 1)
    listed = type(place).iterdir
    monkeypatch.setattr(type(place), "iterdir", lambda self: [*listed(self), gone])
    assert estate_paths(place) == [mine]
