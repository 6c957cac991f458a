"""The usage endpoint on real servers: it agrees with the limit fields, and asking consumes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import http_sf
import httpx
import pytest

import servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.servers import RedisServer

APPS = {
    "uvicorn-h11": "apps.usage_app:asgi",
    "uvicorn-httptools": "apps.usage_app:asgi",
    "gunicorn-gthread": "apps.usage_app:wsgi",
    "django-gunicorn": "apps.usage_django:app",
    "django-uvicorn": "apps.usage_django:asgi",
}

LIMITS = [
    {"name": "rate", "rate": "100/hour", "burst": 50},
    {"name": "day", "cap": "40/day", "warn": ["50%"]},
    {"name": "month", "cap": "3/month", "overage": "bill", "ceiling": "1000%"},
    {"name": "busy", "concurrent": 8},
    {"name": "egress", "meter": "egress", "cap": "1GB/month"},
    {"name": "everyone", "cap": "1000/year", "scope": "everyone"},
]


def policy(home: Path, store: str) -> Path:
    """Write a policy whose usage endpoint is exempt."""
    document = {
        "version": 1,
        "service": "usage",
        "store": store,
        "speed": "strict",  # what is lent counts as used for a moment, and these are told of every unit
        "identity": {"secret": "${METER_KEY_SECRET}"},
        "meters": {"requests": {"count": "requests"}, "egress": {"count": "response-bytes"}},
        "plans": {"default": {"limits": LIMITS}},
        "routes": [{"path": "/usage", "exempt": True}, {"path": "/mounted", "exempt": True}],
        "events": {
            "journal": str(home / "journal"),
            "sinks": [{"file": str(home / "usage.jsonl")}],
        },
    }
    path = home / "meter.yaml"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(params=APPS)
def name(request: pytest.FixtureRequest) -> str:
    """Give the name of a server."""
    return str(request.param)


@pytest.fixture(params=["memory", "redis"])
def client(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, redis_url: str
) -> Iterator[httpx.Client]:
    """Give a client of an app that keeps its counts in memory, or in Redis."""
    store = redis_url if request.param == "redis" else "memory://"
    environment = {"METER_POLICY": str(policy(tmp_path, store))}
    with (
        servers.running(name, tmp_path, app=APPS[name], environment=environment) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


def told(client: httpx.Client, key: str, path: str = "/usage") -> dict[str, dict[str, object]]:
    """Ask for a key's usage, and give its limits by name."""
    answer = client.get(path, headers={"X-API-Key": key})
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers
    return {each["name"]: each for each in answer.json()["limits"]}


def without_time(limits: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Leave out what changes while time passes, and what a rate gets back."""
    return {
        name: {field: value for field, value in each.items() if field != "reset_in_s"}
        for name, each in limits.items()
    }


def test_it_agrees_with_the_limit_fields_and_changes_nothing(
    client: httpx.Client, redis_server: RedisServer
) -> None:
    """Fifty answers later Redis holds what it held, and the next request is told what it would have been."""
    for _ in range(5):
        answer = client.get("/hello", headers={"X-API-Key": "mine"})
        assert answer.status_code == 200
    fields = http_sf.parse(answer.headers["ratelimit"].encode(), tltype="list")
    servers.wait_for(lambda: told(client, "mine")["egress"]["used"] == 25, "the bytes to be settled")
    servers.wait_for(lambda: told(client, "mine")["busy"]["used"] == 0, "the slot to be free")
    limits = told(client, "mine")
    left = {name: parameters["r"] for name, parameters in fields}  # type: ignore[union-attr, misc]
    assert left.keys() == limits.keys()
    for each in ("rate", "day", "month", "everyone"):
        assert limits[each]["remaining"] == left[each]
    assert (limits["day"]["used"], limits["month"]["used"], limits["everyone"]["used"]) == (5, 5, 5)
    assert (limits["month"]["overage"], limits["month"]["remaining"]) == (2, 0)
    assert limits["busy"] == {
        "name": "busy",
        "meter": "concurrent",
        "scope": "subject",
        "kind": "concurrent",
        "limit": 8,
        "used": 0,
        "remaining": 8,
    }
    before = _dump(redis_server)
    answers = [without_time(told(client, "mine")) for _ in range(50)]
    assert answers == [without_time(limits)] * 50
    assert _dump(redis_server) == before
    answer = client.get("/hello", headers={"X-API-Key": "mine"})
    fields = http_sf.parse(answer.headers["ratelimit"].encode(), tltype="list")
    after = {name: parameters["r"] for name, parameters in fields}  # type: ignore[union-attr, misc]
    assert (after["day"], after["rate"]) == (left["day"] - 1, left["rate"] - 1)


def _dump(server: RedisServer) -> dict[bytes, bytes]:
    with server.client() as client:
        everything = {name: client.dump(name) for name in client.scan_iter()}
    return {name: value for name, value in everything.items() if not name.startswith(b"mw:{canary}")}


def test_each_key_is_told_of_itself(client: httpx.Client) -> None:
    """Another key's usage is not in it, and a request without a key has none; both mounts answer."""
    for _ in range(3):
        client.get("/hello", headers={"X-API-Key": "mine"})
    assert told(client, "mine")["day"]["used"] == 3
    other = told(client, "other", "/mounted/")
    assert (other["day"]["used"], other["day"]["remaining"]) == (0, 40)
    assert other["everyone"]["used"] == 3
    nobody = client.get("/usage")
    assert (nobody.status_code, nobody.json()["status"]) == (401, 401)
    head = client.head("/usage", headers={"X-API-Key": "mine"})
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 500
    post = client.post("/usage", headers={"X-API-Key": "mine"})
    assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")
