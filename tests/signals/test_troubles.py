"""Errors, limits that press, first uses, and what a spike looks like."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import pytest

from meter_mw.model import UNMATCHED
from meter_mw.policy.signals import Kind, SignalRules
from meter_mw.signals.finding import Evidence, signals
from meter_mw.signals.firsts import Uptake
from meter_mw.signals.history import History, Told
from meter_mw.signals.leaks import Looks, Traces, looks
from meter_mw.signals.troubles import CapUse
from signals.histories import MONDAY, RULES, found, history, told, usual

if TYPE_CHECKING:
    from meter_mw.signals.signal import Signal


def with_day(known: History, day: int, told: Told) -> History:
    """Give a history in which a day is another."""
    return replace(known, days={**known.days, MONDAY + day: told}, _usual={}, _trends={})


def all_of(evidence: Evidence, first: int = 28, last: int = 83, rules: SignalRules = RULES) -> list[Signal]:
    return signals(evidence, date.fromordinal(MONDAY + first), date.fromordinal(MONDAY + last), rules)


def test_an_unusual_share_of_errors() -> None:
    """One in a hundred is usual; one in ten is told, and 429 is none of them."""
    known = history(usual(12), errors=0.01)
    (signal,) = found(with_day(known, 72, Told(1000, client_errors=60, server_errors=40)))
    assert told([signal]) == [("errors", 72)]
    figures = {"answers": 1000, "errors": 100, "server_errors": 40, "share": 0.1, "usual_share": 0.01}
    assert signal.evidence == figures
    assert found(with_day(known, 72, Told(1000, client_errors=110, too_many=100))) == []


def test_errors_of_most_are_yours() -> None:
    """An outage is no signal of any of eight subjects."""
    histories = [
        with_day(history(usual(12), errors=0.01, subject=f"s{number}"), 72, Told(1000, server_errors=300))
        for number in range(8)
    ]
    assert found(*histories) == []
    assert told(found(histories[0])) == [("errors", 72)]


def test_what_a_limit_stops_presses() -> None:
    """Five per cent of a week, by 429 of the app or on their way."""
    known = history(usual(12))
    (signal,) = found(with_day(known, 72, Told(1000, client_errors=300, too_many=300)))
    assert (*told([signal])[0], signal.about) == ("pressure", 72, "refused")
    assert signal.evidence == {"answers": 5150, "refused": 300, "share": 0.0583}
    (stopped,) = found(with_day(known, 72, Told(1000, limited=300)))
    assert stopped.evidence == signal.evidence


def test_time_above_most_of_a_cap_presses() -> None:
    """Seven days above four fifths of it are a quarter of 28; the next months are no news."""
    used = {MONDAY + day: day % 28 * 50 + 50 for day in range(28, 84)}
    use = CapUse("requests-month", 1_000, used)
    evidence = Evidence([history(usual(12))], MONDAY, MONDAY, caps={"acme": [use]})
    (signal,) = all_of(evidence)
    assert (*told([signal])[0], signal.about) == ("pressure", 49, "requests-month")
    figures = {"used": 1100, "cap": 1000, "level": 1.1, "days_above": 7, "of_days": 28}
    assert signal.evidence == figures


def test_first_use_and_a_route_that_is_taken_up() -> None:
    """Who was there when the ledger began is not new; a route is once it has served five calls."""
    new, old = history(usual(3), subject="new"), history(usual(12), subject="old")
    served = {MONDAY + 70: 2, MONDAY + 72: 3}
    uptakes = [
        Uptake("old", "export", MONDAY + 70, served),
        Uptake("old", "tried", MONDAY + 70, {MONDAY + 70: 4}),
        Uptake("old", UNMATCHED, MONDAY + 70, served),
        Uptake("new", "export", MONDAY + 70, served),
    ]
    evidence = Evidence([new, old], MONDAY, MONDAY, {"new": MONDAY + 60, "old": MONDAY}, uptakes=uptakes)
    kinds = {Kind.FIRST_USE, Kind.NEW_ROUTE}
    found = [each for each in all_of(evidence, first=0) if each.kind in kinds]
    assert [(each.subject, each.about) for each in found] == [("new", ""), ("old", "export")]
    assert told(found) == [("first_use", 60), ("new_route", 72)]
    assert found[1].evidence == {"served": 5, "days": 3}


PAST = Traces({"a": 500, "b": 500}, dict.fromkeys(range(8, 18), 100), {"read": 900, "write": 100}, 0.01)


@pytest.mark.parametrize(
    ("then", "what", "unlike"),
    [
        (
            Traces({"a": 3000, "b": 3000}, {9: 3000, 14: 3000}, {"read": 5400, "write": 600}, 0.01),
            Looks.GROWTH,
            None,
        ),
        (Traces({"a": 5990, "b": 10}, {3: 6000}, {"read": 6000}, 0.01), Looks.LEAK, "hours, keys"),
        (
            Traces({"a": 10, "b": 10}, {9: 20}, {"admin": 5000, "read": 100}, 0.4),
            Looks.LEAK,
            "errors, routes",
        ),
        (Traces({"a": 10, "b": 10}, {9: 20}, {"read": 90, "write": 10}, 0.4), Looks.UNCLEAR, "errors"),
        (Traces({"c": 5990, "a": 10}, {9: 6000}, {"read": 6000}, 0.01), Looks.GROWTH, None),
        (Traces(None, None, {}, 0.01), Looks.GROWTH, None),
    ],
    ids=["more of the same", "one key by night", "scans", "errors alone", "a key of its own", "nothing kept"],
)
def test_what_a_spike_looks_like(then: Traces, what: Looks, unlike: str | None) -> None:
    """Two ways of being unlike before look like a leak; one alone says nothing."""
    said = looks(then, PAST)
    assert (said["looks_like"], said.get("unlike_before")) == (what.value, unlike)


def test_who_calls_around_the_clock_has_no_rare_hours() -> None:
    """And whoever has one key has none beside it."""
    past = Traces({"a": 1000}, dict.fromkeys(range(24), 40), {"read": 1000}, 0.0)
    assert looks(Traces({"a": 9000}, {3: 9000}, {"read": 9000}, 0.0), past) == {
        "looks_like": "growth",
        "like_before": "errors, routes",
    }
