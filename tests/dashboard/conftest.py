"""The shop whose pages are looked at: one ledger for all tests, that none of them changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashboard.browsing import Reader
from dashboard.scenes import ENVIRON, NOW_US, fill, written
from meter_mw.dashboard import app
from meter_mw.policy.loader import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.applications import Starlette


@pytest.fixture(autouse=True)
def _environ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METER_DASHBOARD_TOKEN", raising=False)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a shop with a ledger and a policy."""
    folder = tmp_path_factory.mktemp("shop")
    fill(folder)
    written(folder)
    return folder


@pytest.fixture(scope="session")
def pages(shop: Path) -> Iterator[Starlette]:
    """Give the pages of the shop, for this machine."""
    found = app(load(shop / "meter.yaml", ENVIRON), clock=lambda: NOW_US * 1000)
    yield found
    Reader(found).close()


@pytest.fixture
def reader(pages: Starlette) -> Reader:
    """Give a reader at the machine itself."""
    return Reader(pages)


@pytest.fixture
def opens() -> Iterator[Callable[..., Reader]]:
    """Open pages for a reader at some address; they are closed when the test ends."""
    opened: list[Reader] = []

    def opening(policy: object, client: str = "127.0.0.1", base: str = "", **more: object) -> Reader:
        found = app(policy, **{"clock": lambda: NOW_US * 1000, **more})  # type: ignore[arg-type]
        opened.append(Reader(found, client=client, base=base or "http://127.0.0.1:9310"))
        return opened[-1]

    yield opening
    for each in opened:
        each.close()
