"""The answer that the page on usage shows is one that the endpoint gives, member for member."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

from meter_mw import usage
from meter_mw.periods import Period
from meter_mw.policy.terms import KeyEntry, Override, Plan, Scope
from meter_mw.quota import Cap
from meter_mw.reporting import Usage
from meter_mw.reporting import usage as asked_about
from meter_mw.stores.memory import MemoryStore
from support.policies import cap, held, policy, rate, request, route, slots
from support.talks import RID, ended

PAGE = Path(__file__).parents[2] / "docs" / "usage.md"


def test_the_answer_on_the_page_is_a_real_one() -> None:
    """A key of an account with an amount of its own, three requests beyond it, two still on their way."""
    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    billed = Cap(10_000, Period.MONTH, bills=True, ceiling=15_000)
    month = replace(cap(1, name="requests-month"), quota=billed, scope=Scope.ACCOUNT)
    limits = (rate(10, burst=20, name="requests-per-second"), month, slots(8, name="concurrent"))
    own = Override("requests-month", billed.resized(20_000), date(2026, 2, 1))
    entry = KeyEntry("acme", "pro", "acme-group", timezone="Europe/Paris", overrides=(own,))
    rules = policy(
        plans=[Plan("pro", limits)],
        keys={"k": entry},
        routes=[route("/many", costs={"requests": 20_001})],
    )
    now_us = [int(datetime(2026, 1, 15, 10, tzinfo=UTC).timestamp() * 1_000_000) + 250_000]
    store = MemoryStore(lambda: now_us[0])
    only_cap = policy(plans=[Plan("pro", (month,))], keys={"k": entry}, routes=rules.routes)
    assert held(only_cap, request("/many", key="k"), store).serves
    for _ in range(2):
        assert held(rules, request(key="k"), store).serves
    talk = asked_about(rules, request(key="k"), RID, store.now_us())
    command = next(talk)
    found = ended(talk, store.peek(command.tag, command.charges))  # type: ignore[union-attr]
    assert isinstance(found, Usage)
    real = json.loads(json.dumps(usage.document(found)))
    assert json.loads(shown) == real
    assert [list(each) for each in json.loads(shown)["limits"]] == [list(each) for each in real["limits"]]
    assert list(json.loads(shown)) == list(real)
