"""A form of usage events gives byte for byte what writing each event from its beginning gives."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meter_mw import events
from meter_mw.admission import Admission, Answer
from meter_mw.closing import form, usage_event
from meter_mw.events import encode
from meter_mw.model import LARGEST_COST, Count, Meter, Receipt, RequestId, SubjectId
from meter_mw.policy.policy import Caller, Policy, Route
from meter_mw.policy.terms import ChargeRules, Plan
from support.policies import METERS, policy
from support.talks import NOW_US, RID

UNITS = st.integers(0, LARGEST_COST)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    ["%b", "100%", "%%d", '"', "\\u00ff", "\x7f\r\n", "ÿ", "<unmatched>"]
)
FAILURES = frozenset(range(500, 600))


class Plain(NamedTuple):
    """What the event of a request without remarks says."""

    rid: RequestId
    time_us: int
    status: int
    request_bytes: int
    response_bytes: int
    duration_us: int


PLAIN = Plain(RID, NOW_US + 1, 200, 700, 9_000, 15)

PLAIN_ONES = st.builds(
    Plain,
    st.uuids().map(lambda each: RequestId(str(each))),
    st.integers(0, 253_402_300_799_999_999)
    | st.integers(0, 4_102_444_800).map(lambda each: each * 1_000_000),
    st.sampled_from([0, 200, 404, 500, 599]) | st.integers(100, 599),
    UNITS,
    UNITS,
    UNITS,
)


def caller_of(subject: str, plan: str, key: str | None, account: str | None) -> Caller:
    return Caller(SubjectId(subject), "tag", Plan(plan), key, account, None, "UTC")


CALLERS = st.builds(caller_of, NAMES, NAMES, st.none() | NAMES, st.none() | NAMES)
ROUTES = st.builds(
    Route,
    NAMES,
    costs=st.sampled_from([(), (("requests", 5),), (("calls", 0), ("requests", LARGEST_COST))]),
    charge=st.sampled_from([None, ChargeRules(refund_on=FAILURES), ChargeRules(when=frozenset([200]))]),
)
ACME = caller_of("acme", "pro", "k1_6fa62bd7", None)
ITEMS = Route("items.read", charge=ChargeRules(refund_on=FAILURES))


def rules(service: str = "orders-api") -> Policy:
    return policy(service=service, meters=[Meter("calls", Count.REQUESTS), *METERS])


def written(rules: Policy, route: Route, caller: Caller, method: str, plain: Plain) -> bytes:
    """Write the event from its beginning."""
    receipt = Receipt(plain.request_bytes, plain.response_bytes, {}, plain.status, plain.duration_us)
    admission = Admission(Answer.ALLOWED, plain.rid, plain.time_us, route, caller)
    return encode(usage_event(rules, admission, method, receipt))


@given(NAMES, ROUTES, CALLERS, NAMES, st.lists(PLAIN_ONES, min_size=1, max_size=5))
@example("s", ITEMS, ACME, "GET", [PLAIN, PLAIN._replace(status=500), PLAIN._replace(time_us=NOW_US)])
def test_a_filled_form_is_the_event(
    service: str, route: Route, caller: Caller, method: str, several: list[Plain]
) -> None:
    """Whatever names have in them, whether it is charged for or not, and in whatever order times come."""
    policy = rules(service)
    filled = form(policy, route, caller, method)
    for plain in several:
        assert filled.fill(*plain) == written(policy, route, caller, method, plain)


def test_what_is_not_charged_for_says_so() -> None:
    """The charge rules of the route decide by the status."""
    filled = form(rules(), ITEMS, ACME, "GET")
    assert b'"requests":1' in filled.fill(*PLAIN)
    assert b'"requests":0' in filled.fill(*PLAIN._replace(status=503))
    assert b'"charged":false' in filled.fill(*PLAIN._replace(status=503))


def test_a_form_keeps_few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that answers with every status there is takes no more memory, and gets what is right."""
    monkeypatch.setattr(events, "_MOST_STATUSES", 2)
    policy = rules()
    filled = form(policy, ITEMS, ACME, "GET")
    for status in (200, 404, 500, 200, 503):
        plain = PLAIN._replace(status=status)
        assert filled.fill(*plain) == written(policy, ITEMS, ACME, "GET", plain)
        assert len(filled._texts) <= 2
