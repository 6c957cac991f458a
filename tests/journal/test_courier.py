"""A courier, step by step under a clock that the test moves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Journal, read_parked
from meter_mw.journal.courier import LONGEST_ORDER
from meter_mw.journal.estates import estate_paths, segment_path
from meter_mw.journal.supply import Backlog
from meter_mw.sinks import Delivered, Duplicate, Outcome, Permanent, Retry, Unknown

from .conftest import SOURCE, event, expected, ids
from .scenes import Scene, always, for_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@pytest.fixture
def scene(place: Path, journal: Journal) -> Scene:
    return Scene(place, journal)


def test_batches_in_order(scene: Scene) -> None:
    """Everything once, in order, in batches no larger than the sink takes."""
    scene.append(range(25))
    scene.run()
    assert [len(batch) for batch in scene.sink.sent] == [10, 10, 5]
    assert ids(scene.sink.accepted) == expected(range(25))
    scene.append(range(25, 27))
    scene.run()
    assert ids(scene.sink.accepted) == expected(range(27))


def test_it_knows_whether_a_batch_left_more_behind(scene: Scene) -> None:
    """So that its thread goes on at once after a full batch, and lets events gather after a smaller one."""
    scene.append(range(25))
    behind = []
    for _ in range(3):
        scene.courier.step()
        behind.append(scene.courier.behind)
    assert behind == [True, True, False]


def test_events_gather_when_every_estate_has_had_its_turn(scene: Scene, place: Path) -> None:
    """Of three estates each is served once, and the last says that nothing more lay ready."""
    for first in (100, 200):
        old = Journal(place, SOURCE)
        for number in range(first, first + 15):
            old.append(event(number))
        old.close()
    scene.append(range(5))
    behind = []
    while scene.courier.step() is not None:
        behind.append(scene.courier.behind)
    assert [len(batch) for batch in scene.sink.sent] == [5, 10, 10, 5, 5]
    assert behind == [True, True, True, True, False]


def test_a_batch_is_bounded_in_bytes(scene: Scene) -> None:
    """Large events travel in smaller batches."""
    for number in range(4):
        scene.journal.append(event(number, 600_000))
    scene.run()
    assert [len(batch) for batch in scene.sink.sent] == [2, 2]


def test_jitter_is_full(scene: Scene) -> None:
    """The wait is anything from nothing to the bound."""
    scene.append(range(1))
    scene.sink.answer = always(Unknown())
    scene.chance = 0.25
    assert scene.courier.step() == 0.125
    scene.clock.now += 0.125
    scene.chance = 0.0
    assert scene.courier.step() == 0.0


def test_retry_after_is_obeyed(scene: Scene) -> None:
    """No attempt before the moment, not even in a hurry; with jitter never less."""
    scene.append(range(1))
    scene.sink.answer = always(Retry(17.0))
    scene.chance = 0.0
    assert scene.courier.step() == 17.0
    scene.clock.now += 16.9
    scene.courier.hurry()
    assert scene.courier.step() == pytest.approx(0.1)
    assert len(scene.sink.sent) == 1
    scene.clock.now += 0.2
    scene.chance = 1.0
    assert scene.courier.step() == pytest.approx(17.5)
    assert len(scene.sink.sent) == 2


def test_an_absurd_retry_after_is_bounded(scene: Scene) -> None:
    """A destination that asks for a year is asked again after an hour."""
    scene.append(range(1))
    scene.chance = 0.0
    scene.sink.answer = always(Retry(3e7))
    assert scene.courier.step() == LONGEST_ORDER


def test_a_hurry_ends_our_own_wait(scene: Scene) -> None:
    """A flush tries at once where nobody asked for the wait."""
    scene.append(range(1))
    scene.sink.answer = always(Retry())
    assert scene.courier.step() == 0.5
    scene.courier.hurry()
    assert scene.courier.step() == 1.0
    assert len(scene.sink.sent) == 2


def test_a_poison_event_is_parked(scene: Scene, place: Path) -> None:
    """It is kept with its reason, and the rest is sent once."""
    scene.append(range(25))
    scene.sink.answer = for_event("event-7", Permanent("no such meter"))
    scene.run()
    assert ids(scene.sink.accepted) == [one for one in expected(range(25)) if one != "event-7"]
    (parked,) = read_parked(place)
    assert (parked.sink, parked.reason, parked.payload) == ("memory", "no such meter", event(7))
    assert (place / "parked.jsonl").stat().st_mode & 0o777 == 0o600


def test_poison_that_is_no_text_is_parked_whole(scene: Scene, place: Path) -> None:
    """Bytes that no JSON file can hold come back as they were."""
    scene.journal.append(b"\xff\x00")
    scene.sink.answer = always(Permanent("not JSON"))
    scene.run()
    assert [parked.payload for parked in read_parked(place)] == [b"\xff\x00"]


def test_what_cannot_be_parked_waits(scene: Scene, place: Path) -> None:
    """Without a place for it, a poison event is not passed."""
    scene.append(range(2))
    (place / "parked.jsonl").mkdir()
    scene.sink.answer = for_event("event-0", Permanent("bad"))
    assert scene.courier.step() == 0
    assert scene.courier.step() == 0.5
    (place / "parked.jsonl").rmdir()
    scene.run()
    assert [parked.payload for parked in read_parked(place)] == [event(0)]
    assert ids(scene.sink.accepted) == ["event-1"]


def test_one_event_that_waits_holds_up_no_other(scene: Scene) -> None:
    """It waits by itself, others go on, and whoever comes after a crash sends it alone."""
    scene.append(range(25))
    scene.sink.answer = for_event("event-3", Retry())
    for _ in range(6):
        scene.clock.now += scene.courier.step() or 0
    assert ids(scene.sink.accepted) == [one for one in expected(range(25)) if one != "event-3"]
    scene.begin()
    scene.sink.accepted.clear()
    scene.sink.answer = always(Delivered())
    scene.run()
    assert ids(scene.sink.accepted) == ["event-3"]


def test_the_trouble_of_one_event_is_not_that_of_the_sink(scene: Scene) -> None:
    """While others are accepted, only the event that fails again waits longer and longer."""
    scene.append(range(10))
    scene.sink.answer = for_event("event-3", Retry())
    assert scene.courier.step() == 0
    for turn, bound in enumerate([0.5, 1.0, 2.0, 4.0]):
        scene.append(range(100 + turn, 101 + turn))
        assert scene.courier.step() == 0
        assert scene.courier.step() == bound
        assert scene.courier.takes_news
        assert scene.courier.report.failures == 0
        scene.clock.now += bound
        assert scene.courier.step() == 0


def test_a_sink_that_takes_nothing_waits_for_its_time(scene: Scene) -> None:
    """New events do not make it come sooner, and each further failure counts."""
    scene.append(range(3))
    scene.sink.answer = always(Retry(None, "busy"))
    for failures in (1, 2, 3):
        scene.clock.now += scene.courier.step() or 0
        scene.append(range(failures * 10, failures * 10 + 2))
        assert (scene.courier.report.failures, scene.courier.report.error) == (failures, "busy")
    assert scene.courier.step() == 4.0
    scene.courier.step()
    assert not scene.courier.takes_news


def dated(number: int, at: float) -> bytes:
    moment = datetime.fromtimestamp(at, UTC).isoformat()
    return json.dumps({"id": f"event-{number}", "time": moment}).encode()


def test_old_events_are_an_error(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """After five minutes, and each time that the age has doubled; anew after a recovery."""
    scene.journal.append(dated(0, scene.clock.now))
    scene.sink.answer = always(Retry(None, "busy"))
    begin = scene.clock.now
    told = []
    while scene.clock.now < begin + 3600:
        caplog.clear()
        scene.clock.now += scene.courier.step() or 0
        if "1 events wait" in caplog.text:
            told.append(scene.clock.now - begin)
            assert "'busy'" in caplog.text
    assert len(told) == 4
    for at, threshold in zip(told, (300, 600, 1200, 2400), strict=True):
        assert threshold <= at < threshold + 2 * 60 + 5
    scene.sink.answer = always(Delivered())
    scene.run()
    assert scene.courier.report.backlog == Backlog()
    scene.journal.append(dated(1, scene.clock.now - 301))
    scene.clock.now += 60
    caplog.clear()
    scene.sink.answer = always(Retry(None, "busy"))
    scene.courier.step()
    assert "the oldest for 361 s" in caplog.text


def test_how_far_behind(scene: Scene, place: Path) -> None:
    """What is in hand, ahead, and left by the dead; the oldest of them all."""
    dead = Journal(place, SOURCE)
    dead.append(dated(0, 77.0))
    dead.close()
    for number in range(25):
        scene.journal.append(dated(number, 500.0 + number))
    scene.sink.answer = always(Retry())
    scene.courier.step()
    assert scene.courier.report.backlog == Backlog(26, 77.0)
    scene.sink.answer = always(Delivered())
    scene.run()
    assert scene.courier.report.backlog == Backlog()
    assert scene.courier.report.done == 26


def test_an_event_without_a_time_has_no_age(scene: Scene) -> None:
    """It counts all the same."""
    scene.append(range(3))
    scene.sink.answer = always(Retry())
    scene.courier.step()
    assert scene.courier.report.backlog == Backlog(3, None)


def test_duplicates_are_delivered(scene: Scene) -> None:
    """An event that was there already is not sent again."""
    scene.append(range(3))
    scene.sink.answer = always(Duplicate())
    scene.run()
    assert len(scene.sink.sent) == 1


def test_an_unknown_outcome_is_sent_again(scene: Scene) -> None:
    """A lost answer leads to the same events by the same ids."""
    scene.append(range(3))
    scene.sink.answer = always(Unknown())
    scene.clock.now += scene.courier.step() or 0
    scene.sink.answer = always(Delivered())
    scene.run()
    assert scene.sink.sent[0] == scene.sink.sent[1]


@pytest.mark.parametrize("answer", [lambda batch: [], lambda batch: 1 / 0])
def test_a_sink_that_misbehaves_loses_nothing(
    scene: Scene, answer: Callable[[Sequence[bytes]], Sequence[Outcome]]
) -> None:
    """An exception, or the wrong number of outcomes, is a failure like others."""
    scene.append(range(3))
    scene.sink.answer = answer
    assert scene.courier.step() == 0.5
    scene.clock.now += 0.5
    scene.sink.answer = always(Delivered())
    scene.run()
    assert ids(scene.sink.accepted) == expected(range(3))


def test_a_crash_before_the_cursor_repeats_and_loses_nothing(scene: Scene) -> None:
    """A courier that begins anew goes on behind what was delivered."""
    scene.append(range(15))
    scene.courier.step()
    scene.begin()
    scene.run()
    assert ids(scene.sink.accepted) == expected(range(15))


def test_segments_go_as_they_are_delivered(scene: Scene, place: Path) -> None:
    """Of a long journal only the segment that is being written stays, and after close nothing."""
    for number in range(1000):
        scene.journal.append(event(number, 300))
    scene.run()
    (estate,) = estate_paths(place)
    assert len(list(estate.glob("*.seg"))) == 1
    scene.journal.close()
    assert estate_paths(place) == []
    assert len(scene.sink.accepted) == 1000


def test_undelivered_events_survive_close(scene: Scene, place: Path) -> None:
    """What the sink did not take is there for the next process, which leaves an empty directory."""
    scene.append(range(15))
    scene.courier.step()
    scene.journal.close()
    scene.begin()
    scene.run()
    assert ids(scene.sink.accepted) == expected(range(15))
    assert estate_paths(place) == []


def test_damage_is_passed_and_said(scene: Scene, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken event is reported, and those around it are delivered."""
    scene.append(range(15))
    scene.journal.close()
    (estate,) = estate_paths(place)
    path = segment_path(estate, 1)
    path.write_bytes(path.read_bytes().replace(b"event-7", b"event-8"))
    scene.begin()
    scene.run()
    assert ids(scene.sink.accepted) == [one for one in expected(range(15)) if one != "event-7"]
    assert "a frame is broken" in caplog.text


def test_a_refused_segment_is_passed_and_said(
    scene: Scene, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A symbolic link among the segments is not read, and delivery goes on behind it."""
    for number in range(300):
        scene.journal.append(event(number, 500))
    scene.journal.close()
    (estate,) = estate_paths(place)
    segment_path(estate, 1).rename(tmp_path / "elsewhere")
    segment_path(estate, 1).symlink_to(tmp_path / "elsewhere")
    scene.begin()
    scene.run()
    assert 0 < len(scene.sink.accepted) < 300
    assert ids(scene.sink.accepted)[-1] == "event-299"
    assert "not a regular file" in caplog.text
    assert (tmp_path / "elsewhere").exists()


def test_own_and_adopted_take_turns(scene: Scene, place: Path) -> None:
    """A large inheritance does not hold up what is new."""
    old = Journal(place, SOURCE)
    for number in range(100, 200):
        old.append(event(number))
    old.close()
    scene.append(range(20))
    for _ in range(4):
        scene.courier.step()
    assert {"event-0", "event-19"} <= set(ids(scene.sink.accepted))
    scene.run()
    assert sorted(ids(scene.sink.accepted)) == sorted(expected(range(20)) + expected(range(100, 200)))
