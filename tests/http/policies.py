"""The policies of the subject: one a variant, all with the same routes and plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_AWAY = "redis://127.0.0.1:1/0"

_CHANGES: dict[str, dict[str, object]] = {
    "main": {},
    "shadow": {"mode": "shadow"},
    "pool": {"identity": {"unknown": "pool"}},
    "strict": {"identity": {"unknown": "reject", "anonymous": "reject"}},
    "query": {"identity": {"api_key": [{"query": "api_key"}]}},
    "legacy": {"headers": {"legacy": True}},
    "added": {},
    "base-http": {},
    "own-body": {},
    "twice": {},
    "nested": {},
    "spellings": {},
    "gzip-inside": {},
    "gzip-outside": {},
    "cors-outside": {},
    "mount-inside": {},
    "mount-outside": {},
    "forced-script-name": {},
    "away-open": {"store": _AWAY, "on_store_failure": {"rate": "open", "cap": "open"}},
    "away-closed": {"store": _AWAY, "on_store_failure": {"rate": "closed", "cap": "closed"}},
    "redis": {"store": "${SUBJECT_REDIS:-memory://}"},
}

VARIANTS = tuple(_CHANGES)

_ROUTES: list[dict[str, object]] = [
    {"path": "/health", "exempt": True},
    {"path": "/v1/items/{id}", "methods": ["GET"], "name": "items"},
    {"path": "/v1/chat", "methods": ["GET"], "name": "chat"},
    {"path": "/v1/ch\u00e4t", "name": "umlaut"},
    {"path": "/v1/search", "methods": ["POST"], "name": "search", "meters": {"requests": 5}},
    {
        "path": "/v1/files/{name}",
        "methods": ["PUT", "POST"],
        "name": "files",
        "limits": [{"name": "files", "rate": "1/second", "burst": 1}],
    },
    {"path": "/api/v1/items/{id}", "methods": ["GET"], "name": "mounted.items"},
    {"path": "/v1/status/{code}", "name": "status", "charge": {"refund_on": ["5xx"]}},
    {"path": "/v1/paid/{code}", "name": "paid", "charge": {"when": ["2xx", 404]}},
    {"path": "/v1/priced", "name": "priced", "cost": "apps.subject:cost"},
    {"path": "/v1/inner", "name": "inner", "exempt": "counted"},
    {"path": "/v1/strictly", "name": "strictly", "charge": {"on_deny": "self"}},
    {"path": "/v1/widely", "name": "widely", "charge": {"on_deny": "all"}},
    {"path": "/v1/{rest:path}", "name": "v1"},
]

_CUT: dict[str, object] = {"reserve": "100 B", "on_exhausted": "cut"}

_PLANS: dict[str, object] = {
    "default": {"limits": [{"name": "wide", "rate": "10000/second", "burst": 10000}]},
    "public": {"limits": [{"name": "public", "rate": "10000/second", "burst": 10000}]},
    "free": {},
    "tight": {"limits": [{"name": "tight", "rate": "1/second", "burst": 2}]},
    "capped": {"limits": [{"name": "monthly", "cap": "2/month"}]},
    "ten": {"limits": [{"name": "ten", "rate": "10/second", "burst": 10}]},
    "small": {"limits": [{"name": "small", "rate": "1/second", "burst": 4}]},
    "finish": {"limits": [{"name": "egress", "meter": "egress", "cap": "1000 B/month", "reserve": "100 B"}]},
    "cut": {"limits": [{"name": "egress", "meter": "egress", "cap": "1000 B/month", **_CUT}]},
    "ingress": {"limits": [{"name": "ingress", "meter": "ingress", "cap": "1000 B/month"}]},
    "inrate": {"limits": [{"name": "in", "meter": "ingress", "rate": "1000 B/second", "burst": "2000 B"}]},
    "debt": {"limits": [{"name": "out", "meter": "egress", "rate": "1000 B/second", "burst": "500 B"}]},
    "estimate": {"limits": [{"name": "tokens", "meter": "tokens", "cap": "20/month", "estimate": 10}]},
    "untold": {"limits": [{"name": "pages", "meter": "pages", "cap": "5/month"}]},
    "slot": {"limits": [{"concurrent": 1}]},
    "perkey": {"limits": [{"name": "monthly", "cap": "2/month", "scope": "key"}]},
    "pooled": {"limits": [{"name": "pool", "cap": "2/month", "scope": "account"}]},
    "perroute": {"limits": [{"name": "each", "cap": "1/month", "scope": "route"}]},
    "everyone": {"limits": [{"name": "all", "cap": "2/month", "scope": "everyone"}]},
    "warned": {"limits": [{"name": "monthly", "cap": "4/month", "warn": ["50%", "100%"]}]},
    "billed": {"limits": [{"name": "over", "cap": "2/month", "grace": 1, "overage": "bill", "ceiling": 5}]},
    "straddled": {"limits": [{"name": "over", "cap": "3/month", "overage": "bill"}]},
    "bytes": {
        "limits": [
            {"name": "out", "meter": "egress", "cap": "100 B/month", "overage": "bill", "reserve": "10 B"}
        ]
    },
    "graced": {"limits": [{"name": "monthly", "cap": "1/month", "grace": 1}]},
    "raised": {"limits": [{"name": "monthly", "cap": "1/month"}]},
    "bygone": {"limits": [{"name": "monthly", "cap": "1/month"}]},
    "inside": {"limits": [{"name": "monthly", "cap": "1/month"}]},
    "hurry": {"limits": [{"name": "hurry", "rate": "1 per 2 seconds"}]},
    "both": {
        "limits": [
            {"name": "hurry", "rate": "1 per 2 minutes"},
            {"name": "wide", "rate": "1 per 20 minutes", "burst": 5},
        ]
    },
    "ghost": {
        "limits": [{"name": "live", "cap": "9/month"}, {"name": "ghost", "cap": "1/month", "shadow": True}]
    },
    "dream": {"mode": "shadow", "limits": [{"name": "monthly", "cap": "1/month"}]},
    "messages": {
        "limits": [
            {"name": "frames", "meter": "frames", "cap": "3/month"},
            {"name": "egress", "meter": "egress", "cap": "1000 B/month", "on_exhausted": "cut"},
        ]
    },
    "chunks": {"limits": [{"name": "ingress", "meter": "ingress", "cap": "1000 B/month"}]},
    "far": {"limits": [{"name": "egress", "meter": "egress", "cap": "1 GB/month", "on_exhausted": "cut"}]},
    "ends": {"limits": [{"name": "egress", "meter": "egress", "cap": "1 MB/month"}]},
    "cuts": {"limits": [{"name": "egress", "meter": "egress", "cap": "1 MB/month", "on_exhausted": "cut"}]},
    "flood": {
        "limits": [
            {"name": "egress", "meter": "egress", "cap": "20 MB/month", "on_exhausted": "cut"},
            {"name": "ingress", "meter": "ingress", "cap": "20 MB/month"},
        ]
    },
    "tide": {"limits": [{"name": "egress", "meter": "egress", "cap": "20 MB/month"}]},
    "holds": {
        "limits": [
            {"concurrent": 4},
            {"name": "egress", "meter": "egress", "cap": "1 GB/month", "reserve": "1 MB"},
            {"name": "ingress", "meter": "ingress", "cap": "1 GB/month", "reserve": "1 MB"},
        ]
    },
    "wideslots": {
        "limits": [
            {"concurrent": 1000},
            {"name": "egress", "meter": "egress", "cap": "100 GB/month"},
            {"name": "ingress", "meter": "ingress", "cap": "100 GB/month"},
        ]
    },
    "lots": {
        "limits": [
            {"name": "second", "rate": "1000/second"},
            {"name": "minute", "rate": "10000/minute", "scope": "key", "speed": "strict"},
            {"name": "month", "cap": "100000/month", "warn": ["80%"], "overage": "bill"},
            {"name": "account", "cap": "100000/month", "scope": "account", "speed": "strict"},
            {"name": "world", "cap": "100000000/month", "scope": "everyone", "speed": "strict"},
            {"name": "route", "rate": "1000/second", "scope": "route", "speed": "strict"},
            {"name": "egress", "meter": "egress", "cap": "1 GB/month", "on_exhausted": "cut"},
            {"name": "tokens", "meter": "tokens", "cap": "1000000/month", "estimate": 5, "shadow": True},
            {"concurrent": 100},
        ]
    },
}


def document(home: Path, variant: str) -> dict[str, object]:
    """Give the policy of a variant as the mapping that the YAML file holds."""
    identity: dict[str, object] = {
        "api_key": [{"header": "X-API-Key"}, "bearer"],
        "secret": "${METER_KEY_SECRET}",
        "unknown": "accept",
        "anonymous": {"plan": "public", "by": "ip"},
    }
    changes = dict(_CHANGES[variant])
    identity |= changes.pop("identity", {})  # type: ignore[arg-type]
    return {
        "version": 1,
        "service": f"subject-{variant}",
        "store": "memory://",
        "identity": identity,
        "keys": {"resolver": "apps.subject:resolve"},
        "on_store_failure": {"deadline": "5s"},  # a busy machine is no failure
        "meters": {
            "requests": {"count": "requests"},
            "ingress": {"count": "request-bytes"},
            "egress": {"count": "response-bytes"},
            "tokens": {"count": "reported"},
            "pages": {"from_header": "X-Pages", "strip": True},
            "frames": {"count": "request-messages"},
        },
        "routes": _ROUTES,
        "plans": _PLANS,
        "events": {
            "journal": str(home / f"journal-{variant}"),
            "sinks": [{"file": str(home / f"events-{variant}.jsonl")}],
        },
        **changes,
    }
