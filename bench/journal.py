"""What one append costs the request, beside SQLite (WAL) and a queue with a thread; and a long backlog.

Run as `python -m bench journal`. Those that write take turns in one run, on the same disk.
"""

from __future__ import annotations

import queue
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from meter_mw.journal import Forwarder, Journal, read_closings, read_journal
from meter_mw.journal.estates import estate_paths
from meter_mw.sinks import Delivered, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAYLOAD = b'{"specversion":"1.0","id":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","data":"' + b"x" * 330 + b'"}'
CLOSING = bytes(range(150))
SOURCE = "urn:meter-mw:bench"
ROUNDS = 5
BACKLOG = 20
"""Events of the backlog for each that is timed."""


def sqlite_writer(directory: Path, stack: ExitStack) -> Callable[[bytes], object]:
    database = stack.enter_context(closing(sqlite3.connect(directory / "events.db", isolation_level=None)))
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE events (payload BLOB)")
    return lambda payload: database.execute("INSERT INTO events VALUES (?)", (payload,)) and None


def queue_writer(directory: Path, stack: ExitStack) -> Callable[[bytes], object]:
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    file = stack.enter_context((directory / "events.log").open("ab", buffering=0))

    def write() -> None:
        while (payload := waiting.get()) is not None:
            file.write(payload + b"\n")

    writer = threading.Thread(target=write)
    writer.start()
    stack.callback(writer.join)
    stack.callback(waiting.put, None)
    return waiting.put


def journal_writer(directory: Path, stack: ExitStack, closing: bytes = b"") -> Callable[[bytes], object]:
    journal = Journal(directory, SOURCE)
    stack.callback(journal.close)
    return lambda payload: journal.append(payload, closing)


def timed(append: Callable[[bytes], object], count: int) -> list[float]:
    """Return the microseconds of each call, with a breath between them as between requests."""
    taken = []
    for number in range(count):
        begin = time.perf_counter_ns()
        append(PAYLOAD)
        taken.append((time.perf_counter_ns() - begin) / 1000)
        if number % 50 == 0:
            time.sleep(0.001)
    return taken


class First:
    """A sink that tells when it was first sent something."""

    name = "first"
    max_batch = 1000
    horizon = None

    def __init__(self) -> None:
        self.sent = threading.Event()

    def send(self, batch: Sequence[bytes]) -> Sequence[Outcome]:
        """Take all."""
        self.sent.set()
        time.sleep(0.001)  # as somebody far away
        return [Delivered()] * len(batch)

    def close(self) -> None:
        """Have nothing to close."""


def backlog(directory: Path, count: int) -> None:
    """Print how long it takes to read back what a dead process left, and to begin to forward it."""
    with ExitStack() as stack:
        append = journal_writer(directory, stack, CLOSING)
        for _ in range(count):
            append(PAYLOAD)
    watch = Watch()
    events = sum(1 for _ in read_journal(directory))
    print(f"{events} events of a dead process read back and checked in {watch}")
    closings = sum(1 for estate in estate_paths(directory) for _ in read_closings(estate))
    print(f"{closings} closings beside them in {watch}")
    sink = First()
    forwarder = Forwarder(Journal(directory, SOURCE), [sink])
    forwarder.start()
    sink.sent.wait()
    print(f"the first of them with its sink after a start in {watch}")
    forwarder.close(1)


class Watch:
    """Says how long something took, since it was last asked."""

    def __init__(self) -> None:
        self._at = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        before, self._at = self._at, (time.perf_counter(), time.process_time())
        return f"{self._at[0] - before[0]:.2f} s, {self._at[1] - before[1]:.2f} s of them computing"


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as place, ExitStack() as stack:
        home = Path(place)
        writers = {
            "journal (survives kill -9, then power loss after 20 ms)": journal_writer(home / "event", stack),
            "journal, with a closing of 150 bytes": journal_writer(home / "both", stack, CLOSING),
            "SQLite WAL, synchronous=NORMAL, a commit an event": sqlite_writer(home, stack),
            "queue and thread (loses the queue at kill -9)": queue_writer(home, stack),
        }
        taken: dict[str, list[float]] = {name: [] for name in writers}
        for _ in range(ROUNDS):
            for name, append in writers.items():
                taken[name] += timed(append, count // ROUNDS)
        print(f"{count} events of {len(PAYLOAD)} bytes each, µs on the calling thread")
        print(f"{'median':>9} {'p99':>9} {'max':>9}")
        for name, values in taken.items():
            p99 = statistics.quantiles(values, n=100)[98]
            print(f"{statistics.median(values):9.1f} {p99:9.1f} {max(values):9.0f}  {name}")
        print()
        backlog(home / "backlog", BACKLOG * count)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
