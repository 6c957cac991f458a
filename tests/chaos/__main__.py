"""`python -m chaos`: chaos for as long as is said, with the table that docs/guarantees.md shows."""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import fields

from chaos.driver import Chaos


def main() -> int:
    """Run once, print what came of it, and give 0 where nothing was lost or counted twice."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--no-roll-back", action="store_true", help="Redis forgets nothing.")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    chaos = Chaos(seed, chosen.seconds, rolls_back=not chosen.no_roll_back)
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
    return 0 if verdict.whole else 1


if __name__ == "__main__":
    sys.exit(main())
