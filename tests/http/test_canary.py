"""A key that is sent in every way is found nowhere: not in Redis, a log, an event, a journal or an answer."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
import wire

import servers
from servers import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server
    from support.servers import RedisServer

VARIANTS = ("main", "redis", "strict", "shadow", "own-body", "away-open", "away-closed")


def ways(canary: str) -> list[tuple[tuple[str, str], ...]]:
    """Give the fields that carry a key: usable, ambiguous, too long, and known to crash the resolver."""
    return [
        (("X-API-Key", canary),),
        (("Authorization", f"Bearer {canary}"),),
        (("X-API-Key", f"boom{canary}"),),
        (("X-API-Key", canary), ("X-API-Key", canary)),
        (("X-API-Key", f"{canary},other"),),
        (("X-API-Key", f"{canary}\tother"),),
        (("X-API-Key", f"{canary}\xe9"),),
        (("X-API-Key", canary + "k" * 600),),
        (("Authorization", f"Bearer {canary} other"),),
        (("Authorization", f"Bearer {canary}"), ("Authorization", "Bearer other")),
        (("X-Api_Key", canary),),
    ]


def holders(server: Server) -> list[Path]:
    """Give every file that the server and its meters wrote."""
    return [path for path in server.home.rglob("*") if path.is_file() and path.name != "big.bin"]


@pytest.mark.parametrize("name", servers.COMMANDS)
def test_a_canary(name: str, tmp_path: Path, redis_url: str, redis_server: RedisServer) -> None:
    """With debug logs on, a crashing handler, a failing resolver and a store that is away."""
    canary = f"sk-canary-{secrets.token_hex(8)}"
    environment = {"SUBJECT_REDIS": redis_url, "SUBJECT_DEBUG": "1", "PYTHONASYNCIODEBUG": "1"}
    said = bytearray()
    statuses: dict[int, int] = {}
    with servers.running(name, tmp_path / "home", environment=environment) as server:
        for variant in VARIANTS:
            for fields in ways(canary):
                for target in ("/v1/items/1", "/v1/crash", "/v1/tokens/late"):
                    raw = wire.request("GET", target, [*fields, ("X-Variant", variant)])
                    answer = wire.talk(server.port, raw)
                    statuses[answer.status] = statuses.get(answer.status, 0) + 1
                    said += repr(answer.fields).encode() + answer.body
        query = wire.request("GET", f"/v1/items/1?api_key={canary}", [("X-Variant", "query")])
        logged = server.output
        assert wire.talk(server.port, query).status == 200
        wait_for(lambda: server.events("redis") and server.events("query"), "the last events")
    assert {200, 400, 401, 429, 500, 503} - {429} <= set(statuses)
    assert canary.encode() not in said
    assert canary.encode() not in logged
    # A server may log the URL of the last request; what we keep may not hold it.
    for path in holders(server):
        if path.name != "output.log":
            assert canary.encode() not in path.read_bytes(), path
    with redis_server.client() as client:
        keys = list(client.scan_iter(count=1000))
        assert keys
        for key in keys:
            assert canary.encode() not in bytes(key)
            assert canary.encode() not in client.dump(key)


def test_the_canary_would_be_found(tmp_path: Path) -> None:
    """The search sees what a journal and a log hold: the pseudonym of the key is in both."""
    with servers.running("uvicorn-h11", tmp_path / "home", environment={"SUBJECT_DEBUG": "1"}) as server:
        wire.talk(
            server.port, wire.request("GET", "/v1/items/visible-id", [("X-API-Key", "free.visible-subject")])
        )
        server.events_of("visible-subject", 1)
        found = {path.parent.name for path in holders(server) if b"visible-subject" in path.read_bytes()}
        assert any("journal" in str(path) for path in holders(server))
        assert b"visible-id" in server.output
    assert "home" in found
