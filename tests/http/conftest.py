"""Servers that last for the session, each started when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Give the running server of a name."""
    started: dict[str, Server] = {}

    def get(name: str) -> Server:
        if name not in started:
            started[name] = servers.start(name, tmp_path_factory.mktemp(name))
        return started[name]

    yield get
    for server in started.values():
        server.stop()
