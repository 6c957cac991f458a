"""Four workers lease from one cap on a real Redis, and are killed at random: it is never passed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leasing.crowd import DECISION, REQUEST
from meter_mw.admission import Answer
from meter_mw.journal import Entry, read_journal
from meter_mw.meter import Meter
from meter_mw.reporting import Usage

pytestmark = pytest.mark.lengthy

CAP = 10_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METER_KEY_SECRET", "s" * 32)


def policy_file(folder: Path, store: str, speed: str, more: str = "") -> Path:
    path = folder / "meter.yaml"
    path.write_text(
        f"""
version: 1
service: leases
store: {store}
speed: {speed}
identity: {{secret: "${{METER_KEY_SECRET}}"}}
plans: {{default: {{limits: [{{cap: {CAP}/year}}, {{rate: 1000000/second}}]}}}}
events: {{journal: {folder / "journal"}, sinks: [{{file: {folder / "usage.jsonl"}}}]}}
on_store_failure: {{deadline: 10s}}
{more}
"""
    )
    return path


def crowd(policy: Path, kills: int, seed: int) -> list[bool]:
    """Run the workers; say of each request whether it got in, in the order of the decisions.

    A good part of them was decided without the store.
    """
    log = policy.with_name("log")
    arguments = [sys.executable, "-m", "leasing.crowd", str(policy), str(log), str(kills), str(seed)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    subprocess.run(arguments, check=True, timeout=120, env=environment, cwd=ROOT)
    decisions = sorted(DECISION.iter_unpack(log.read_bytes()))
    assert sum(is_lent for _, _, is_lent in decisions) > CAP // 50
    return [got_in for _, got_in, _ in decisions]


def recorded(folder: Path) -> int:
    """Count the requests that the journal tells of."""
    payloads = (each.payload for each in read_journal(folder / "journal") if isinstance(each, Entry))
    events = [json.loads(each) for each in payloads if each]
    return len({each["id"] for each in events if each["type"] == "meter_mw.request.v1"})


def counted(meter: Meter) -> int:
    usage = meter.usage(REQUEST)
    assert isinstance(usage, Usage)
    (used,) = [
        each.standing.used for each in usage.limits if each.standing.line.limit.name == "requests-year"
    ]
    return used or 0


def ask(meter: Meter) -> bool:
    """Send one request; say whether it got in."""
    admission = meter.admit(REQUEST)
    if admission.answer is Answer.ALLOWED:
        exchange = meter.exchange(admission, "GET")
        exchange.begin(200, None)
        meter.conclude(exchange)
        return True
    assert admission.answer is Answer.DENIED
    return False


def recovered(policy: Path) -> Meter:
    """Open a meter that has ended what all others left behind."""
    meter = Meter(policy)
    meter.start()
    end = time.monotonic() + 60
    while any(_entries(path) for path in (policy.parent / "journal").glob("*/register")):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert meter.flush(20)
    return meter


def _entries(register: Path) -> int:
    try:
        page = register.read_bytes()[4096:]
    except FileNotFoundError:
        return 0
    return sum(page[at] != 0 for at in range(0, len(page), 1024))


@pytest.mark.timed
@pytest.mark.parametrize("speed", ["auto", "leased"])
def test_of_ten_thousand_the_last_ten_at_most_are_refused_early(
    speed: str, tmp_path: Path, redis_url: str
) -> None:
    policy = policy_file(tmp_path, redis_url, speed)
    decisions = crowd(policy, kills=0, seed=1)
    assert CAP - 10 <= decisions.index(False) <= sum(decisions) <= CAP
    meter = recovered(policy)
    assert counted(meter) == recorded(tmp_path) == sum(decisions)
    meter.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_whoever_is_killed_the_cap_is_not_passed(seed: int, tmp_path: Path, redis_url: str) -> None:
    """What was recorded is at most the cap; what was not used of a dead worker's slice is back."""
    kills = 6
    policy = policy_file(tmp_path, redis_url, "leased")
    crowd(policy, kills, seed)
    meter = recovered(policy)
    spent = counted(meter)
    assert recorded(tmp_path) <= spent <= CAP
    assert (
        spent - recorded(tmp_path) <= kills
    )  # one that was noted as used, and killed before it was recorded
    while ask(meter):
        pass
    assert meter.flush(20)
    assert counted(meter) == CAP
    assert CAP - kills <= recorded(tmp_path) <= CAP
    meter.close()
