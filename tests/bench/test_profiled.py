"""The profile of a request: every room of the package is in it, and nothing is left over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bench import profiled

if TYPE_CHECKING:
    import pytest


def test_the_shares_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each column comes to the whole, and the store is waited for where it decides each request."""
    monkeypatch.chdir(tmp_path)
    rows = re.findall(r"^\| ([^*|]+) \| (\d+)% \| (\d+)% \|$", profiled.main(quick=True), re.MULTILINE)
    assert [name for name, _, _ in rows][:-1] == list(profiled._ROOMS)
    for column in (1, 2):
        assert 96 <= sum(int(row[column]) for row in rows) <= 104
    waiting = rows[-1]
    assert int(waiting[1]) < int(waiting[2])


def test_every_file_of_the_request_path_is_in_a_room() -> None:
    """A new module of the path has to be told where it belongs."""
    path = (
        "asgi/http core ready turnstile identifying judging leasing/pool stores/redis_pipe respond exchange"
    )
    for name in (*path.split(), "meter", "booking", "closing", "events", "journal/journal", "recovery/trail"):
        assert profiled._room(f"/src/meter_mw/{name}.py"), name
    assert not profiled._room("/src/starlette/routing.py")
