"""Eight processes cross the same lines together: each threshold is told once, overage is split exactly."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from fleet.fleet import GUNICORN, UVICORN, policy_file, press, serving
from meter_mw.model import REQUEST_EVENT, THRESHOLD_EVENT
from meter_mw.policy.identity import Credential, pseudonym

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUNS = 2
CLIENTS = 60
BODY = len("hello")

pytestmark = pytest.mark.lengthy


@contextmanager
def fleet(policy: Path) -> Iterator[list[int]]:
    """Run four uvicorn and four gunicorn workers until the block ends; then all is delivered."""
    with (
        serving(UVICORN, policy, "--workers", "4") as asgi,
        serving(GUNICORN, policy, "--workers", "4", "--threads", "8") as wsgi,
    ):
        yield [asgi, wsgi]


def pressed(ports: list[int], key: str, requests: int) -> Counter[int]:
    """Have many clients send requests to both servers together."""
    return asyncio.run(press(ports, key, clients=CLIENTS, requests=requests))


def delivered(folder: Path, key: str, kind: str = REQUEST_EVENT) -> list[dict[str, object]]:
    """Give the data of every event of a key, as often as it was delivered."""
    subject = pseudonym(b"s" * 32, Credential(key))
    events = map(json.loads, (folder / "usage.jsonl").read_text().splitlines())
    return [each["data"] for each in events if (each["subject"], each["type"]) == (subject, kind)]


def thresholds(folder: Path, key: str) -> list[object]:
    """Give the thresholds that were told of a key."""
    return sorted(each["threshold"] for each in delivered(folder, key, THRESHOLD_EVENT))  # type: ignore[type-var]


def overage(events: list[dict[str, object]], limit: str) -> list[int]:
    """Give the overage of each event that has some."""
    found = (each.get("overage") for each in events)
    return [each[limit] for each in found if isinstance(each, dict) and limit in each]


def test_each_threshold_is_one_event_whoever_crosses_it(redis_url: str, tmp_path: Path) -> None:
    """80% and 100% of 500, crossed by eight processes, twice over."""
    policy = policy_file(tmp_path, redis_url, "[{cap: 500/month, warn: [80%, 100%]}]")
    with fleet(policy) as ports:
        for run in range(RUNS):
            assert pressed(ports, f"key-{run}", 600) == {200: 500, 429: 100}
    for run in range(RUNS):
        assert thresholds(tmp_path, f"key-{run}") == [400, 500]


def test_overage_is_what_was_served_beyond_the_line(redis_url: str, tmp_path: Path) -> None:
    """Of a cap of 500 that bills up to 150% exactly 750 are served, and 250 of them are overage."""
    limits = "[{name: month, cap: 500/month, overage: bill, ceiling: 150%, warn: [100%]}]"
    policy = policy_file(tmp_path, redis_url, limits)
    with fleet(policy) as ports:
        for run in range(RUNS):
            assert pressed(ports, f"key-{run}", 850) == {200: 750, 429: 100}
    for run in range(RUNS):
        events = delivered(tmp_path, f"key-{run}")
        assert sum(each["requests"] for each in events) == 750  # type: ignore[misc]
        assert overage(events, "month") == [1] * 250
        assert thresholds(tmp_path, f"key-{run}") == [500]


def test_the_request_that_straddles_the_line_is_split(redis_url: str, tmp_path: Path) -> None:
    """At 7 units each the 72nd crosses 500: 3 of it are included, 4 are overage; the 108th would pass 750."""
    limits = "[{name: month, cap: 500/month, overage: bill, ceiling: 150%, warn: [80%, 100%]}]"
    more = "routes: [{path: /hello, meters: {requests: 7}}]"
    policy = policy_file(tmp_path, redis_url, limits, more)
    with fleet(policy) as ports:
        for run in range(RUNS):
            assert pressed(ports, f"key-{run}", 150) == {200: 107, 429: 43}
    for run in range(RUNS):
        events = delivered(tmp_path, f"key-{run}")
        assert sum(each["requests"] for each in events) == 749  # type: ignore[misc]
        assert Counter(overage(events, "month")) == {4: 1, 7: 35}
        assert thresholds(tmp_path, f"key-{run}") == [400, 500]


def test_overage_of_bytes_adds_up_to_what_lies_beyond(redis_url: str, tmp_path: Path) -> None:
    """What the amendments say is the whole less what is included, however settlements interleave."""
    limits = "[{name: bytes, meter: egress, cap: 1000B/month, overage: bill, warn: [50%, 100%]}]"
    policy = policy_file(tmp_path, redis_url, limits)
    with fleet(policy) as ports:
        for run in range(RUNS):
            assert pressed(ports, f"key-{run}", 600) == {200: 600}
    for run in range(RUNS):
        events = delivered(tmp_path, f"key-{run}")
        served = [each for each in events if "amends" not in each]
        amendments = [each for each in events if "amends" in each]
        assert sum(each["response_bytes"] for each in served) == 600 * BODY  # type: ignore[misc]
        assert overage(served, "bytes") == []
        assert sum(overage(amendments, "bytes")) == 600 * BODY - 1_000
        assert thresholds(tmp_path, f"key-{run}") == [500, 1_000]
