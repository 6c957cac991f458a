"""The policy of meter_mw in a run: the same limits, with events journaled and brought to a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.workload import Limit, Setting

os.environ.setdefault("METER_KEY_SECRET", "a-secret-for-measuring-and-for-nothing-else-0123456789")


def policy(setting: Setting, speed: str = "strict") -> dict[str, object]:
    """Give the policy as `meter.yaml` would have it; a limit by the day is a cap, the others are rates."""
    limits = [_entry(number, each) for number, each in enumerate(setting.limits)]
    return {
        "version": 1,
        "service": "bench",
        "store": setting.redis or "memory://",
        "store_check": "off",
        "speed": speed,
        "identity": {"api_key": [{"header": "X-API-Key"}], "secret": "${METER_KEY_SECRET}"},
        "routes": [{"path": "/v1/items/{item_id:int}", "methods": ["GET"], "name": "items.read"}],
        "on_store_failure": {"deadline": "5s"},  # rivals have none
        "plans": {"default": {"limits": limits}},
        "events": {
            "journal": str(setting.folder / "journal"),
            "sinks": [{"file": str(setting.folder / "usage.jsonl")}],
        },
    }


def _entry(number: int, limit: Limit) -> dict[str, object]:
    return {"name": f"limit-{number}", "cap" if limit.period == "day" else "rate": str(limit)}
