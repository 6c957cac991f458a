"""In doubt: what may be at a destination that forgets ids is not sent blindly, whoever dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Journal, read_parked
from meter_mw.journal.bookmarks import Bookmark, BookmarkFile, Span
from meter_mw.journal.estates import estate_paths
from meter_mw.journal.horizons import has_passed
from meter_mw.journal.segments import Position
from meter_mw.sinks import Delivered, Outcome, Permanent, Retry, Unknown

from .conftest import expected, ids
from .scenes import Scene, always, for_event

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY = 86_400.0
HOUR = 3600.0

KILLED_WHILE_SENDING = """
import os, signal, sys, time
from pathlib import Path
from meter_mw.journal import Journal
from meter_mw.journal.courier import Courier
from meter_mw.journal.holdings import Holdings

class Sink:
    name, max_batch, horizon = "memory", 10, 86_400.0
    def send(self, batch):
        Path(sys.argv[2]).write_bytes(b"[" + b",".join(batch) + b"]")
        os.kill(os.getpid(), signal.SIGKILL)
    def close(self):
        pass

place, clock = Path(sys.argv[1]), lambda: 5000.0
journal = Journal(place, "urn:meter-mw:tests")
for number in range(25):
    journal.append(b'{"id": "event-%d"}' % number)
holdings = Holdings(journal, ["memory"], clock=clock, adopt_every=30, retention=0)
Courier(Sink(), holdings.supply("memory", durable=True), place, clock=clock, now=clock,
        random=lambda: 1.0, backoff=0.5, longest_backoff=60.0).step()
"""


@pytest.fixture
def scene(place: Path, journal: Journal) -> Scene:
    scene = Scene(place, journal)
    scene.sink.horizon = DAY
    return scene


def test_a_margin_is_kept(scene: Scene) -> None:
    """An hour before a day is over, and half of a horizon that is short."""
    assert has_passed(DAY, 0.0, 23 * HOUR)
    assert not has_passed(DAY, 0.0, 23 * HOUR - 1)
    assert has_passed(100.0, 0.0, 50.0)
    assert not has_passed(100.0, 0.0, 49.0)
    assert not has_passed(None, 0.0, 1e12)
    assert has_passed(0.0, 7.0, 7.0)


def test_a_clock_that_was_set_back_tells_nothing() -> None:
    """A moment that is still to come may be any time ago; one that is a little ahead is a clock's slack."""
    assert not has_passed(DAY, 60.0, 0.0)
    assert has_passed(DAY, 2 * HOUR, 0.0)
    assert not has_passed(None, 2 * HOUR, 0.0)


def test_beyond_the_horizon_nothing_is_sent_again(scene: Scene, place: Path) -> None:
    """What may be there is parked with the reason and the moment; what was never sent goes out."""
    scene.append(range(15))
    scene.sink.answer = always(Unknown("no answer"))
    first = scene.clock.now
    while scene.clock.now < first + 23 * HOUR:
        scene.clock.now += scene.courier.step() or 0
    attempts = len(scene.sink.sent)
    scene.sink.answer = always(Delivered())
    scene.run()
    assert ids(scene.sink.accepted) == expected(range(10, 15))
    assert all(batch == scene.sink.sent[0] for batch in scene.sink.sent[:attempts])
    parked = list(read_parked(place))
    assert ids([one.payload for one in parked]) == expected(range(10))
    assert {one.sent for one in parked} == {first}
    assert parked[0].reason == (
        "in doubt: sent at 1970-01-01T00:16:40+00:00, the destination forgets ids after 86400 s"
    )


def test_before_the_horizon_it_is_sent_again(scene: Scene, place: Path) -> None:
    """The destination knows the ids yet, so a second copy is harmless."""
    scene.append(range(5))
    scene.sink.answer = always(Unknown())
    scene.courier.step()
    scene.clock.now += 22 * HOUR
    scene.sink.answer = always(Delivered())
    scene.run()
    assert ids(scene.sink.accepted) == expected(range(5))
    assert list(read_parked(place)) == []


@pytest.mark.parametrize("first", [Retry(), Retry(1.0, "busy")])
def test_what_was_surely_not_taken_may_be_sent_whenever(scene: Scene, place: Path, first: Retry) -> None:
    """An outage of two days that says so puts nothing in doubt, in this process or the next."""
    scene.append(range(5))
    scene.sink.answer = always(first)
    scene.courier.step()
    scene.clock.now += 2 * DAY
    scene.begin()
    scene.sink.answer = always(Delivered())
    scene.run()
    assert ids(scene.sink.accepted) == expected(range(5))
    assert list(read_parked(place)) == []


def test_the_first_doubt_counts(scene: Scene, place: Path) -> None:
    """A later attempt that was surely not taken does not make good one of which nobody knows."""
    scene.append(range(5))
    scene.sink.answer = always(Unknown())
    scene.courier.step()
    scene.clock.now += 20 * HOUR
    scene.sink.answer = always(Retry())
    scene.courier.step()
    scene.clock.now += 4 * HOUR
    scene.sink.answer = always(Delivered())
    scene.run()
    assert scene.sink.accepted == []
    assert len(list(read_parked(place))) == 5


def test_only_what_is_in_doubt_is_parked(scene: Scene, place: Path) -> None:
    """Of a batch in which one answer was lost, one event; also after a restart."""
    scene.append(range(10))
    scene.sink.answer = for_event("event-4", Unknown())
    scene.courier.step()
    scene.clock.now += 2 * DAY
    scene.begin()
    scene.sink.answer = always(Delivered())
    scene.append(range(10, 12))
    scene.run()
    assert [one["id"] for one in map(json.loads, (p.payload for p in read_parked(place)))] == ["event-4"]
    assert len(scene.sink.accepted) == 9 + 2


def test_a_batch_is_the_same_after_a_restart(scene: Scene) -> None:
    """Events that came since do not join what may be there: a receiver that knows batches can tell."""
    scene.append(range(7))
    scene.sink.answer = always(Unknown())
    scene.courier.step()
    scene.append(range(7, 9))
    scene.begin()
    scene.sink.answer = always(Delivered())
    scene.run()
    assert [ids(batch) for batch in scene.sink.sent] == [expected(range(7))] * 2 + [expected(range(7, 9))]


def test_a_sink_that_takes_fewer_than_before_gets_no_more(scene: Scene) -> None:
    """A batch of a former setting comes in pieces, with their moments, and nothing is missing."""
    scene.append(range(12))
    scene.sink.answer = always(Unknown())
    scene.courier.step()
    scene.sink.max_batch = 4
    scene.begin()
    scene.courier.step()
    scene.begin()
    scene.sink.answer = always(Delivered())
    scene.run()
    assert {len(batch) for batch in scene.sink.sent[1:]} == {4, 2}
    assert sorted(ids(scene.sink.accepted)) == sorted(expected(range(12)))


def test_what_another_process_has_taken_over_is_let_go(scene: Scene) -> None:
    """Where the mandate was given up meanwhile, nothing is sent, and nothing written over."""
    scene.append(range(5))
    scene.sink.answer = always(Retry())
    scene.courier.step()
    before = scene.courier
    scene.holdings.release()
    scene.clock.now += 60
    scene.holdings.current = list  # type: ignore[method-assign]
    assert scene.supply.take(10) is None
    before.step()
    assert len(scene.sink.sent) == 1
    assert before.step() is None
    assert before.report.done == 0
    scene.begin()
    scene.sink.answer = always(Delivered())
    scene.run()
    assert ids(scene.sink.accepted) == expected(range(5))


def test_what_the_sink_has_is_not_sent_again_after_a_restart(scene: Scene) -> None:
    """Of a batch that was taken in part, the rest alone."""
    scene.append(range(10))
    failing = {"event-2", "event-3", "event-7"}

    def some(batch: Sequence[bytes]) -> Sequence[Outcome]:
        return [Unknown() if ids([payload])[0] in failing else Delivered() for payload in batch]

    scene.sink.answer = some
    scene.courier.step()
    scene.begin()
    scene.sink.answer = always(Delivered())
    scene.run()
    assert ids(scene.sink.sent[1]) == ["event-2", "event-3", "event-7"]
    assert len(scene.sink.sent) == 2


@pytest.mark.parametrize("later", [HOUR, 2 * DAY])
def test_kill_9_between_sending_and_the_cursor(
    scene: Scene, place: Path, tmp_path: Path, later: float
) -> None:
    """Whoever adopts the estate knows what may be there, sends it again as it was, or parks it."""
    seen = tmp_path / "seen.json"
    process = subprocess.run([sys.executable, "-c", KILLED_WHILE_SENDING, place, seen], check=False)
    assert process.returncode == -signal.SIGKILL
    assert [one["id"] for one in json.loads(seen.read_text())] == expected(range(10))
    scene.clock.now = 5000.0 + later
    scene.begin()
    scene.run()
    if later < DAY:
        assert [len(batch) for batch in scene.sink.sent] == [10, 10, 5]
        assert ids(scene.sink.accepted) == expected(range(25))
    else:
        assert ids(scene.sink.accepted) == expected(range(10, 25))
        assert {one.sent for one in read_parked(place)} == {5000.0}
        assert len(list(read_parked(place))) == 10
    assert estate_paths(place) == []


def test_without_a_note_nothing_is_sent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be remembered that events are sent, they wait; a sink that needs no note goes on."""

    def full(self: BookmarkFile, bookmark: Bookmark) -> None:
        raise OSError(28, "No space left on device")

    scene.append(range(3))
    monkeypatch.setattr(BookmarkFile, "save", full)
    assert scene.courier.step() == 0.5
    assert scene.sink.sent == []
    scene.sink.horizon = None
    scene.clock.now += 0.5
    scene.courier.step()
    assert ids(scene.sink.accepted) == expected(range(3))


def test_what_cannot_be_parked_is_not_sent_either(scene: Scene, place: Path) -> None:
    """In doubt, and without a place to say so, an event stays in hand."""
    scene.append(range(1))
    scene.sink.answer = always(Unknown())
    scene.courier.step()
    (place / "parked.jsonl").mkdir()
    scene.clock.now += 2 * DAY
    scene.courier.step()
    assert len(scene.sink.sent) == 1
    (place / "parked.jsonl").rmdir()
    scene.run()
    assert len(list(read_parked(place))) == 1
    assert len(scene.sink.sent) == 1


def test_an_event_in_doubt_that_is_refused_is_parked_as_refused(scene: Scene, place: Path) -> None:
    """The destination has said what it thinks of it: no doubt remains."""
    scene.append(range(1))
    scene.sink.answer = always(Unknown())
    scene.clock.now += scene.courier.step() or 0
    scene.sink.answer = always(Permanent("no such meter"))
    scene.run()
    (one,) = read_parked(place)
    assert (one.reason, one.sent) == ("no such meter", None)


NAMES = ["file:/var/x.jsonl", "http://h:80#1", "a" * 300, "a" * 301, "été"]


def test_a_standing_is_kept(tmp_path: Path) -> None:
    """Each sink has its own, whatever its name; what is in hand is there with its moments."""
    spans = (Span(Position(1, 5), Position(2, 9), None), Span(Position(2, 50), Position(2, 99), 17.5))
    for number, name in enumerate(NAMES):
        assert BookmarkFile(tmp_path, name).load() == Bookmark()
        BookmarkFile(tmp_path, name).save(Bookmark(Position(3, number), (spans,)))
    for number, name in enumerate(NAMES):
        loaded = BookmarkFile(tmp_path, name).load()
        assert loaded == Bookmark(Position(3, number), (spans,))
        assert loaded.cursor == Position(1, 5)


def test_a_durable_standing_is_on_the_disk_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a destination that forgets ids: before anything is sent, the note would outlive a power cut."""
    synced: list[str] = []
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(
            os, name, lambda fd, name=name: synced.append(f"{name} {Path(f'/proc/self/fd/{fd}').readlink()}")
        )
    file = BookmarkFile(tmp_path, "sink", durable=True)
    for offset in range(3):
        file.save(Bookmark(Position(1, offset)))
    first, second = sorted(tmp_path.iterdir(), reverse=True)
    assert synced == [
        f"fdatasync {first}",
        f"fsync {tmp_path}",
        f"fdatasync {second}",
        f"fsync {tmp_path}",
        f"fdatasync {first}",
    ]
    BookmarkFile(tmp_path, "other").save(Bookmark())
    assert len(synced) == 5


@pytest.mark.parametrize("damage", [b"", b"\0" * 200, b"00000000 [1]\n", b"deadbeef"])
def test_a_torn_standing_leaves_the_one_before(tmp_path: Path, damage: bytes) -> None:
    """Two files take turns; whichever is damaged, the other one counts, and the beginning after both."""
    file = BookmarkFile(tmp_path, "sink", durable=True)
    file.load()
    for offset in (1, 2, 3):
        file.save(Bookmark(Position(1, offset)))
    newest, older = sorted(tmp_path.iterdir(), key=lambda path: path.read_bytes()[9:], reverse=True)
    newest.write_bytes(damage)
    assert BookmarkFile(tmp_path, "sink").load().read_to == Position(1, 2)
    older.write_bytes(damage)
    assert BookmarkFile(tmp_path, "sink").load() == Bookmark()


def test_a_shorter_standing_ends_where_it_ends(tmp_path: Path) -> None:
    """What a longer one left behind it in the file is no part of it."""
    file = BookmarkFile(tmp_path, "sink")
    span = Span(Position(1, 0), Position(1, 9), 1.0)
    for consignments in (((span,) * 40,), (), ()):
        file.save(Bookmark(Position(7, 7), consignments))
    assert BookmarkFile(tmp_path, "sink").load() == Bookmark(Position(7, 7))
