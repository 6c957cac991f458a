"""`python -m chaos`: chaos for as long as is said; `--update` puts the outcome into docs/guarantees.md."""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

from chaos.driver import Chaos, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"
MARKED = re.compile(r"(<!-- chaos -->\n).*?(<!-- /chaos -->)", re.DOTALL)
COLUMNS = (
    "seed",
    "faults",
    "served",
    "lost",
    "counted twice",
    "bytes not as received",
    "counters off",
    "sent again",
    "calm after",
)


def main() -> int:
    """Run, print what came of it, and give 0 where nothing was lost or counted twice."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first run")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--no-roll-back", action="store_true", help="Redis forgets nothing")
    parser.add_argument("--update", action="store_true", help="put the table into docs/guarantees.md")
    chosen = parser.parse_args()
    first = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    verdicts = [
        _run(seed, chosen.seconds, rolls_back=not chosen.no_roll_back)
        for seed in range(first, first + chosen.runs)
    ]
    table = _table(verdicts, chosen.seconds)
    print(table)
    if chosen.update:
        PAGE.write_text(MARKED.sub(lambda found: found[1] + table + found[2], PAGE.read_text()))
    return 0 if all(each.whole for each in verdicts) else 1


def _run(seed: int, seconds: float, *, rolls_back: bool) -> Verdict:
    print(f"seed {seed}", flush=True)
    chaos = Chaos(seed, seconds, rolls_back=rolls_back)
    try:
        verdict = chaos.run()
    finally:
        chaos.close(keep=not chaos.verdict.whole)
    for each in fields(verdict):
        value = getattr(verdict, each.name)
        shown = f"{len(value)} {value[:5] or ''}" if isinstance(value, list) else value
        print(f"{each.name:12} {dict(shown) if isinstance(shown, dict) else shown}")
    if not verdict.whole:
        print(f"its files are in {chaos.home}")
    return verdict


def _table(verdicts: list[Verdict], seconds: float) -> str:
    """Give what came of the runs as a table, with the faults of all of them below."""
    rows = [
        (
            verdict.seed,
            verdict.faults.total(),
            f"{verdict.served:,}",
            len(verdict.lost),
            len(verdict.conflicts),
            len(verdict.wrong_bytes),
            len(verdict.drift),
            f"{verdict.repeats:,}",
            f"{verdict.calm_s:.0f} s",
        )
        for verdict in verdicts
    ]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
    faults = sum((verdict.faults for verdict in verdicts), Counter[str]())
    said = ", ".join(f"{name} {count}" for name, count in sorted(faults.items()))
    return "\n".join([*lines, "", f"Each run went on for {seconds:.0f} s. The faults: {said}.", "", ""])


if __name__ == "__main__":
    sys.exit(main())
