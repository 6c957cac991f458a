"""Policies whose limits are tried at one edge, each plan with its own, and servers that hold to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import servers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from servers import Server

EGRESS = {"name": "egress", "meter": "egress", "cap": "1000 B/month", "reserve": "100 B"}
CUT = {**EGRESS, "on_exhausted": "cut"}
INGRESS = {"name": "ingress", "meter": "ingress", "cap": "200 kB/month", "reserve": "10 kB"}
SLOT = {"name": "slot", "concurrent": 1}


def rules(home: Path, plans: Mapping[str, Sequence[object]], **changes: object) -> dict[str, object]:
    """Give the policy: keys are `plan.subject`."""
    return {
        "version": 1,
        "service": "limited",
        "store": "memory://",
        "on_store_failure": {"deadline": "5s"},
        "identity": {
            "api_key": [{"header": "X-API-Key"}],
            "secret": "${METER_KEY_SECRET}",
            "anonymous": "reject",
        },
        "keys": {"resolver": "apps.subject:resolve"},
        "meters": {
            "requests": {"count": "requests"},
            "ingress": {"count": "request-bytes"},
            "egress": {"count": "response-bytes"},
        },
        "plans": {"default": {}} | {name: {"limits": list(limits)} for name, limits in plans.items()},
        "events": {
            "journal": str(home / "journal"),
            "sinks": [{"file": str(home / "events-main.jsonl")}],
        },
        **changes,
    }


def serve(name: str, app: str, home: Path, store: str, *, workers: int = 1) -> Server:
    """Start a server with plans for whatever can be limited."""
    plans: dict[str, Sequence[object]] = {
        "cut": [{**CUT, "cap": "300 kB/month"}],
        "ingress": [INGRESS],
        "one": [SLOT, {**CUT, "cap": "1 GB/month", "reserve": "300 MB"}],
        "four": [{"concurrent": 4}],
    }
    (home / "policies").mkdir(parents=True)
    (home / "policies" / "main.yaml").write_text(json.dumps(rules(home, plans, store=store)))
    return servers.start(name, home, app=app, workers=workers)


def key(plan: str, subject: str = "someone") -> list[tuple[str, str]]:
    """Give the field of a client of a plan."""
    return [("X-API-Key", f"{plan}.{subject}")]
