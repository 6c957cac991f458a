"""The list of what may be recorded is all that is recorded, and all of it is."""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path

import pytest

from meter_mw import closing, fields
from meter_mw.adjusting import Recorded, adjustment
from meter_mw.admission import Admission, Answer, Reached, Standing
from meter_mw.events import encode
from meter_mw.model import (
    ADJUSTMENT_EVENT,
    REQUEST_EVENT,
    THRESHOLD_EVENT,
    WINDOW_EVENT,
    Count,
    Meter,
    Receipt,
    RequestId,
    SubjectId,
    UsageEvent,
)
from meter_mw.policy.policy import NO_ROUTE
from meter_mw.policy.terms import KeyEntry, Line
from meter_mw.recovery.reaping import bill, facts_of
from meter_mw.recovery.register import Entry
from meter_mw.sinks.windows.records import Window
from support.policies import METERS, cap, policy

SOURCES = Path(fields.__file__).parent
BUILDERS = {
    "adjusting.py",
    "closing.py",
    "privacy/telling.py",
    "recovery/reaping.py",
    "signals/telling.py",
    "sinks/windows/records.py",
}
"""The modules that make events; a new one is to be looked at here."""

REWRITERS = {"model.py", "sinks/openmeter.py", "testing/sinks.py"}
"""Those that have an event in hand already, or make samples."""

TOKENS = Meter("tokens", Count.REPORTED)
RULES = policy(cap(10), meters=(*METERS, TOKENS), keys={"k": KeyEntry("acme", "default", "group")})
RID = RequestId("0199c3f0-0000-7000-8000-000000000001")


def admission(**said: object) -> Admission:
    caller = RULES.caller(KeyEntry("acme", "default", "group"), "k1_0")
    return Admission(Answer.ALLOWED, RID, 1_000_000, NO_ROUTE, caller)._replace(**said)


def every_event() -> dict[str, set[str]]:
    """Give the fields of the fullest events that there are, by type."""
    line = Line(RULES.plans["default"].limits[0], 1, 1)
    standing = Standing(line, 0, 0, 0)
    remarked = admission(
        would_deny=(standing,),
        overage=(("cap", 1),),
        first=RID,
        part=1,
        evidence=(("ip", "203.0.113.0/24"), ("user_agent", "curl")),
    )
    full = Receipt(1, 1, {"tokens": 2}, 200, 5, 1, 1, limited_by=("cap",))
    free = Receipt(1, 1, {}, 500, 5, refused=True)
    request = closing.usage_event(RULES, remarked, "GET", full)
    amended, _ = closing.amendment(RULES, admission(), RID, 2, {"tokens": 1})
    reaped, _ = bill(RULES.source, Entry(0, b"", facts_of(RULES, admission(), "GET"), 1, 1))
    threshold = closing.threshold_event(RULES, admission(), Reached(line, 10, 0), 5)
    original = Recorded.decode(RULES, encode(request))
    adjusted = adjustment(RULES, original, {"tokens": -1}, rid="a", time_us=1, reason="why", by="who")
    found: dict[str, set[str]] = {}
    for each in (
        request,
        closing.usage_event(RULES, admission(), "GET", free),
        amended,
        reaped,
        threshold,
        adjusted,
    ):
        found.setdefault(each.type, set()).update(json.loads(encode(each))["data"])
        assert json.loads(encode(each))["data"].keys() == each.data.keys(), "something was left out"
    record = json.loads(Window(1, "acme", 0, 1, 0, 1, {"requests": 1}).record(RULES.source, "t"))
    found[WINDOW_EVENT] = set(record["data"])
    return found


@pytest.mark.parametrize("kind", [REQUEST_EVENT, THRESHOLD_EVENT, ADJUSTMENT_EVENT, WINDOW_EVENT])
def test_an_event_holds_what_is_listed_for_it_and_all_of_that(kind: str) -> None:
    """What the policy names is left to it; of corrections and records so are the units."""
    listed = {each.name for each in fields.DATA if kind in each.types}
    found = every_event()[kind] - {TOKENS.name}
    assert found <= listed
    units = {"requests", "request_bytes", "response_bytes", "request_messages", "response_messages"}
    assert listed - found <= (units if kind in (ADJUSTMENT_EVENT, WINDOW_EVENT) else set())


def test_no_other_module_makes_events() -> None:
    """A module that makes events stands in the list above, so that what it puts into them is looked at."""
    makers = {
        str(path.relative_to(SOURCES))
        for path in SOURCES.rglob("*.py")
        if "UsageEvent(" in (text := path.read_text()).replace("class UsageEvent", "")
        or '"specversion": "1.0"' in text
    }
    assert makers - REWRITERS == BUILDERS


@pytest.mark.parametrize("module", sorted(BUILDERS))
def test_every_name_that_a_module_puts_into_an_event_is_listed(module: str) -> None:
    """A new field fails here until it is listed, with a purpose."""
    listed = {each.name for each in fields.FIELDS} | {"start", "end", "events"}  # of a record's window
    tree = ast.parse((SOURCES / module).read_text())
    keys = {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    assert keys - listed - {"data"} == set()


def test_what_is_not_listed_is_left_out_and_said_without_its_value(caplog: pytest.LogCaptureFixture) -> None:
    data: dict[str, object] = {
        "requests": 1,
        "tokens": 5,
        "referer": "canary",
        "body": {"a": "canary"},
        "vip": True,
    }
    event = UsageEvent("i", "s", SubjectId("acme"), 0, data)
    with caplog.at_level(logging.ERROR):
        written = encode(event)
    assert json.loads(written)["data"] == {"requests": 1, "tokens": 5}
    assert "body, referer, vip" in caplog.text
    assert "canary" not in caplog.text


def test_a_made_up_method_is_not_recorded() -> None:
    event = closing.usage_event(RULES, admission(), "CANARY-7F", Receipt(0, 0, {}, 200, 0))
    assert event.data["method"] == "OTHER"
    assert (
        closing.usage_event(RULES, admission(), "PATCH", Receipt(0, 0, {}, 200, 0)).data["method"] == "PATCH"
    )


def test_every_field_has_a_name_of_its_own() -> None:
    names = [each.name for each in fields.FIELDS]
    assert sorted(set(names)) == sorted(names)
    with pytest.raises(ValueError, match="a purpose"):
        fields.Recorded("x", "", (REQUEST_EVENT,))
