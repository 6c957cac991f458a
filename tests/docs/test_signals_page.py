"""The page on signals: its thresholds and worked numbers are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import date
from pathlib import Path

from meter_mw.policy.loader import load
from meter_mw.policy.signals import Kind, SignalRules
from meter_mw.signals.history import History, Told
from meter_mw.signals.moves import drop, spike

PAGE = (Path(__file__).parents[2] / "docs" / "signals.md").read_text()
MONDAY = date(2026, 6, 1).toordinal()
WEEK = (1000, 1100, 1000, 900, 1000, 100, 50)


def history(*changed: int) -> History:
    """Give ten weeks of the customer on the page, and what comes then."""
    calls = [*WEEK * 10, *changed]
    return History("acme", {MONDAY + day: Told(units) for day, units in enumerate(calls)}, SignalRules())


def test_the_thresholds_of_the_page_are_the_defaults(tmp_path: Path) -> None:
    """But for what it shows can be off, and the holidays."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "meter.yaml").write_text(f"version: 1\nservice: shop\n{block}")
    shown = load(tmp_path / "meter.yaml", {"METER_KEY_SECRET": "a-secret-of-some-length"}).signals
    assert shown.off == {Kind.FIRST_USE}
    assert replace(shown, off=frozenset(), holidays=frozenset()) == SignalRules()
    assert {each.value for each in Kind} <= set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert len(fields(SignalRules)) == 15


def test_the_worked_drop() -> None:
    """A fifth of the week, up to Wednesday and up to Thursday."""
    known = history(*(each // 5 for each in WEEK))
    found = drop(known, MONDAY + 73, {})
    assert found is not None
    assert found.evidence == {"calls": 1950, "expected": 5150, "days": 7, "missing": 0.621}
    said = ("1,950 calls", "5,150 were expected", "3,200 or 62.1 %", "2,670 calls")
    assert [each for each in said if each not in PAGE] == []
    assert drop(known, MONDAY + 72, {}) is None
    assert sum(known.calls(MONDAY + day) for day in range(66, 73)) == 2670


def test_the_worked_spike() -> None:
    """Six times what is expected, where three times is the threshold."""
    found = spike(history(1000, 1100, 6000), MONDAY + 72, {})
    assert found is not None
    assert (found.score, found.evidence["expected"], found.evidence["most_before"]) == (2.0, 1000, 1100)
    assert "6,000 calls are 6 times the 1,000" in PAGE
    assert "a score of 2. The record was 1,100 calls" in PAGE
