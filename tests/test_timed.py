"""A test that fails is taken again only if it is marked, and only if the machine was late."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
from support import timed
from support.timed import pytest_runtest_protocol
timed.ON_TIME = {on_time}
"""
CASE = """
import pytest
takes = []

@pytest.fixture
def fresh():
    return []

{mark}
def test_it(fresh):
    assert not fresh
    fresh.append(1)
    takes.append(1)
    assert len(takes) == {passes}, len(takes)
"""
NEVER, ALWAYS = 0.0, 1e9
"""When a machine is on time, so that it is found to be late always, and never."""


@pytest.mark.parametrize(
    ("mark", "on_time", "passes", "told"),
    [
        ("@pytest.mark.timed", NEVER, 3, "1 passed"),
        ("@pytest.mark.timed", NEVER, 0, "AssertionError: 6"),
        ("@pytest.mark.timed", ALWAYS, 3, "AssertionError: 1"),
        ("", NEVER, 3, "AssertionError: 1"),
    ],
    ids=["late, passes in the end", "late, fails to the end", "on time", "not marked"],
)
def test_takes(mark: str, on_time: float, passes: int, told: str, pytester: pytest.Pytester) -> None:
    """Each take has fixtures of its own, and one report tells of all: the last."""
    pytester.makeconftest(CONFTEST.format(on_time=on_time))
    pytester.makepyfile(CASE.format(mark=mark, passes=passes))
    pytester.makeini("[pytest]\nmarkers = timed\n")
    said = pytester.runpytest_inprocess("-p", "no:cacheprovider").stdout.str()
    assert told in said
    assert said.splitlines()[-1].count("1 ") == 1
