"""What a resolver says is checked before it is believed, and kept for a minute."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from datetime import date, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from meter_mw.periods import Period
from meter_mw.policy import resolver
from meter_mw.policy.loader import load
from meter_mw.policy.problems import PolicyError
from meter_mw.policy.resolver import KEPT_S, Answers, entry_of
from meter_mw.policy.terms import Exemption, KeyEntry, Override, Plan
from meter_mw.quota import Cap, Rate
from support.policies import DAY_US, cap, policy, rate, route

if TYPE_CHECKING:
    from collections.abc import Iterator

ALONE = route("/alone", rate(1, name="alone", route="/alone"))
RULES = policy(
    replace(cap(10), quota=Cap(10, Period.MONTH, warn=(8,))), plans=[Plan("pro", (rate(5),))], routes=[ALONE]
)
WHOLE = KeyEntry("acme", "pro", "acme-group", date(2026, 1, 31), "Europe/Paris")
CAP = Override("cap", Cap(20, Period.MONTH, warn=(16,)), date(2026, 12, 1))
CANARY = "sk_canary_5f1d7c"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, None),
        (KeyEntry("acme"), KeyEntry("acme")),
        (WHOLE, WHOLE),
        ({"subject": "acme"}, KeyEntry("acme")),
        (MappingProxyType({"subject": "acme", "plan": None}), KeyEntry("acme")),
        (
            {
                "subject": "acme",
                "plan": "pro",
                "account": "acme-group",
                "anchor": date(2026, 1, 31),
                "timezone": "Europe/Paris",
            },
            WHOLE,
        ),
        ({"subject": "acme", "exempt": True}, KeyEntry("acme", exemption=Exemption.FREE)),
        ({"subject": "acme", "exempt": "counted"}, KeyEntry("acme", exemption=Exemption.COUNTED)),
        ({"subject": "acme", "exempt": False, "limits": None}, KeyEntry("acme")),
        (
            {
                "subject": "acme",
                "limits": {
                    "cap": {"cap": "20/month", "until": date(2026, 12, 1)},
                    "alone": {"rate": "7/day"},
                },
            },
            KeyEntry("acme", overrides=(Override("alone", Rate(7, DAY_US, 7)), CAP)),
        ),
        (
            {"subject": "acme", "plan": "pro", "limits": {"rate": {"rate": "7/day", "burst": 9}}},
            KeyEntry("acme", "pro", overrides=(Override("rate", Rate(7, DAY_US, 9)),)),
        ),
        (KeyEntry("acme", overrides=(CAP,)), KeyEntry("acme", overrides=(CAP,))),
    ],
)
def test_answers_that_are_understood(answer: object, expected: KeyEntry | None) -> None:
    """An entry, a mapping of its fields, or None for a key that is not known."""
    assert entry_of(answer, RULES) == expected


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("acme", "it returned str; expected a KeyEntry, a mapping or None"),
        (True, "it returned bool; expected"),
        ([("subject", "acme")], "it returned list; expected"),
        ({}, "it returned no subject"),
        ({"plan": "pro"}, "it returned no subject"),
        (
            {"subject": "acme", "user": 1},
            "it returned a field that is not known; known are subject, plan,",
        ),
        ({"subject": "acme", 1: 1}, "it returned a field that is not known"),
        ({"subject": ""}, "it returned a subject that is not 1 to 128 printable characters"),
        ({"subject": None}, "it returned a subject that is not 1 to 128 printable characters"),
        ({"subject": 7}, "it returned a subject that is not 1 to 128 printable characters"),
        ({"subject": "\ud800"}, "it returned a subject that is not 1 to 128 printable characters"),
        ({"subject": "acme", "account": 7}, "it returned an account that is not 1 to 128 printable"),
        ({"subject": "acme", "account": "\udfff"}, "it returned an account that is not 1 to 128 printable"),
        (
            {"subject": "acme", "plan": "gold"},
            "it returned a plan that the policy does not have; it has default, pro",
        ),
        ({"subject": "acme", "plan": ""}, "it returned a plan that the policy does not have"),
        ({"subject": "acme", "plan": ["pro"]}, "it returned a plan that the policy does not have"),
        ({"subject": "acme", "anchor": "2026-01-31"}, "it returned an anchor that is not a date"),
        ({"subject": "acme", "timezone": "Paris"}, "it returned a timezone that is not known"),
        ({"subject": "acme", "timezone": ""}, "it returned a timezone that is not known"),
        ({"subject": "acme", "timezone": "localtime"}, "it returned a timezone that is not known"),
        ({"subject": "acme", "timezone": "../etc/passwd"}, "it returned a timezone that is not known"),
        ({"subject": "acme", "timezone": "America"}, "it returned a timezone that is not known"),
        ({"subject": "acme", "timezone": 2}, "it returned a timezone that is not known"),
        ({"subject": "acme", "exempt": 1}, "it returned an exempt that is not True, False or counted"),
        ({"subject": "acme", "exempt": []}, "it returned an exempt that is not True, False or counted"),
        ({"subject": "acme", "overrides": ()}, "it returned a field that is not known"),
        (
            {"subject": "acme", "limits": {"rate": {"rate": "5/day"}}},
            "found a name, which is no limit of the key's plan or of a route; it has cap, alone",
        ),
        (
            {"subject": "acme", "limits": {"cap": {"cap": "5/day"}}},
            "it returned limits that do not fit: found a text; expected units per month",
        ),
        (
            {"subject": "acme", "limits": {"cap": {"rate": "5/day"}}},
            "it returned limits that do not fit: the limit cap is a cap, and not a rate",
        ),
        ({"subject": "acme", "limits": [5]}, "it returned limits that do not fit: found a list; expected"),
        (
            {"subject": "acme", "limits": {"cap": b"5"}},
            "it returned limits that cannot be read: found a value",
        ),
        (
            {"subject": "acme", "limits": {"cap": {"cap": "${file:/etc/passwd}"}}},
            "it returned limits with a reference; those are for the policy alone",
        ),
        (
            {"subject": "acme", "plan": "gold", "limits": {}},
            "it returned a plan that the policy does not have",
        ),
        ({"subject": "acme", "plan": [], "limits": {}}, "it returned a plan that the policy does not have"),
        (KeyEntry("acme", exemption="free"), "it returned an exemption that is none"),  # type: ignore[arg-type]
        *(
            (KeyEntry("acme", overrides=overrides), "it returned overrides that fit no limit")  # type: ignore[arg-type]
            for overrides in (
                [CAP],
                (5,),
                (Override("rate", Rate(1, 1, 1)),),
                (Override("cap", Rate(1, 1, 1)),),
                (Override("cap", Cap(1, Period.DAY)),),
                (replace(CAP, until="2026-12-01"),),  # type: ignore[arg-type]
                (replace(CAP, limit=["cap"]),),  # type: ignore[arg-type]
            )
        ),
    ],
)
def test_answers_that_are_refused(answer: object, complaint: str) -> None:
    """What was found and what is expected, so that the operator can put it right."""
    with pytest.raises(ValueError, match=re.escape(complaint)):
        entry_of(answer, RULES)


@pytest.mark.parametrize(
    "name",
    ["", " ", "a" * 129, "two\nlines", "\ud800", "k1_acme", "anon_acme", "acme", "a" * 128, "Müller & Co"],
)
def test_a_name_is_good_in_an_answer_exactly_where_it_is_in_a_list(name: str) -> None:
    """Subjects and accounts keep one rule, wherever they come from."""
    for field in ("subject", "account"):
        named = {"subject": "acme", field: name}
        listed = policy_holds({"key": "sk_listed", **named})
        try:
            answered = entry_of(named, RULES) is not None
        except ValueError:
            answered = False
        assert answered is listed


def policy_holds(entry: dict[str, str]) -> bool:
    """Whether a policy that lists this entry loads."""
    try:
        load({"version": 1, "service": "shop", "keys": [entry]}, {"METER_KEY_SECRET": "for-this-test-only"})
    except PolicyError:
        return False
    return True


@pytest.mark.parametrize(
    "answer",
    [
        {CANARY: "acme"},
        CANARY,
        [CANARY],
        {"subject": "acme", CANARY: 1},
        {"subject": f"k1_{CANARY}"},
        *(
            {"subject": "acme", name: f"{CANARY}\n"}
            for name in ("account", "plan", "anchor", "timezone", "exempt", "limits")
        ),
        *(
            {"subject": "acme", "limits": limits}
            for limits in (
                {CANARY: {"cap": 5}},
                {CANARY: CANARY},
                [CANARY],
                {"cap": {CANARY: 5}},
                {"cap": {"cap": CANARY}},
                {"cap": {"cap": 5, "until": CANARY}},
                {"cap": {"cap": "${" + CANARY + "}"}},
                {"alone": {"rate": f"5/{CANARY}"}},
            )
        ),
    ],
)
def test_a_complaint_does_not_quote_a_key(answer: object) -> None:
    """A resolver that hands the key back by mistake does not bring it into the log."""
    with pytest.raises(ValueError, match="it returned") as refusal:
        entry_of(answer, RULES)
    assert CANARY not in str(refusal.value)


def test_a_moment_serves_as_an_anchor() -> None:
    """Databases give datetimes; their date is what counts."""
    anchor = datetime(2026, 1, 31, 12)  # noqa: DTZ001 - as databases give them
    entry = entry_of({"subject": "acme", "anchor": anchor}, RULES)
    assert entry is not None
    assert entry.anchor is not None
    assert entry.anchor.day == 31


def test_an_answer_is_kept_for_a_minute() -> None:
    """It is found until the minute is over, and not at its end."""
    answers = Answers()
    answers.keep("k1_a", WHOLE, 100.0)
    assert answers.find("k1_a", 100.0) == (WHOLE,)
    assert answers.find("k1_a", 100.0 + KEPT_S - 0.001) == (WHOLE,)
    assert answers.find("k1_a", 100.0 + KEPT_S) is None
    assert answers.find("k1_b", 100.0) is None


def test_not_known_is_an_answer() -> None:
    """`None` is kept too, so that guessed keys do not reach the resolver each time."""
    answers = Answers()
    answers.keep("k1_a", None, 100.0)
    assert answers.find("k1_a", 101.0) == (None,)


def test_a_newer_answer_replaces_an_older_one() -> None:
    """The last word counts, for a minute of its own."""
    answers = Answers()
    answers.keep("k1_a", None, 100.0)
    answers.keep("k1_a", WHOLE, 150.0)
    assert answers.find("k1_a", 205.0) == (WHOLE,)


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are guessed by the million fill no memory; an answer that came anew is young again."""
    monkeypatch.setattr(resolver, "MOST_KEPT", 3)
    answers = Answers()
    for key in ("a", "b", "c", "b", "d", "e"):
        answers.keep(key, WHOLE, 100.0)
    assert [key for key in "abcde" if answers.find(key, 100.0)] == ["b", "d", "e"]


def test_threads_make_room_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that looks for the oldest answer is not tripped up by another that changes them meanwhile."""
    monkeypatch.setattr(resolver, "MOST_KEPT", 1)
    answers = Answers()
    others: list[threading.Thread] = []

    class Interrupted(dict[str, tuple[float, KeyEntry | None]]):
        def __iter__(self) -> Iterator[str]:
            keys = super().__iter__()
            if not others:
                others.append(threading.Thread(target=answers.keep, args=("other", None, 100.0)))
                others[0].start()
                others[0].join(0.05)
            return keys

    answers.keep("first", None, 100.0)
    answers._kept = Interrupted(answers._kept)
    answers.keep("second", None, 100.0)
    others[0].join()
    assert list(answers._kept) == ["other"]
