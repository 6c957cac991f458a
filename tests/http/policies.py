"""The policies of the subject: one a variant, all with the same routes and plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_AWAY = "redis://127.0.0.1:1/0"

_CHANGES: dict[str, dict[str, object]] = {
    "main": {},
    "shadow": {"mode": "shadow"},
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
    {"path": "/v1/{rest:path}", "name": "v1"},
]

_PLANS: dict[str, object] = {
    "default": {"limits": [{"name": "wide", "rate": "10000/second", "burst": 10000}]},
    "public": {"limits": [{"name": "public", "rate": "10000/second", "burst": 10000}]},
    "free": {},
    "tight": {"limits": [{"name": "tight", "rate": "1/second", "burst": 2}]},
    "capped": {"limits": [{"name": "monthly", "cap": "2/month"}]},
    "ten": {"limits": [{"name": "ten", "rate": "10/second", "burst": 10}]},
    "small": {"limits": [{"name": "small", "rate": "1/second", "burst": 4}]},
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
        "meters": {
            "requests": {"count": "requests"},
            "ingress": {"count": "request-bytes"},
            "egress": {"count": "response-bytes"},
            "tokens": {"count": "reported"},
        },
        "routes": _ROUTES,
        "plans": _PLANS,
        "events": {
            "journal": str(home / f"journal-{variant}"),
            "sinks": [{"file": str(home / f"events-{variant}.jsonl")}],
        },
        **changes,
    }
