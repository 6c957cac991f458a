"""An outage is said when it begins, once a minute, and when it is over."""

from __future__ import annotations

import logging

import pytest

from meter_mw.stores.outage import Outage


def test_an_outage_is_said_once_a_minute_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand failures in ninety seconds make two lines, and one more when the store is back."""
    now = [0.0]
    outage = Outage("requests wait", lambda: now[0])
    with caplog.at_level(logging.WARNING):
        outage.is_over()
        for _ in range(1000):
            outage.goes_on(ConnectionError("gone"))
            now[0] += 0.09
        outage.is_over()
        outage.is_over()
    assert [each.message for each in caplog.records] == [
        "the store is away (1 failures so far), and requests wait: gone",
        "the store is away (668 failures so far), and requests wait: gone",
        "the store is back after 90.0 s and 1000 failures",
    ]


def test_the_next_outage_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    """Two outages within a minute are two."""
    outage = Outage("requests wait", lambda: 0.0)
    for _ in range(2):
        outage.goes_on(ConnectionError("gone"))
        outage.is_over()
    assert len(caplog.records) == 4
