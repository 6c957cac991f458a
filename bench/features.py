"""What each feature costs: the same request, with one thing more in the policy each time.

Run as `python -m bench features`. All take turns in each round, in one process, without a server, against one
Redis. Beside the time that a request takes it says what Redis was asked for: calls of the script for each
request, its settlement included, and the server's own time for each call.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis as redis_py

from bench.machine import machine
from bench.redis_server import running_redis
from meter_mw.asgi import MeterMiddleware

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message, Receive, Scope, Send

BODY = b"x" * 1_024
LARGE = 4 * 1_024 * 1_024
PIECE = 64 * 1_024
RATE = {"rate": "1000000/second"}
CAP = {"cap": "1000000000/month"}
EGRESS = {"name": "egress", "meter": "egress", "cap": "1000000 GB/month"}
KEY = b"bench-feature-key"


def _cost(request: object) -> int:  # noqa: ARG001 - what a pricing is called with
    return 2


FEATURES: dict[str, dict[str, Any]] = {
    "one rate": {},
    "and a cap": {"limits": [CAP]},
    "and a cap that warns": {"limits": [{**CAP, "warn": ["80%", "100%"]}]},
    "and a cap with overage": {"limits": [{**CAP, "overage": "bill", "ceiling": "150%"}]},
    "and a cap of the account": {"limits": [{**CAP, "scope": "account"}]},
    "and a cap of key, account, route and everyone": {
        "limits": [
            {**CAP, "scope": scope, "name": scope} for scope in ("key", "account", "route", "everyone")
        ]
    },
    "and a shadow cap": {"limits": [{**CAP, "mode": "shadow"}]},
    "and slots": {"limits": [{"concurrent": 64}]},
    "and a cap on bytes": {"limits": [EGRESS]},
    "and an estimate": {"limits": [{"meter": "tokens", "cap": "1000000000/month", "estimate": 500}]},
    "and a cost callable": {"cost": _cost},
    "and units from a header": {"from_header": True},
    "4 MiB streamed": {"path": "/large"},
    "4 MiB streamed, a cap on its bytes": {"path": "/large", "limits": [EGRESS]},
    "4 MiB streamed, a cap that cuts": {"path": "/large", "limits": [{**EGRESS, "on_exhausted": "cut"}]},
}


@dataclass(slots=True)
class Cost:
    """What one feature came to: µs of each round, and what Redis was asked for altogether."""

    rounds: list[float] = field(default_factory=list)
    requests: int = 0
    calls: int = 0
    server_us: int = 0


async def _app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's
    headers = [(b"content-type", b"application/octet-stream"), (b"x-tokens", b"7")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/large":
        for _ in range(LARGE // PIECE):
            await send({"type": "http.response.body", "body": b"x" * PIECE, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.body", "body": BODY})


def _policy(feature: Mapping[str, Any], redis: str, folder: Path) -> dict[str, object]:
    tokens = {"count": "reported"} | ({"from_header": "X-Tokens"} if feature.get("from_header") else {})
    route: dict[str, object] = {"path": "/{rest:path}", "name": "all"}
    if "cost" in feature:
        route["cost"] = feature["cost"]
    return {
        "version": 1,
        "service": "bench",
        "store": redis,
        "identity": {"secret": "a secret of the bench alone"},
        "keys": [{"key": KEY.decode(), "subject": "acme", "account": "acme-group"}],
        "meters": {"egress": {"count": "response-bytes"}, "tokens": tokens},
        "routes": [route],
        "plans": {"default": {"limits": [RATE, *feature.get("limits", [])]}},
        "on_store_failure": {"deadline": "5s"},
        "events": {"journal": str(folder / "journal"), "sinks": [{"file": str(folder / "usage.jsonl")}]},
    }


async def _request(app: MeterMiddleware, path: str) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        if not sent or sent[-1].get("more_body"):
            await asyncio.sleep(3_600)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"x-api-key", KEY)],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    if sent[0]["status"] != 200:
        raise RuntimeError(f"a request was answered with {sent[0]['status']}")


def _apps(redis: str, folder: Path) -> dict[str, MeterMiddleware]:
    apps = {}
    for name, feature in FEATURES.items():
        place = folder / str(len(apps))
        place.mkdir()
        apps[name] = MeterMiddleware(_app, policy=_policy(feature, redis, place))
    return apps


async def _measure(
    apps: dict[str, MeterMiddleware], redis: str, rounds: int, requests: int
) -> dict[str, Cost]:
    costs = {name: Cost() for name in FEATURES}
    async with AsyncExitStack() as stack:
        client = stack.enter_context(redis_py.Redis.from_url(redis))
        for name, feature in FEATURES.items():
            stack.push_async_callback(apps[name].meter.aflush)
            await _request(apps[name], feature.get("path", "/small"))
        for _ in range(rounds):
            for name, feature in FEATURES.items():
                await _turn(apps[name], feature.get("path", "/small"), requests, client, costs[name])
    return costs


async def _turn(app: MeterMiddleware, path: str, requests: int, client: redis_py.Redis, cost: Cost) -> None:
    count = max(8, requests // 16) if path == "/large" else requests
    client.config_resetstat()
    taken = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        await _request(app, path)
        taken.append((time.perf_counter_ns() - begin) / 1_000)
    await asyncio.to_thread(app.meter.flush)
    stats = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
    cost.rounds.append(statistics.median(taken))
    cost.requests += count
    cost.calls += stats["calls"]
    cost.server_us += stats["usec"]


def table(costs: dict[str, Cost]) -> str:
    """Give what was measured; the first feature is what the others are compared with."""
    bare = statistics.median(costs["one rate"].rounds)
    lines = [
        "| policy | µs a request | beside one rate | script calls a request | server µs a call |",
        "|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        own = statistics.median(cost.rounds)
        lines.append(
            f"| {name} | {own:.0f} | {own - bare:+.0f} | {cost.calls / cost.requests:.2f} "
            f"| {cost.server_us / max(1, cost.calls):.1f} |"
        )
    return "\n".join(lines)


def main(*, quick: bool) -> str:
    """Measure every feature and give the table."""
    rounds, requests = (1, 32) if quick else (9, 200)
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as place,
        running_redis(Path(place)) as redis,
    ):
        costs = asyncio.run(_measure(_apps(redis.url, Path(place)), redis.url, rounds, requests))
    return f"{machine()}\n\n{table(costs)}"
