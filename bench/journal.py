"""What one append costs the request: the journal beside SQLite (WAL) and a queue with a writer thread.

Run as `python bench/journal.py [events]`. The three take turns in one run, on the same disk.
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

from meter_mw.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

PAYLOAD = b'{"specversion":"1.0","id":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","data":"' + b"x" * 330 + b'"}'
ROUNDS = 5


def sqlite_writer(directory: Path, stack: ExitStack) -> Callable[[bytes], None]:
    database = stack.enter_context(closing(sqlite3.connect(directory / "events.db", isolation_level=None)))
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE events (payload BLOB)")
    return lambda payload: database.execute("INSERT INTO events VALUES (?)", (payload,)) and None


def queue_writer(directory: Path, stack: ExitStack) -> Callable[[bytes], None]:
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


def journal_writer(directory: Path, stack: ExitStack) -> Callable[[bytes], None]:
    journal = Journal(directory / "journal", "urn:meter-mw:bench")
    stack.callback(journal.close)
    return journal.append


def timed(append: Callable[[bytes], None], count: int) -> list[float]:
    """Return the microseconds of each call, with a breath between them as between requests."""
    taken = []
    for number in range(count):
        begin = time.perf_counter_ns()
        append(PAYLOAD)
        taken.append((time.perf_counter_ns() - begin) / 1000)
        if number % 50 == 0:
            time.sleep(0.001)
    return taken


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place, ExitStack() as stack:
        writers = {
            "journal (survives kill -9, then power loss after 20 ms)": journal_writer(Path(place), stack),
            "SQLite WAL, synchronous=NORMAL, a commit an event": sqlite_writer(Path(place), stack),
            "queue and thread (loses the queue at kill -9)": queue_writer(Path(place), stack),
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


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
