"""Run as `python -m bench`; a word names one part alone.

`journal` tells the cost of one event, `forward` how fast events reach a sink, `features` the cost of each,
`ledger` what a month costs the ledger.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import features, forward, inprocess, journal, ledger, report, servers
from bench.contenders import NAMES, Contender, chosen
from bench.machine import machine
from bench.readme import replaced
from bench.redis_server import running_redis
from bench.workload import Setting, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS = ("inprocess", "servers")
STORES = ("memory", "redis")
NUMBERS = (1, 3)
QUICK_NUMBERS = (3,)

THOROUGH = inprocess.Effort(11, 200, 640), servers.Effort(4, 300, 2_000)
QUICK = inprocess.Effort(1, 64, 64), servers.Effort(1, 64, 128)


def main() -> None:
    """Measure what is asked for, and print it."""
    wanted = _wanted()
    if wanted.part == "journal":
        journal.main(5_000 if wanted.quick else 50_000)
        return
    if wanted.part == "forward":
        forward.main(2_000 if wanted.quick else 100_000)
        return
    if wanted.part == "ledger":
        ledger.main(20_000 if wanted.quick else 10_000_000)
        return
    if wanted.part == "features":
        tables = features.main(quick=wanted.quick)
        print(tables)
        _update(wanted.update, tables)
        return
    servers.leave_server_core()
    contenders = chosen(wanted.only)
    described = machine()
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as place,
        running_redis(Path(place)) as redis,
    ):
        numbers = wanted.limits or (QUICK_NUMBERS if wanted.quick else NUMBERS)
        chosen_settings = settings(wanted.store, numbers, redis, Path(place))
        sections = []
        for section in _sections(contenders, chosen_settings, wanted, described):
            print(section, end="\n\n", flush=True)
            sections.append(section)
    _update(wanted.update, "\n\n".join(sections))


def _update(document: Path | None, tables: str) -> None:
    if document is not None:
        document.write_text(replaced(document.read_text(), tables))


def _sections(
    contenders: list[Contender], where: list[Setting], wanted: argparse.Namespace, described: str
) -> Iterator[str]:
    titles = [setting.title for setting in where]
    in_process, by_servers = QUICK if wanted.quick else THOROUGH
    if wanted.rounds is not None:
        in_process = replace(in_process, rounds=wanted.rounds)
        by_servers = replace(by_servers, rounds=wanted.rounds)
    yield report.introduction(contenders, described)
    if wanted.part in (None, "inprocess"):
        added = inprocess.measure(contenders, where, in_process)
        yield report.added(contenders, titles, added)
    if wanted.part in (None, "servers"):
        gc.collect()
        gc.freeze()  # what is left of the first part would slow the load generator
        served = servers.Served()
        served.measure(contenders, where, by_servers)
        yield report.served(contenders, titles, served)


def _wanted() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=sys.modules[__name__].__doc__)
    parts = (*PARTS, "journal", "forward", "ledger", "features")
    parser.add_argument("part", nargs="?", choices=parts, help="one part alone")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    parser.add_argument("--rounds", type=int, help="rounds of each part; else 11 in process and 4 of servers")
    parser.add_argument("--only", type=_words, default=NAMES, help=f"contenders of {', '.join(NAMES)}")
    parser.add_argument("--store", type=_words, default=STORES, help=f"stores of {', '.join(STORES)}")
    parser.add_argument("--limits", type=int, nargs="+", help="numbers of limits, up to 3; else 1 and 3")
    parser.add_argument("--update", type=Path, help="a document to put the tables into")
    wanted = parser.parse_args()
    for given, known in ((wanted.only, NAMES), (wanted.store, STORES), (wanted.limits or (), (1, 2, 3))):
        if not set(given) <= set(known):
            parser.error(f"{given} are not all of {known}")
    return wanted


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
