"""What a month costs the ledger: to write it, and to ask for it beside plain SQL over its raw events.

Run as `python -m bench ledger`, on SQLite. The subjects are of very different sizes, as customers are.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from meter_mw.ledger.insight import outcomes, sketches
from meter_mw.ledger.reports import Step, usage, usage_by
from meter_mw.ledger.spans import period_named
from meter_mw.sinks import Delivered
from meter_mw.sinks.sql import SqlSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meter_mw.ledger.database import Database

SOURCE = "urn:meter-mw:bench"
MONTH = period_named("2026-11")
PARIS = period_named("2026-11", "Europe/Paris")
ROUNDS = 5
BATCH = 10_000
SUBJECTS = [f"customer-{number:04}" for number in range(1_000)]
ROUTES = [f"resource-{number}.read" for number in range(20)]

_SIZES = list(accumulate(1 / rank for rank in range(1, len(SUBJECTS) + 1)))
_POPULARITY = list(accumulate(1 / rank for rank in range(1, len(ROUTES) + 1)))
_STATUSES = (200,) * 95 + (404, 404, 429, 500, 503)
_MIDDLE = SUBJECTS[30]
"""A large customer, with about half a percent of everything."""


def batches(count: int) -> Iterator[list[bytes]]:
    """Give a month of events in the order of their times."""
    dice = random.Random(1)
    begin, length_us = MONTH.start, MONTH.end_us - MONTH.start_us
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        who = dice.choices(SUBJECTS, cum_weights=_SIZES, k=size)
        where = dice.choices(ROUTES, cum_weights=_POPULARITY, k=size)
        yield [
            _event(
                first + index,
                begin + timedelta(microseconds=length_us * (first + index) // count),
                *each,
                dice,
            )
            for index, each in enumerate(zip(who, where, strict=True))
        ]


def _event(number: int, moment: datetime, subject: str, route: str, dice: random.Random) -> bytes:
    sizes = f'"requests":1,"request_bytes":{number % 700},"response_bytes":{dice.randrange(20_000)}'
    return (
        f'{{"specversion":"1.0","id":"01a1fdb4-7f36-7202-{number:016x}","source":"{SOURCE}",'
        f'"type":"meter_mw.request.v1","subject":"{subject}","time":"{moment.isoformat()}",'
        f'"datacontenttype":"application/json","data":{{{sizes},"route":"{route}","method":"GET",'
        f'"status":{dice.choice(_STATUSES)},"plan":"pro","duration_us":{int(dice.lognormvariate(8, 1))},'
        f'"policy":"ee26b0dd4af7e749","key":"k1_6fa62bd7b09cce85bede90dd4835b8ca"}}}}'
    ).encode()


def fill(sink: SqlSink, count: int) -> None:
    """Write a month, and print how fast that goes."""
    wall = busy = 0.0
    for batch in batches(count):
        before = time.perf_counter(), time.process_time()
        found = sink.send(batch)
        wall, busy = wall + time.perf_counter() - before[0], busy + time.process_time() - before[1]
        if found.count(Delivered()) != len(batch):
            raise SystemExit(f"the ledger did not take all: {found[0]}")
    print(
        f"{count} events of {len(batch[0])} bytes written in {wall:.1f} s, {busy:.1f} s of them computing:"
        f" {count / wall:.0f} events/s ({count / busy:.0f} for each second of computing)"
    )


def questions(database: Database) -> Iterator[tuple[str, Callable[[], object], str | None]]:
    """Give what is asked of the ledger, and the same in plain SQL over the raw events."""
    sums = "sum(requests), sum(request_bytes), sum(response_bytes) FROM meter_events"
    when = f"time_us >= {MONTH.start_us} AND time_us < {MONTH.end_us}"
    one = f"subject = '{_MIDDLE}' AND {when}"
    day = "time_us / 86400000000"
    yield (
        f"the month of one subject ({_MIDDLE})",
        lambda: usage(database, subject=_MIDDLE, period=MONTH),
        f"SELECT plan, {sums} WHERE {one} GROUP BY 1",
    )
    yield (
        "the month of one subject, by day",
        lambda: usage_by(database, (), MONTH, step=Step.DAY, subjects=(_MIDDLE,)),
        f"SELECT {day}, {sums} WHERE {one} GROUP BY 1",
    )
    yield (
        "the month of one subject, by day of Paris",
        lambda: usage_by(database, (), PARIS, step=Step.DAY, zone="Europe/Paris", subjects=(_MIDDLE,)),
        None,
    )
    yield (
        "the month of all subjects",
        lambda: usage_by(database, ("subject",), MONTH),
        f"SELECT subject, {sums} WHERE {when} GROUP BY 1",
    )
    yield (
        "the month of all subjects and routes",
        lambda: usage_by(database, ("subject", "route"), MONTH),
        f"SELECT subject, route, {sums} WHERE {when} GROUP BY 1, 2",
    )
    yield (
        "statuses by route",
        lambda: outcomes(database, ("route",), MONTH),
        f"SELECT route, status / 100, count(*) FROM meter_events WHERE {when} GROUP BY 1, 2",
    )
    yield "percentiles by route", lambda: [each.quantile(0.99) for each in sketches(database, MONTH)], None


def ask(database: Database) -> None:
    """Print how long each question takes, in turns with the plain SQL for it."""
    print(f"{'ledger':>10} {'plain SQL':>10}  ms, the median of {ROUNDS}")
    for what, told, plain in questions(database):
        taken: tuple[list[float], list[float]] = [], []
        for round_number in range(ROUNDS):
            taken[0].append(_timed(told))
            if plain is not None and (round_number == 0 or taken[1][0] < 2_000):
                taken[1].append(_timed(lambda sql=plain: _plain(database, sql)))
        other = f"{statistics.median(taken[1]):10.1f}" if taken[1] else f"{'':>10}"
        print(f"{statistics.median(taken[0]):10.1f} {other}  {what}", flush=True)


def _plain(database: Database, sql: str) -> object:
    with database.reading() as connection:
        return connection.exec_driver_sql(sql).fetchall()


def _timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return (time.perf_counter() - begin) * 1000


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as place:
        path = Path(place) / "ledger.db"
        sink = SqlSink(f"sqlite:///{path}", SOURCE, timeout=60, max_batch=BATCH)
        fill(sink, count)
        size = sum(each.stat().st_size for each in Path(place).iterdir())
        print(f"{size / 1e9:.2f} GB on the disk, {size / count:.0f} bytes for each event", flush=True)
        ask(sink.database)
        sink.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
