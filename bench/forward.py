"""How fast events are forwarded: a journal's backlog to an HTTP sink in another process.

Run as `python -m bench forward`. The whole way is measured: segments read and checked, what is in hand
written down, batches posted, outcomes read, segments deleted. Beside the events per second of the clock
stands what one core would do: events per second of processor time of the forwarding process alone.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from meter_mw.journal import Journal
from meter_mw.journal.convoy import Convoy
from meter_mw.journal.holdings import Holdings
from meter_mw.sinks import HttpSink

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SOURCE = "urn:meter-mw:bench"
PAYLOAD = (
    '{{"specversion":"1.0","id":"0190a1b2-c3d4-7e5f-8a9b-{:012d}","source":"urn:meter-mw:bench",'
    '"type":"meter_mw.request.v1","subject":"acme","time":"{}",'
    '"datacontenttype":"application/json","data":{{"requests":1,"request_bytes":0,"response_bytes":8,'
    '"route":"items.read","method":"GET","status":200,"plan":"default","duration_us":460,'
    '"policy":"ee26b0dd4af7e749","key":"k1_6fa62bd7b09cce85bede90dd4835b8ca"}}}}'
)
CLOSING = b"x" * 90
"""About what a settlement takes beside its event."""

BATCHES = (100, 1000)
ROUNDS = 3


def receive(tell: Connection) -> None:
    """Take posts on one connection after the other, and answer 204 to each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        tell.send(server.getsockname()[1])
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                while (line := stream.readline()) and line != b"\r\n":
                    length = 0
                    while line != b"\r\n":
                        name, _, value = line.partition(b":")
                        length = int(value) if name.lower() == b"content-length" else length
                        line = stream.readline()
                    stream.read(length)
                    connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def measured(place: Path, port: int, count: int, batch: int) -> tuple[float, float]:
    """Forward `count` events; return the seconds of the clock and of the processor."""
    journal, now = Journal(place, SOURCE), _now()
    for number in range(count):
        journal.append(PAYLOAD.format(number, now).encode(), CLOSING)
    journal.close()
    sink = HttpSink(f"http://127.0.0.1:{port}/events", max_batch=batch)
    holdings = Holdings(
        Journal(place, SOURCE), [sink.name], clock=time.monotonic, adopt_every=30, retention=0
    )
    convoy = Convoy(holdings, [sink], place)
    begin, spent = time.perf_counter(), time.process_time()
    convoy.start()
    if not holdings.due()(600):
        raise RuntimeError("not everything was delivered")
    taken = time.perf_counter() - begin, time.process_time() - spent
    convoy.stop()
    convoy.ended(10)
    holdings.release()
    return taken


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def main(count: int) -> None:
    """Print the best of some rounds for each size of a batch."""
    ours, theirs = multiprocessing.Pipe()
    receiver = multiprocessing.get_context("spawn").Process(target=receive, args=(theirs,), daemon=True)
    receiver.start()
    port = ours.recv()
    size = len(PAYLOAD.format(0, _now()))
    print(f"{count} events of {size} bytes with closings of {len(CLOSING)}, to a receiver in another process")
    print(f"{'batch':>6} {'events/s':>10} {'events/s of a core':>19}")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        for batch in BATCHES:
            rounds = [measured(Path(place) / f"{batch}-{turn}", port, count, batch) for turn in range(ROUNDS)]
            clock, processor = (count / min(times) for times in zip(*rounds, strict=True))
            print(f"{batch:6} {clock:10,.0f} {processor:19,.0f}")
    receiver.terminate()
    receiver.join()
