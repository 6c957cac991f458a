"""Limits that are shared more widely are leased too: a request draws from the pool of each holder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from leasing.crowd import REQUEST
from meter_mw.admission import Answer
from meter_mw.meter import Meter
from meter_mw.reporting import Usage

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_everyone_and_a_subject_lend_apart(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both counts are exact in the end, and most requests have asked nobody."""
    monkeypatch.setenv("METER_KEY_SECRET", "s" * 32)
    limits = [{"cap": "1000000/year"}, {"cap": "9000000/year", "scope": "everyone", "name": "all"}]
    meter = Meter(
        {
            "version": 1,
            "service": "shared",
            "store": redis_url,
            "speed": "leased",
            "identity": {"secret": "${METER_KEY_SECRET}"},
            "plans": {"default": {"limits": limits}},
            "events": {"journal": str(tmp_path / "journal"), "sinks": [{"file": str(tmp_path / "usage")}]},
            "on_store_failure": {"deadline": "10s"},
        }
    )
    end = time.monotonic() + 20
    sent = drawn = 0
    while drawn < 100:
        assert time.monotonic() < end
        admission = meter.admit(REQUEST)
        assert admission.answer is Answer.ALLOWED
        sent += 1
        drawn += admission.lent is not None and len(admission.lent.shares) == 2
        exchange = meter.exchange(admission, "GET")
        exchange.begin(200, None)
        meter.conclude(exchange)
        time.sleep(0.001)
    assert meter.flush(20)
    usage = meter.usage(REQUEST)
    assert isinstance(usage, Usage)
    used = {each.standing.line.limit.name: each.standing.used for each in usage.limits}
    assert used == {"requests-year": sent, "all": sent}
    meter.close()
