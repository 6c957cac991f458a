"""Servers that last for the session, each started when it is first asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import harness
import pytest

import policies
import servers
from support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import Server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a server in one process, so that it is started once."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if "serve" in getattr(item, "fixturenames", ()) and {"name", "edge"} & params.keys():
            server = params.get("name") or servers.EDGES[params["edge"]]
            item.add_marker(pytest.mark.xdist_group(server))


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Give the running server of a name; its variant `redis` has a Redis database of its own."""
    started: dict[str, Server] = {}
    with RedisServer() as redis:

        def get(name: str) -> Server:
            if name not in started:
                environment = {"SUBJECT_REDIS": f"redis://127.0.0.1:{redis.port}/{len(started)}"}
                home = tmp_path_factory.mktemp(name)
                started[name] = servers.start(name, home, environment=environment)
            return started[name]

        yield get
        for server in started.values():
            server.kill()


@pytest.fixture
def edge_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> harness.EdgePolicy:
    """Give the subject's main policy for a meter in this process."""
    monkeypatch.setenv("METER_KEY_SECRET", servers.SECRET)
    path = tmp_path / "meter.yaml"
    path.write_text(json.dumps(policies.document(tmp_path, "main")))
    return harness.EdgePolicy(path, tmp_path / "events-main.jsonl")
