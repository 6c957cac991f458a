"""Run as `python -m bench`: the comparison with what people would use instead.

A word names one part of it alone, and `probe` has everyone show that they count. Other words measure what is
ours alone: `journal` the cost of one event, `forward` how fast events reach a sink, `features` the cost of
each, `profile` where the time goes, `ledger` how fast it answers, `signals` how well changes are told.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bench import features, forward, journal, ledger, profiled, report, signals
from bench.comparison import (
    NUMBERS,
    PARTS,
    QUICK,
    STORES,
    THOROUGH,
    Wanted,
    compare,
    probe_all,
    stores_of_the_run,
)
from bench.contenders import NAMES, chosen
from bench.machine import machine
from bench.readme import replaced

_ROOT = Path(__file__).parents[1]
_QUICK_NUMBERS = (3,)
_TABLES = {"features": features.main, "profile": profiled.main}
_APART = ("probe", "journal", "forward", "features", "profile", "ledger", "signals")


def main() -> None:
    """Measure what is asked for, and print it."""
    wanted = _wanted()
    if wanted.part == "probe":
        with stores_of_the_run() as stores:
            for told in probe_all(chosen(wanted.only), [stores.memory, stores.tcp], stores):
                print(told, flush=True)
    elif wanted.part == "journal":
        journal.main(5_000 if wanted.quick else 50_000)
    elif wanted.part == "forward":
        forward.main(2_000 if wanted.quick else 100_000)
    elif wanted.part == "ledger":
        ledger.main(20_000 if wanted.quick else 10_000_000)
    elif wanted.part in ("features", "signals", "profile"):
        tables = signals.main() if wanted.part == "signals" else _TABLES[wanted.part](quick=wanted.quick)
        print(tables)
        if wanted.update is not None:
            _put(wanted.update, tables)
    else:
        _compare(wanted)


def _compare(wanted: argparse.Namespace) -> None:
    effort = QUICK if wanted.quick else THOROUGH
    if wanted.rounds is not None:
        effort = replace(
            effort,
            in_process=replace(effort.in_process, rounds=wanted.rounds, seconds=600),
            by_servers=replace(effort.by_servers, rounds=wanted.rounds, seconds=600),
        )
    contenders = chosen(wanted.only)
    numbers = wanted.limits or (_QUICK_NUMBERS if wanted.quick else NUMBERS)
    asked = Wanted([wanted.part] if wanted.part else list(PARTS), contenders, wanted.store, numbers, effort)
    described = machine()
    with stores_of_the_run() as stores:
        results = compare(asked, stores, lambda told: print(told, file=sys.stderr, flush=True))
        introduction = report.introduction(contenders, described)
        short = report.summary(results, contenders)
        full = "\n\n".join([introduction, *report.sections(results, contenders)])
    if not wanted.part:
        full += f"\n\n### Where the time goes\n\n{profiled.main(quick=wanted.quick)}"
    print(full, end="\n\n")
    print(short)
    if wanted.update is not None:
        if short:
            _put(wanted.update / "README.md", f"Measured {described}.\n\n{short}")
        _put(wanted.update / "docs" / "performance.md", full)
        from bench import plots  # noqa: PLC0415 - matplotlib takes a second to load

        plots.draw(results, contenders, wanted.update / "docs" / "img")


def _put(document: Path, tables: str) -> None:
    document.write_text(replaced(document.read_text(), tables))


def _wanted() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=sys.modules[__name__].__doc__)
    parser.add_argument("part", nargs="?", choices=(*PARTS, *_APART), help="one part alone")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    parser.add_argument("--rounds", type=int, help="rounds in process and of servers, however long they take")
    parser.add_argument("--only", type=_words, default=NAMES, help=f"contenders of {', '.join(NAMES)}")
    parser.add_argument("--store", type=_words, default=STORES, help=f"stores of {', '.join(STORES)}")
    parser.add_argument("--limits", type=int, nargs="+", help="numbers of limits, up to 8; else 1, 3 and 8")
    parser.add_argument(
        "--update",
        type=Path,
        nargs="?",
        const=_ROOT,
        help="where to put the tables and pictures: the folder of README.md and docs, else this project's; "
        "for `features` and `signals` a document",
    )
    wanted = parser.parse_args()
    for given, known in ((wanted.only, NAMES), (wanted.store, STORES), (wanted.limits or (), range(1, 9))):
        if not set(given) <= set(known):
            parser.error(f"{given} are not all of {tuple(known)}")
    return wanted


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
