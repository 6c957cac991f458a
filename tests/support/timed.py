"""Tests that say how soon something happens: one that fails while the machine is late is taken again.

Rule 1: a test that fails while the machine is on time fails at once.
Rule 2: it is taken again from its fixtures on, and the last failure is the one that is told.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from types import TracebackType

TICK = 0.005
ON_TIME = 0.01
"""Seconds by which a machine that is on time wakes a thread too late."""

TAKES = 6
"""How often a test is taken that fails, and found the machine late each time."""


class Watch:
    """Measures how late this machine wakes a thread: it has other things to do, too."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def _measure(self) -> None:
        before = time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            self.worst = max(self.worst, now - before - TICK)
            before = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that is marked `timed`."""
    if item.get_closest_marker("timed") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for take in range(1, TAKES + 1):
        with Watch() as watch:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not any(each.failed for each in reports) or watch.worst < ON_TIME:
            break
        item.user_properties.append(("failed and late", f"take {take}, {watch.worst:.3f} s"))
        item._initrequest()  # type: ignore[attr-defined]  # as its fixtures have been torn down
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
