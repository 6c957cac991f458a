"""docs/policy.md: each of its policies loads, and every name that a policy may have stands in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meter_mw.policy import loader
from meter_mw.policy.loader import load
from meter_mw.policy.policy import Policy, Unknown
from meter_mw.policy.prices import Rounding
from meter_mw.policy.reading import Names
from meter_mw.policy.resolver import KEPT_S, MOST_KEPT, UNKNOWN_KEPT_S
from meter_mw.policy.sections import (
    charge,
    charges,
    events,
    identity,
    keys,
    limits,
    meters,
    overrides,
    plans,
    price,
    routes,
    settings,
    signals,
)
from meter_mw.policy.terms import OnExhausted, Scope
from meter_mw.quota import OnDeny
from meter_mw.sinks.kinds import find, words

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = Path(__file__).parents[2] / "docs" / "policy.md"
SINKS = {word: kind for word in words() if (kind := find(word))}
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
TABLES: dict[str, Names] = {
    "top": loader._TOP,
    "identity": identity._IDENTITY,
    "keys": keys._ENTRY,
    "sources": keys._SOURCE,
    "overrides": overrides._OVERRIDE,
    "charge": charge._CHARGE,
    "limits": limits._LIMIT,
    "meters": meters._METER,
    "plans": plans._PLAN,
    "price": price._PRICE,
    "charges": charges._CHARGE,
    "tiers": charges._TIER,
    "credits": price._CREDIT,
    "routes": routes._ROUTE,
    "events": events._EVENTS,
    "signals": signals._SIGNALS,
    "sinks": Names((*SINKS, *sorted({name for each in SINKS.values() for name in each.options}))),
}


def test_page_has_policies() -> None:
    assert len(BLOCKS) >= 10


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.partition("\n")[0])
def test_policy_of_the_page_loads(block: str, tmp_path: Path) -> None:
    head = "" if block.startswith("version:") else "version: 1\nservice: docs\n"
    file = tmp_path / "meter.yaml"
    file.write_text(head + block)
    assert isinstance(load(file, {"METER_KEY_SECRET": "a-secret-for-this-page"}), Policy)


def test_page_quotes_a_complaint_as_it_is(tmp_path: Path) -> None:
    (quoted,) = re.findall(r"^```text\n(.*?)\n```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    complaint = quoted.partition("plans.default")[2]
    file = tmp_path / "meter.yaml"
    file.write_text("version: 1\nservice: docs\nplans: {default: {limits: [{rate: 10/mintue}]}}\n")
    with pytest.raises(Exception, match=re.escape(complaint)):
        load(file, {"METER_KEY_SECRET": "a-secret-for-this-page"})


@pytest.mark.parametrize("section", TABLES)
def test_every_name_stands_in_the_page(section: str) -> None:
    missing = [
        name for name in TABLES[section].known if not re.search(rf"`[^`]*\b{name}\b", PAGE.read_text())
    ]
    assert missing == []


@pytest.mark.parametrize(
    "words",
    [
        [each.value for each in Scope],
        [each.value for each in OnExhausted],
        [each.value for each in Unknown],
        [each.value for each in OnDeny],
        [each.value for each in Rounding],
        price._PERIODS,
        meters._COUNTS,
        meters.RESERVED,
        settings.DAYS[::6],
    ],
    ids=["scopes", "on_exhausted", "unknown", "on_deny", "rounding", "periods", "counts", "reserved", "days"],
)
def test_every_word_stands_in_the_page(words: Iterable[str]) -> None:
    assert [word for word in words if f"`{word}`" not in PAGE.read_text()] == []


def test_page_says_how_long_answers_are_kept() -> None:
    said = f'used again for {KEPT_S:.0f} seconds, and "not known" for {UNKNOWN_KEPT_S:.0f}'
    assert said in PAGE.read_text()
    assert f"the last {MOST_KEPT:,} keys" in PAGE.read_text()
