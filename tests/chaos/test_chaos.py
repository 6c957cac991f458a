"""Three seeds of chaos: what was served equals what was billed, whatever is killed."""

from __future__ import annotations

import os

import pytest

from chaos.driver import Chaos

pytestmark = pytest.mark.lengthy

SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize(("seed", "rolls_back"), [(1, True), (2, True), (3, False)])
def test_what_was_served_is_what_was_billed(seed: int, rolls_back: bool) -> None:
    """Nothing lost, nothing twice, counters equal to facts; a cap is passed by a roll-back alone."""
    chaos = Chaos(seed, SECONDS, rolls_back=rolls_back)
    try:
        verdict = chaos.run()
        assert verdict.served > 5 * SECONDS
        assert verdict.lost == []
        assert verdict.conflicts == []
        assert verdict.wrong_bytes == []
        assert verdict.drift == {}
        assert verdict.held == []
        if not rolls_back:
            assert verdict.over == {}
    finally:
        chaos.close(keep=not chaos.verdict.whole)
