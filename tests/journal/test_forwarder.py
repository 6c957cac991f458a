"""The forwarder: threads, processes, kills, and real destinations."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Forwarder, Journal
from meter_mw.journal import convoy as convoy_module
from meter_mw.journal.estates import estate_paths
from meter_mw.sinks import Delivered, FileSink, HttpSink, Outcome, Retry

from .conftest import SOURCE, MemorySink, event, expected, ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

WORKER = """
import atexit, sys, signal, time
from pathlib import Path
from meter_mw.journal import Forwarder, Journal
from meter_mw.sinks import FileSink
place, out, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[5]
first, count = int(sys.argv[3]), int(sys.argv[4])
journal = Journal(place, "urn:meter-mw:tests", segment_bytes=1 << 14, sync_interval=0.001)
forwarder = Forwarder(journal, [FileSink(out)], adopt_every=0.05)
atexit.register(journal.close)
atexit.register(forwarder.close, 5.0)
if how == "term":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for number in range(first, first + count):
    journal.append(b'{"id": "event-%d", "pad": "%s"}' % (number, b"x" * (number % 300)))
    if how != "exit":
        print(f"event-{number}", flush=True)
while how == "term":
    time.sleep(0.05)
"""


def worker(place: Path, out: Path, first: int, count: int, how: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WORKER, str(place), str(out), str(first), str(count), how]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def lines(path: Path) -> list[str]:
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line)["id"])
        except ValueError:
            continue  # a line that a killed writer tore; its batch is sent again
    return found


@pytest.fixture
def make(journal: Journal) -> Iterator[Callable[..., Forwarder]]:
    made: list[Forwarder] = []

    def forwarder(*sinks: MemorySink | FileSink | HttpSink, **options: float) -> Forwarder:
        made.append(Forwarder(journal, sinks, **{"backoff": 0.001, "longest_backoff": 0.01, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield forwarder
    for one in made:
        one.close(0)


def test_an_append_is_delivered_by_itself(make: Callable[..., Forwarder], journal: Journal) -> None:
    """Nobody needs to start, wake or flush."""
    sink = MemorySink()
    make(sink)
    for number in range(250):
        journal.append(event(number))
    assert sink.await_accepted(250)
    assert ids(sink.accepted) == expected(range(250))


def test_sinks_need_names_of_their_own(make: Callable[..., Forwarder]) -> None:
    """Two sinks under one name would share a cursor."""
    with pytest.raises(ValueError, match="names of their own"):
        make(MemorySink(), MemorySink())


def test_a_slow_sink_does_not_delay_another(make: Callable[..., Forwarder], journal: Journal) -> None:
    """One hangs, one fails, and the third has everything."""
    release = threading.Event()

    def hang(batch: Sequence[bytes]) -> Sequence[Outcome]:
        release.wait(30)
        return [Delivered()] * len(batch)

    slow, failing, good = MemorySink("slow"), MemorySink("failing"), MemorySink("good")
    slow.answer = hang
    failing.answer = lambda batch: [Retry()] * len(batch)
    make(slow, failing, good)
    for number in range(500):
        journal.append(event(number))
    assert good.await_accepted(500)
    assert slow.accepted == failing.accepted == []
    release.set()
    failing.answer = lambda batch: [Delivered()] * len(batch)
    assert slow.await_accepted(500)
    assert failing.await_accepted(500)


def test_flush_delivers_what_waits(make: Callable[..., Forwarder], journal: Journal) -> None:
    """It returns when every sink has all that was appended before."""
    sinks = MemorySink("a"), MemorySink("b")
    forwarder = make(*sinks)
    assert forwarder.flush(0)
    for number in range(300):
        journal.append(event(number))
    assert forwarder.flush(30)
    assert [len(sink.accepted) for sink in sinks] == [300, 300]


def test_events_gather_until_a_flush(
    make: Callable[..., Forwarder], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after a delivery waits for more, and goes out in one batch when that is asked for."""
    monkeypatch.setattr(convoy_module, "GATHER", 3600)
    sink = MemorySink()
    forwarder = make(sink, adopt_every=3600)
    journal.append(event(0))
    assert sink.await_accepted(1)
    for number in range(1, 50):
        journal.append(event(number))
        journal.sync()
        forwarder.wake()
    assert forwarder.flush(30)
    assert [len(batch) for batch in sink.sent] == [1, 49]


def test_news_do_not_wait_for_what_failed(
    make: Callable[..., Forwarder], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is tried again in an hour holds up none that comes after it."""
    napping, nap = threading.Event(), convoy_module._Runner._nap

    def watched(runner: convoy_module._Runner, wait: float | None) -> None:
        if wait != 0:
            napping.set()
        nap(runner, wait)

    monkeypatch.setattr(convoy_module._Runner, "_nap", watched)
    sink = MemorySink()
    sink.answer = lambda batch: [Retry() if "event-1" in ids([one]) else Delivered() for one in batch]
    make(sink, backoff=3600, longest_backoff=3600, random=lambda: 1.0, adopt_every=3600)
    journal.append(event(0))
    journal.append(event(1))
    assert sink.await_accepted(1)
    for number in (2, 3):
        assert napping.wait(30)
        napping.clear()
        journal.append(event(number))
        assert sink.await_accepted(number)


def test_flush_ends_our_own_wait(make: Callable[..., Forwarder], journal: Journal) -> None:
    """A sink that would be tried again in a minute is tried at once."""
    sink = MemorySink()
    failed = threading.Event()

    def fail(batch: Sequence[bytes]) -> Sequence[Outcome]:
        sink.answer = lambda batch: [Delivered()] * len(batch)
        failed.set()
        return [Retry()] * len(batch)

    sink.answer = fail
    forwarder = make(sink, backoff=3600, longest_backoff=3600, random=lambda: 1.0)
    journal.append(event(1))
    assert failed.wait(30)
    assert forwarder.flush(30)
    assert ids(sink.accepted) == ["event-1"]


def test_flush_and_close_are_bounded(make: Callable[..., Forwarder], journal: Journal) -> None:
    """A sink that never answers costs the given time and no more, and says so."""
    release = threading.Event()
    sink = MemorySink()

    def hang(batch: Sequence[bytes]) -> Sequence[Outcome]:
        release.wait(60)
        return [Delivered()] * len(batch)

    sink.answer = hang
    forwarder = make(sink)
    journal.append(event(1))
    begin = time.monotonic()
    assert not forwarder.flush(0.1)
    assert not forwarder.close(0.1)
    assert time.monotonic() - begin < 5
    release.set()


def test_close_stops_and_an_append_starts_again(make: Callable[..., Forwarder], journal: Journal) -> None:
    """Closed twice is closed; a late event is delivered all the same."""
    before = set(threading.enumerate())
    sink = MemorySink()
    forwarder = make(sink)
    journal.append(event(1))
    assert forwarder.close(30)
    assert forwarder.close(30)
    assert sink.closed >= 1
    journal.close()
    assert set(threading.enumerate()) <= before
    journal.append(event(2))
    assert sink.await_accepted(2)
    assert forwarder.close(30)


def test_closed_in_order_nothing_is_left(
    make: Callable[..., Forwarder], journal: Journal, place: Path
) -> None:
    """After a delivered end the journal's directory is empty."""
    forwarder = make(MemorySink())
    for number in range(300):
        journal.append(event(number, 500))
    assert forwarder.close(30)
    journal.close()
    assert list(place.iterdir()) == []


def test_without_sinks_the_journal_is_the_record(
    make: Callable[..., Forwarder], journal: Journal, place: Path
) -> None:
    """Nothing is adopted or deleted when there is nowhere to deliver to."""
    forwarder = make()
    journal.append(event(1))
    assert forwarder.close(1)
    journal.close()
    assert len(estate_paths(place)) == 1


def test_start_is_idempotent(make: Callable[..., Forwarder]) -> None:
    """Called twice, it starts one thread a sink; started without an append, it adopts."""
    before = set(threading.enumerate())
    forwarder = make(MemorySink("a"), MemorySink("b"))
    forwarder.start()
    forwarder.start()
    assert len(set(threading.enumerate()) - before) == 2
    assert forwarder.close(30)


def test_start_adopts(make: Callable[..., Forwarder], place: Path) -> None:
    """A process that appends nothing delivers what a dead one left."""
    dead = Journal(place, SOURCE)
    for number in range(50):
        dead.append(event(number))
    dead.close()
    sink = MemorySink()
    make(sink).start()
    assert sink.await_accepted(50)


def test_fork_after_use(make: Callable[..., Forwarder], journal: Journal, tmp_path: Path) -> None:
    """Child and parent go on with the same objects, and everything is delivered once."""
    out = tmp_path / "usage.jsonl"
    forwarder = make(FileSink(out))
    for number in range(100):
        journal.append(event(number))
    children = []
    for turn in range(1, 4):
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            for number in range(1000 * turn, 1000 * turn + 100):
                journal.append(event(number))
            delivered = forwarder.close(20)
            journal.close()
            os._exit(0 if delivered else 1)
        children.append(child)
    for number in range(100, 200):
        journal.append(event(number))
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert forwarder.close(30)
    wanted = expected(range(200)) + [
        one for t in range(1, 4) for one in expected(range(1000 * t, 1000 * t + 100))
    ]
    assert sorted(lines(out)) == sorted(wanted)


def test_exit_delivers(place: Path, tmp_path: Path) -> None:
    """An interpreter that ends by itself has delivered, and leaves nothing."""
    process = worker(place, tmp_path / "out", 0, 500, "exit")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert lines(tmp_path / "out") == expected(range(500))
    assert list(place.iterdir()) == []


def test_sigterm_delivers(place: Path, tmp_path: Path) -> None:
    """A server that turns SIGTERM into an exit has delivered."""
    process = worker(place, tmp_path / "out", 0, 300, "term")
    assert process.stdout is not None
    for _ in range(300):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert lines(tmp_path / "out") == expected(range(300))


def test_exit_is_bounded_when_the_sink_is_away(place: Path) -> None:
    """An interpreter ends though nothing can be delivered, and the events are kept."""
    code = WORKER.replace("forwarder.close, 5.0", "forwarder.close, 0.2")
    out = place.parent / "no-such-directory" / "out"
    arguments = [sys.executable, "-c", code, str(place), str(out), "0", "50", "exit"]
    begin = time.monotonic()
    subprocess.run(arguments, check=True, timeout=30, capture_output=True)
    assert time.monotonic() - begin < 15
    assert len(estate_paths(place)) == 1


def test_kill_9_of_forwarding_workers_loses_nothing(
    make: Callable[..., Forwarder], place: Path, tmp_path: Path
) -> None:
    """Workers die while they forward and adopt: what they acknowledged arrives, and ids tell copies."""
    out = tmp_path / "usage.jsonl"
    acknowledged: set[str] = set()
    for turn in range(6):
        pair = [worker(place, out, 1_000_000 * (2 * turn + side), 100_000, "run") for side in (0, 1)]
        for process in pair:
            assert process.stdout is not None
            acknowledged |= {process.stdout.readline().strip() for _ in range(200 + 150 * turn)}
        for process in pair:
            process.kill()
        for process in pair:
            assert process.stdout is not None
            acknowledged |= {line.strip() for line in process.stdout.readlines() if line.endswith("\n")}
            process.communicate()
    forwarder = make(FileSink(out))
    forwarder.start()
    assert forwarder.flush(60)
    assert acknowledged - set(lines(out)) == set()
    assert forwarder.close(30)
    assert estate_paths(place) == []
