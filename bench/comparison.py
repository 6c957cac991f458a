"""The comparison: its parts one after the other, each with its effort and in its time."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import admitted, events, inprocess, paced, residents, servers, store_cost
from bench.contenders import LEASED, STRICT, one
from bench.delay import delayed
from bench.probe import probe
from bench.redis_server import running_redis
from bench.results import Results, Stores
from bench.serving import leave_server_core
from bench.workload import FAR, HOST, MEMORY, TCP, UNIX, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.contenders import Contender

DELAY_S = 0.001
NUMBERS = (1, 3, 8)
STORES = (MEMORY, TCP, UNIX, FAR)

_MANY = (STRICT, LEASED, "slowapi", "limits", "Flask-Limiter")
"""Who is also served by several processes: enough to see what those change."""

_RESIDENT = (STRICT, "limits", "slowapi")


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard each part tries."""

    in_process: inprocess.Effort
    busy: paced.Effort
    by_servers: servers.Effort
    crowded: servers.Effort
    events: inprocess.Effort
    hammered: admitted.Effort
    exact: admitted.Effort
    admissions: int
    subjects: int
    subjects_s: float
    residents: int


THOROUGH = Effort(
    in_process=inprocess.Effort(9, 100, 256, seconds=10, least=3),
    busy=paced.Effort(3, 800),
    by_servers=servers.Effort(3, 200, 1_200, seconds=60, least=2),
    crowded=servers.Effort(2, 200, 1_200, seconds=20),
    events=inprocess.Effort(7, 100, 256, seconds=10, least=3),
    hammered=admitted.HAMMERED,
    exact=admitted.EXACT,
    admissions=20_000,
    subjects=1_000_000,
    subjects_s=60,
    residents=20_000,
)
QUICK = Effort(
    in_process=inprocess.Effort(1, 64, 64),
    busy=paced.Effort(1, 32),
    by_servers=servers.Effort(1, 64, 128),
    crowded=servers.Effort(1, 64, 128),
    events=inprocess.Effort(1, 64, 64),
    hammered=admitted.Effort(50, 16, 100),
    exact=admitted.Effort(100, 16, 120),
    admissions=64,
    subjects=2_000,
    subjects_s=10,
    residents=200,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be compared: the parts, who takes part, the stores and the numbers of limits."""

    parts: Sequence[str]
    contenders: list[Contender]
    stores: Sequence[str]
    numbers: Sequence[int]
    effort: Effort

    def has(self, name: str) -> bool:
        """Whether a contender of that name takes part."""
        return any(each.name == name for each in self.contenders)


@contextmanager
def stores_of_the_run() -> Iterator[Stores]:
    """Run a Redis, and what makes the way to it longer."""
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as place,
        running_redis(Path(place)) as redis,
        delayed(redis.port, DELAY_S) as far,
    ):
        yield Stores(
            Store(MEMORY, None),
            Store(TCP, redis.url),
            Store(UNIX, redis.unix_url),
            Store(FAR, f"redis://{HOST}:{far}/0"),
            Path(place),
        )


def probe_all(contenders: list[Contender], where: list[Store], stores: Stores) -> Iterator[str]:
    """Have everyone show that they count, with 3 limits; tell of each who did."""
    for store in where:
        setting = replace(stores.setting(store), folder=stores.folder / store.name)
        for each in contenders:
            if each.fits(setting) and not each.bare:
                asyncio.run(probe(each, setting))
                yield f"{each.title} counts, {setting.title}"


def compare(wanted: Wanted, stores: Stores, said: Callable[[str], None]) -> Results:
    """Do what is wanted; each part is told to `said` as it ends."""
    results = Results(stores)
    leave_server_core()
    for part in wanted.parts:
        begin = time.monotonic()
        PARTS[part](wanted, results)
        results.seconds[part] = time.monotonic() - begin
        said(f"{part}: {results.seconds[part]:.0f} s")
    return results


def _in_process(wanted: Wanted, results: Results) -> None:
    """Memory and Redis by TCP with each number of limits; the other ways to Redis, and refusals, with 3."""
    stores = results.stores
    by_name = {store.name: store for store in (stores.memory, stores.tcp, stores.unix, stores.far)}
    settings = [
        stores.setting(by_name[name], number)
        for name in wanted.stores
        for number in wanted.numbers
        if name in (MEMORY, TCP) or number == 3
    ]
    if TCP in wanted.stores:
        settings.append(stores.refused)
    apart = [
        replace(each, folder=each.folder / f"in-process-{number}") for number, each in enumerate(settings)
    ]
    results.added = inprocess.measure(wanted.contenders, apart, wanted.effort.in_process)


def _busy(wanted: Wanted, results: Results) -> None:
    """One busy key, of those whose leases it shows and of the bare apps."""
    bases = ("Starlette", "Flask")
    contenders = [each for each in wanted.contenders if each.base in bases and (each.bare or each.ours)]
    setting = replace(results.stores.paced, folder=results.stores.folder / "busy")
    paced.measure(contenders, setting, wanted.effort.busy, results.added)


def _servers(wanted: Wanted, results: Results) -> None:
    gc.collect()
    gc.freeze()  # what is left of other parts would slow the load generator
    folder = _folder(results, "servers")
    one_process = replace(results.stores.setting(results.stores.tcp), folder=folder)
    results.served.measure(wanted.contenders, [one_process], wanted.effort.by_servers)
    several = [
        each
        for each in wanted.contenders
        if each.base in ("Starlette", "Flask") and (each.bare or each.name in _MANY)
    ]
    results.served.measure(several, [replace(results.stores.crowded, folder=folder)], wanted.effort.crowded)


def _admitted(wanted: Wanted, results: Results) -> None:
    """Everyone on Redis once; `limits` in memory too, which shows that the processes are several."""
    folder, tcp = _folder(results, "admitted"), results.stores.tcp
    shared = [each for each in wanted.contenders if each.base != "FastAPI" or not each.ours]
    results.admitted = admitted.measure(shared, tcp, folder, wanted.effort.hammered)
    alone = [each for each in wanted.contenders if each.name == "limits"]
    in_memory = _folder(results, "admitted-memory")
    results.admitted += admitted.measure(alone, results.stores.memory, in_memory, wanted.effort.hammered)
    if wanted.has(LEASED):
        leased = one(LEASED, "Starlette")
        results.crept = admitted.crept(leased, tcp, folder, wanted.effort.exact)
        results.killed = admitted.killed(leased, tcp, folder, wanted.effort.exact)


def _events(wanted: Wanted, results: Results) -> None:
    results.events = events.measure(_folder(results, "events"), wanted.effort.events)


def _memory(wanted: Wanted, results: Results) -> None:
    stores, effort = results.stores, wanted.effort
    folder = _folder(results, "memory")
    for number in NUMBERS:
        results.server_us[number] = store_cost.server_us(
            stores.setting(stores.tcp, number), effort.admissions
        )
    results.bytes = store_cost.bytes_per_subject(
        stores.setting(stores.tcp), effort.subjects, effort.subjects_s
    )
    contenders = [one(name, "Starlette") for name in _RESIDENT if wanted.has(name)]
    settings = [
        replace(stores.setting(store), folder=folder / store.name) for store in (stores.memory, stores.tcp)
    ]
    results.resident = residents.measure(contenders, settings, effort.residents)


def _folder(results: Results, name: str) -> Path:
    folder = results.stores.folder / name
    folder.mkdir()
    return folder


PARTS: dict[str, Callable[[Wanted, Results], None]] = {
    "inprocess": _in_process,
    "busy": _busy,
    "servers": _servers,
    "admitted": _admitted,
    "events": _events,
    "memory": _memory,
}
