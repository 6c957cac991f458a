"""Signals on made-up histories: precision and recall have floors, and docs/signals.md says what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import signals
from meter_mw.policy.signals import Kind, SignalRules

PAGE = (Path(__file__).parents[2] / "docs" / "signals.md").read_text()
REGULAR = ("steady", "weekday-heavy", "growing", "shrinking", "holiday")


@pytest.mark.parametrize(
    "shape", [each for each in signals.SHAPES if each.name in REGULAR], ids=lambda each: each.name
)
def test_changes_of_regular_customers_are_told(shape: signals.Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine of ten signals are of something, and of ten changes eight at least are told."""
    monkeypatch.setattr(signals, "SHOPS", 2)
    for score in signals.measured(shape, SignalRules()).values():
        assert score.precision is not None
        assert score.recall is not None
        assert score.precision >= 0.85
        assert score.recall >= 0.75


@pytest.mark.parametrize("shape", signals.SHAPES, ids=lambda each: each.name)
def test_quiet_customers_are_left_alone(shape: signals.Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one false signal in a thousand days; of wildly different days five."""
    monkeypatch.setattr(signals, "SHOPS", 1)
    found = signals.measured(shape, SignalRules(), is_quiet=True)
    days = signals.CUSTOMERS * ((signals.LAST - signals.LOOKED_AT).days + 1)
    assert sum(each.false for each in found.values()) <= days * (5 if shape.name == "bursty" else 1) / 1000


def test_a_signal_that_is_not_of_a_change_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thresholds that everything reaches, precision falls: the bench does tell."""
    monkeypatch.setattr(signals, "SHOPS", 1)
    bursty = next(each for each in signals.SHAPES if each.name == "bursty")
    loose = SignalRules(deviations=0.5, spike_times=1.1, least=1)
    precision = signals.measured(bursty, loose)[Kind.SPIKE].precision
    assert precision is None or precision < 0.5


@pytest.mark.parametrize("shape", signals.SHAPES[:2], ids=lambda each: each.name)
def test_the_page_has_what_comes_out(shape: signals.Shape) -> None:
    """For two of the shapes; `python -m bench signals --update docs/signals.md` puts all of them there."""
    rules = SignalRules()
    quiet = sum(each.false for each in signals.measured(shape, rules, is_quiet=True).values())
    days = signals.SHOPS * signals.CUSTOMERS * ((signals.LAST - signals.LOOKED_AT).days + 1)
    assert signals.row(f"{shape.name}: {shape.what}", signals.measured(shape, rules), quiet, days) in PAGE
