"""Windows: whatever happens, each event counts once, and no id ever stands for two values."""

from __future__ import annotations

import json
import random
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meter_mw.sinks import Delivered, Duplicate, Permanent
from meter_mw.sinks.windows import Windows
from meter_mw.sinks.windows.records import Addition, Sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

S = 1_000_000
HOUR = 3600 * S
DAY = 24 * HOUR
NOW = 1_767_225_600 * S + 10 * HOUR  # 2026-01-01T10:00:00Z
SOURCE = "urn:meter-mw:tests"


def windows_in(folder: Path, **options: int) -> Windows:
    given = {"length_us": HOUR, "lateness_us": 60 * S, "remember_us": 3 * DAY, **options}
    return Windows(folder, SOURCE, **given)


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    return windows_in(tmp_path / "windows")


def used(number: int | str, at_us: int = NOW, subject: str = "acme", **quantities: int) -> Addition:
    return Addition(f"event-{number}", subject, at_us, quantities or {"requests": 1})


def sealed(windows: Windows, now_us: int, most: int = 100) -> list[dict[str, Any]]:
    """Seal, and give the records that wait."""
    windows.seal(now_us)
    found: list[Sealed] = []
    in_hand: set[int] = set()
    while (batch := windows.batch(most, in_hand)) is not None:
        in_hand.add(batch[0])
        found += batch[1]
    return [json.loads(each.record) for each in found]


def test_a_window_is_sealed_when_it_is_over_and_late_events_had_their_time(windows: Windows) -> None:
    """A record has all that fell into [start, end), and a time within it."""
    events = [used(1), used(2, NOW + HOUR - 1, tokens=5), used(3, NOW + HOUR), used(4, subject="globex")]
    assert windows.add(events, NOW + HOUR) == [Delivered()] * 4
    assert sealed(windows, NOW + HOUR + 60 * S - 1) == []
    assert not windows.is_due(NOW + HOUR + 60 * S - 1)
    assert windows.is_due(NOW + HOUR + 60 * S)
    acme, globex = sealed(windows, NOW + HOUR + 60 * S)
    token = acme["id"].rpartition(":")[2].partition("-")[0]
    assert acme == {
        "specversion": "1.0",
        "id": f"acme:{NOW // S}:{token}-1",
        "source": SOURCE,
        "type": "meter_mw.window.v1",
        "subject": "acme",
        "time": "2026-01-01T10:59:59.999999Z",
        "datacontenttype": "application/json",
        "data": {
            "requests": 1,
            "tokens": 5,
            "window": {"start": "2026-01-01T10:00:00Z", "end": "2026-01-01T11:00:00Z", "events": 2},
        },
    }
    assert (globex["subject"], globex["time"]) == ("globex", "2026-01-01T10:00:00Z")


def test_an_event_is_added_once(windows: Windows) -> None:
    """In one batch, in a later one, and after its window was sealed."""
    assert windows.add([used(1), used(1)], NOW) == [Delivered(), Duplicate()]
    assert windows.add([used(1, tokens=9)], NOW) == [Duplicate()]
    (record,) = sealed(windows, NOW + 2 * HOUR)
    assert windows.add([used(1)], NOW + 2 * HOUR) == [Duplicate()]
    assert sealed(windows, NOW + 9 * HOUR) == [record]
    assert record["data"]["requests"] == 1


def test_late_usage_is_another_record(windows: Windows) -> None:
    """It is gathered for a while, under an id of its own in the same span; the first record stays."""
    windows.add([used(1)], NOW)
    (first,) = sealed(windows, NOW + 2 * HOUR)
    windows.add([used(2)], NOW + 3 * HOUR)
    windows.add([used(3, NOW + 7)], NOW + 3 * HOUR + 59 * S)
    assert sealed(windows, NOW + 3 * HOUR + 59 * S) == [first]
    again, late = sealed(windows, NOW + 3 * HOUR + 60 * S)
    assert again == first
    assert late["data"]["requests"] == 2
    assert late["data"]["window"] == {**first["data"]["window"], "events": 2}
    assert late["id"] != first["id"]


def test_what_came_to_nothing_is_not_sent(windows: Windows) -> None:
    """A correction that falls into the window of its original leaves nothing to tell."""
    windows.add([used(1, requests=2, tokens=3), used("void", requests=-2, tokens=-3)], NOW)
    windows.add([used(2, subject="globex", requests=2, tokens=3), used(3, subject="globex", tokens=-3)], NOW)
    (record,) = sealed(windows, NOW + 2 * HOUR)
    assert record["data"] == {"requests": 2, "window": record["data"]["window"]}


def test_sums_have_no_bound(windows: Windows) -> None:
    """Units beyond 64 bits are exact."""
    windows.add([used(1, response_bytes=2**63), used(2, response_bytes=2**63 + 1)], NOW)
    (record,) = sealed(windows, NOW + 2 * HOUR)
    assert record["data"]["response_bytes"] == 2**64 + 1


def test_a_record_stands_for_events_that_can_be_found(windows: Windows) -> None:
    """By its id, as long as they are remembered; another database's record is no record here."""
    windows.add([used(number) for number in range(3)], NOW)
    (record,) = sealed(windows, NOW + 2 * HOUR)
    assert windows.parts(record["id"]) == ["event-0", "event-1", "event-2"]
    assert windows.parts(record["id"].replace("-1", "-2")) == []
    assert windows.parts("acme:1767225600:00000000-1") == windows.parts("acme") == []


def test_what_is_forgotten_is_refused(windows: Windows) -> None:
    """Ids go with their window when that is too old, and no event of it is added any more."""
    windows.add([used("old")], NOW)
    (record,) = sealed(windows, NOW + 2 * HOUR)
    windows.keep(1, {})
    later = NOW + HOUR + 3 * DAY
    windows.add([used("new", later)], later)
    windows.seal(later)
    assert windows.parts(record["id"]) == []
    refusal, delivered = windows.add([used("old"), used("newer", NOW + HOUR)], later)
    said = "of 2026-01-01T10:00:00Z: ids are remembered for 3 days,"
    assert refusal == Permanent(f"{said} so nobody knows whether it was counted before")
    assert delivered == Delivered()


def test_what_was_not_sent_is_not_forgotten(windows: Windows) -> None:
    """A record waits as long as it takes."""
    windows.add([used("old")], NOW)
    later = NOW + 30 * DAY
    windows.add([used("new", later)], later)
    assert [each["data"]["requests"] for each in sealed(windows, later)] == [1]
    assert len(sealed(windows, later)) == 1


@pytest.mark.parametrize("wrong_us", [NOW + 400 * DAY, NOW - 400 * DAY])
def test_a_wrong_clock_makes_nothing_forgotten(windows: Windows, wrong_us: int) -> None:
    """Whether it goes ahead or back, the ids of recent events stay, and nothing is counted twice."""
    windows.add([used(1)], NOW)
    windows.seal(wrong_us)
    windows.seal(NOW)
    assert windows.add([used(1), used(2)], NOW) == [Duplicate(), Delivered()]
    assert sum(each["data"]["requests"] for each in sealed(windows, NOW + 2 * HOUR)) == 2


def test_an_event_from_far_ahead_is_refused(windows: Windows) -> None:
    """Five minutes are the difference that clocks may have."""
    ahead = used(2, NOW + 300 * S + 1)
    assert windows.add([used(1, NOW + 300 * S), ahead], NOW) == [
        Delivered(),
        Permanent("of 2026-01-01T10:05:00.000001Z: more than 5 minutes ahead"),
    ]


def test_nothing_is_there_before_the_first_event(windows: Windows) -> None:
    """Looking makes no file."""
    assert not windows.is_due(NOW)
    assert windows.backlog() == (0, None)
    assert windows.parts("acme:1:2-3") == []
    assert not windows.folder.exists()


def test_batches_stay_as_they_were(windows: Windows) -> None:
    """After a crash each comes again whole, less what is done with, and with its moments."""
    windows.add([used(number, subject=f"s{number}") for number in range(5)], NOW)
    windows.seal(NOW + 2 * HOUR)
    first, second = windows.batch(2, ()), windows.batch(2, {1})
    assert first is not None
    assert second is not None
    assert [(batch, [each.number for each in records]) for batch, records in (first, second)] == [
        (1, [1, 2]),
        (3, [3, 4]),
    ]
    windows.keep(1, {2: 12.5})
    windows.keep(3, {3: None, 4: None})
    windows = windows_in(windows.folder)
    assert windows.batch(100, ()) == (1, [Sealed(2, first[1][1].record, 12.5)])
    assert windows.batch(100, {1}) == second
    third = windows.batch(100, {1, 3})
    assert third is not None
    assert [each.number for each in third[1]] == [5]
    assert windows.batch(100, {1, 3, 5}) is None
    assert windows.backlog() == (4, NOW + HOUR + 60 * S)


def test_processes_share_it(tmp_path: Path) -> None:
    """Many add the same events at the same time: each counts once."""
    events = [used(number, subject=f"s{number % 3}") for number in range(300)]
    found: list[object] = []

    def work() -> None:
        windows = windows_in(tmp_path / "windows")
        shuffled = random.sample(events, len(events))
        for start in range(0, 300, 50):
            found.extend(windows.add(shuffled[start : start + 50], NOW))

    windows_in(tmp_path / "windows").add([], NOW)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(map(type, found)) == {Delivered: 300, Duplicate: 900}
    assert (
        sum(each["data"]["requests"] for each in sealed(windows_in(tmp_path / "windows"), NOW + DAY)) == 300
    )


def test_a_failure_changes_nothing(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a batch is never added, so the whole of it can come again."""
    windows.add([used(0)], NOW)
    broken = [used(1), Addition("event-2", "acme", NOW, {"requests": object()})]  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        windows.add(broken, NOW)
    assert windows.add([used(1)], NOW) == [Delivered()]


def test_a_database_that_is_none_is_told(windows: Windows) -> None:
    """Nothing is thrown away to begin anew."""
    windows.folder.mkdir()
    (windows.folder / "windows.db").write_bytes(b"x" * 5000)
    with pytest.raises(OSError, match="not a database"):
        windows.add([used(1)], NOW)


class History:
    """A random life of windows: what was added, and what a destination was sent."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.length_us = self.chance.choice([60 * S, HOUR])
        self.folder = folder
        self.at = NOW
        self.added: dict[str, Addition] = {}
        self.sent: dict[str, set[str]] = defaultdict(set)
        self.crash()

    def crash(self) -> None:
        """Begin anew; what was in hand is handed out again."""
        self.windows = windows_in(self.folder, length_us=self.length_us)
        self.in_hand: dict[int, list[Sealed]] = {}

    def add(self) -> None:
        """Add some that are new, some that are late and some that were added before, in any order."""
        chance = self.chance
        again = chance.sample(list(self.added.values()), min(len(self.added), 3))
        new = [
            used(
                len(self.added) + index,
                self.at - chance.choice([0, 0, 0, 90 * S, 2 * HOUR]),
                chance.choice(["acme", "globex"]),
                requests=chance.randrange(-1, 4),
            )
            for index in range(chance.randrange(6))
        ]
        self.added |= {usage.id: usage for usage in new}
        self.windows.add(chance.sample(again + new, len(again + new)), self.at)

    def send(self) -> None:
        """Send a batch, of which some is taken, and some not or without an answer."""
        self.windows.seal(self.at)
        if (found := self.windows.batch(self.chance.randrange(1, 4), self.in_hand)) is not None:
            self.in_hand[found[0]] = found[1]
        if self.in_hand:
            batch, records = self.chance.choice(list(self.in_hand.items()))
            for each in records:
                self.sent[json.loads(each.record)["id"]].add(each.record.decode())
            kept = [each for each in records if self.chance.random() < 0.4]
            self.windows.keep(batch, {each.number: 1.0 for each in kept})
            self.in_hand = {**self.in_hand, batch: kept} if kept else _without(self.in_hand, batch)

    def wait(self) -> None:
        """Let time pass."""
        self.at += self.chance.choice([S, 30 * S, 10 * 60 * S])


def _without(table: dict[int, list[Sealed]], key: int) -> dict[int, list[Sealed]]:
    return {each: value for each, value in table.items() if each != key}


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory, where there is one: what is tested does not hang on the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder) / "windows"


@pytest.mark.parametrize("seed", range(30))
def test_every_interleaving_counts_each_event_once(quick_folder: Path, seed: int) -> None:
    """Late, twice, through crashes and failures of the sink: the sums agree, and no id has two values."""
    history = History(quick_folder, seed)
    steps = [history.add] * 3 + [history.send] * 2 + [history.wait] * 2 + [history.crash]
    for _ in range(60):
        history.chance.choice(steps)()
    history.at += 3 * HOUR
    history.crash()
    while history.windows.is_due(history.at):
        history.send()
    expected: Counter[str] = Counter()
    for usage in history.added.values():
        expected[usage.subject] += usage.quantities["requests"]
    found: Counter[str] = Counter()
    for texts in history.sent.values():
        (text,) = texts
        record = json.loads(text)
        found[record["subject"]] += record["data"]["requests"]
        assert record["data"]["window"]["start"] <= record["time"] < record["data"]["window"]["end"]
    assert found == expected
