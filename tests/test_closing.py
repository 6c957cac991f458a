"""What an exchange leaves behind: its event, what is booked for it, and what that turned out to be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meter_mw.admission import Admission, Reached
from meter_mw.closing import amendment, settlement, speaks, threshold_event, told, usage_event, used
from meter_mw.events import encode
from meter_mw.model import THRESHOLD_EVENT, UNMATCHED, Count, Meter, RequestId
from meter_mw.periods import Period
from meter_mw.policy.terms import ChargeRules, Exemption, Failure, KeyEntry, Limit, Scope
from meter_mw.quota import Cap, Span
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import (
    Booking,
    Closed,
    Note,
    Outcome,
    Reading,
    Settle,
    StoreUnavailable,
    Tally,
    Verdict,
)
from support.policies import (
    DAY_US,
    EGRESS,
    METERS,
    REQUESTS,
    SECOND_US,
    TOKENS,
    cap,
    held,
    key_of,
    policy,
    rate,
    request,
    route,
    slots,
)
from support.talks import NOW_US, RECEIPT, RID, admission_on, begun, ended, failed, undisturbed

if TYPE_CHECKING:
    from meter_mw.policy.policy import Policy
    from meter_mw.testing.stores import Clock

OTHER = RequestId("01900000-0000-7000-8000-000000000002")


def test_the_settlement_tells_the_truth() -> None:
    """Requests are booked as charged, bytes and reports as they turned out, each in its window."""
    limits = [rate(10, meter=meter, name=meter.name) for meter in METERS]
    rules = policy(*limits, cap(10**6, meter=EGRESS), routes=[route("/x", costs={"requests": 3})])
    admission = admission_on(rules, request("/x", key="k"))
    assert admission.caller is not None
    settled = settlement(rules, admission, RECEIPT)
    assert settled is not None
    assert (settled.rid, settled.tag) == (RID, admission.caller.tag)
    assert [(each.actual, each.window_us) for each in settled.bookings] == [
        (3, 0),
        (700, 0),
        (9_000, 0),
        (812, 0),
        (9_000, NOW_US),
    ]
    assert tuple(each.charge for each in settled.bookings) == admission.charges


def test_requests_that_come_to_the_same_are_booked_by_the_same() -> None:
    """As long as they ask for the same in the same window, and either are charged for or are not."""
    rules = policy(rate(10), cap(100), routes=[route("/x", costs={"requests": 3})])
    first = admission_on(rules, request("/x", key="k"))
    second = first._replace(rid=OTHER)
    settled = [settlement(rules, each, RECEIPT) for each in (first, second)]
    assert settled[0] is not None
    assert settled[1] is not None
    assert settled[1].rid == OTHER
    assert settled[1].bookings is settled[0].bookings
    free = settlement(rules, first, RECEIPT._replace(refused=True))
    assert free is not None
    assert [each.actual for each in free.bookings] == [3, 0]
    later = settlement(rules, first._replace(windows=(0, NOW_US + DAY_US)), RECEIPT)
    assert later is not None
    assert [(each.actual, each.window_us) for each in later.bookings] == [(3, 0), (3, NOW_US + DAY_US)]


def test_bytes_are_booked_as_they_are_however_alike_the_requests() -> None:
    """Two requests that ask for the same come to what each of them took."""
    rules = policy(cap(10**6, meter=EGRESS))
    admission = admission_on(rules, request("/x", key="k"))
    for passed in (9_000, 1, 9_000):
        settled = settlement(rules, admission, RECEIPT._replace(response_bytes=passed))
        assert settled is not None
        assert [each.actual for each in settled.bookings] == [passed]


def test_a_request_that_outlives_its_rid_counts_once(clock: Clock) -> None:
    """A stream of an hour is known to no store any more: its request is not booked again, its bytes are."""
    rules = policy(cap(100), cap(10**6, meter=EGRESS))
    store = MemoryStore(clock)
    talk, command = begun(rules, request(key="k"), clock())
    admission = ended(talk, store.admit(command))
    clock.move(3_600 * SECOND_US)
    settled = settlement(rules, admission, RECEIPT._replace(duration_us=3_600 * SECOND_US))
    assert settled is not None
    assert [each.outcome for each in store.settle([settled])] == [Outcome.RECOVERED]
    readings = store.peek(command.tag, command.charges).readings
    assert [each.state.part for each in readings] == [1, RECEIPT.response_bytes]


def test_a_request_that_no_store_saw_is_booked_in_full_however_long_it_took() -> None:
    """Served while the store was away, an hour long: the booking is of all of it."""
    open_cap = cap(100, on=Failure.OPEN)
    rules = policy(open_cap)
    talk, _ = begun(rules, request(key="k"))
    admission = failed(talk, StoreUnavailable("gone"))
    settled = settlement(rules, admission, RECEIPT._replace(duration_us=3_600 * SECOND_US))
    assert settled is not None
    assert [(each.charge.take, each.actual) for each in settled.bookings] == [(1, 1)]


def test_nothing_reported_is_none_used() -> None:
    """A reported meter that the app said nothing of is booked as 0."""
    admission = admission_on(policy(rate(9, meter=TOKENS)), request(key="k"))
    assert used(admission.lines[0], RECEIPT._replace(reported={})) == 0


def test_the_event_has_these_fields() -> None:
    """Exactly these: what was used, where, by whom, under which policy."""
    images = Meter("images", Count.REQUESTS)
    keys = {"k": KeyEntry("acme", account="acme-group")}
    rules = policy(
        rate(10),
        keys=keys,
        meters=(*METERS, images),
        routes=[route("/x", name="x.read", costs={"requests": 3})],
    )
    event = usage_event(rules, admission_on(rules, request("/x", key="k")), "POST", RECEIPT)
    assert (event.id, event.source, event.subject) == (RID, "urn:meter-mw:orders-api", "acme")
    assert event.time_us == NOW_US
    assert event.data == {
        "requests": 3,
        "images": 1,
        "request_bytes": 700,
        "response_bytes": 9_000,
        "tokens": 812,
        "route": "x.read",
        "method": "POST",
        "status": 200,
        "plan": "default",
        "duration_us": 15,
        "policy": "digest-of-the-policy",
        "key": key_of("k"),
        "account": "acme-group",
    }


def test_the_event_of_an_anonymous_request_names_no_key() -> None:
    """Without a key and an account there are no such fields; without a route its name says so."""
    rules = policy(rate(10))
    data = usage_event(rules, admission_on(rules, request()), "GET", RECEIPT._replace(reported={})).data
    used_up = {"requests", "request_bytes", "response_bytes"}
    assert data.keys() == used_up | {"route", "method", "status", "plan", "duration_us", "policy"}
    assert data["route"] == UNMATCHED


def test_an_amendment_is_an_event_of_its_own() -> None:
    """It has its own id, names the request that it amends, and counts nothing twice."""
    keys = {"k": KeyEntry("acme", account="acme-group")}
    rules = policy(rate(9, meter=TOKENS, name="tokens"), cap(99, meter=TOKENS), rate(10), keys=keys)
    admission = admission_on(rules, request(key="k"))
    other = RequestId("01900000-0000-7000-8000-000000000002")
    event, settled = amendment(rules, admission, other, NOW_US + 5, {"tokens": 40})
    assert (event.id, event.source, event.subject, event.time_us) == (other, rules.source, "acme", NOW_US + 5)
    assert event.data == {
        "requests": 0,
        "request_bytes": 0,
        "response_bytes": 0,
        "tokens": 40,
        "route": UNMATCHED,
        "plan": "default",
        "policy": "digest-of-the-policy",
        "amends": RID,
        "key": key_of("k"),
        "account": "acme-group",
    }
    assert admission.caller is not None
    taken = [replace(each, need=0, take=0) for each in admission.charges]
    bookings = (Booking(taken[0], 40, 0), Booking(taken[1], 40, NOW_US))
    assert settled == Settle(other, admission.caller.tag, bookings)


def test_an_amendment_that_no_limit_counts_books_nothing() -> None:
    """Units of a meter without a limit are an event only."""
    rules = policy(rate(10))
    admission = admission_on(rules, request())
    event, settled = amendment(rules, admission, RequestId("other"), NOW_US, {"tokens": 40})
    assert settled is None
    assert "key" not in event.data
    assert "account" not in event.data


def test_what_has_no_caller_is_not_counted() -> None:
    """An exempt request has no event, no amendment and nothing to settle."""
    rules = policy(rate(1), routes=[route("/health", exemption=Exemption.FREE)])
    admission = undisturbed(rules, request("/health"))
    assert settlement(rules, admission, RECEIPT) is None
    with pytest.raises(ValueError, match="without a caller"):
        usage_event(rules, admission, "GET", RECEIPT)
    with pytest.raises(ValueError, match="without a caller"):
        amendment(rules, admission, RID, NOW_US, {"tokens": 1})


# What is charged for


CHARGE_OK = ChargeRules(when=frozenset(range(200, 300)))


def test_a_status_that_is_not_charged_for_costs_caps_nothing() -> None:
    """Caps give back what it took, rates keep it, bytes are counted as they passed, the event says so."""
    rules = policy(cap(9), rate(9), cap(9, meter=EGRESS, name="egress"), charge=CHARGE_OK)
    admission = admission_on(rules, request(key="k"))
    settled = settlement(rules, admission, RECEIPT._replace(status=500))
    assert settled is not None
    assert [each.actual for each in settled.bookings] == [0, 1, 9_000]
    data = usage_event(rules, admission, "GET", RECEIPT._replace(status=500)).data
    assert (data["requests"], data["charged"], data["response_bytes"]) == (0, False, 9_000)
    assert "charged" not in usage_event(rules, admission, "GET", RECEIPT).data


@pytest.mark.parametrize(("status", "charged"), [(200, True), (404, False), (503, False), (301, True)])
def test_refunds_are_by_status(status: int, charged: bool) -> None:
    """The rules of a route come before those of the policy."""
    refunds = ChargeRules(refund_on=frozenset({404, 503}))
    rules = policy(cap(9), charge=CHARGE_OK, routes=[route("/x", charge=refunds, costs={"requests": 3})])
    admission = admission_on(rules, request("/x", key="k"))
    settled = settlement(rules, admission, RECEIPT._replace(status=status))
    assert settled is not None
    assert [each.actual for each in settled.bookings] == [3 if charged else 0]


def test_a_refund_comes_back(clock: Clock) -> None:
    """With a store: a cap of one serves again after a request that is not charged for."""
    rules, store = policy(cap(1), charge=CHARGE_OK), MemoryStore(clock)
    for status in (500, 404, 200):
        admission = held(rules, request(key="k"), store)
        assert admission.serves
        settled = settlement(rules, admission, RECEIPT._replace(status=status))
        assert settled is not None
        store.settle([settled])
    assert not held(rules, request(key="k"), store).serves


def test_a_refused_one_pays_for_the_bytes_that_had_passed() -> None:
    """One that was refused on its way got no answer of the app's: it costs no request."""
    rules = policy(cap(9), rate(9), cap(10**6, meter=METERS[1], name="ingress"))
    admission = admission_on(rules, request(key="k", transfer_encoding="chunked"))
    refused = RECEIPT._replace(status=413, limited_by=("ingress",), refused=True)
    settled = settlement(rules, admission, refused)
    assert settled is not None
    assert [each.actual for each in settled.bookings] == [0, 1, 700]
    data = usage_event(rules, admission, "PUT", refused).data
    assert (data["requests"], data["charged"], data["limited_by"]) == (0, False, ["ingress"])


def test_a_part_is_charged_for_before_its_status_is_known() -> None:
    """A stream that has not begun to answer is recorded as it stands."""
    rules = policy(cap(9), charge=CHARGE_OK)
    admission = admission_on(rules, request(key="k"))
    data = usage_event(rules, admission, "GET", RECEIPT._replace(status=0)).data
    assert (data["requests"], "charged" in data) == (1, False)


# Held and shadow


def test_slots_come_to_nothing() -> None:
    """They are given back."""
    rules = policy(slots(3), cap(9))
    settled = settlement(rules, admission_on(rules, request(key="k")), RECEIPT)
    assert settled is not None
    assert [each.actual for each in settled.bookings] == [0, 1]


def test_messages_are_booked_and_recorded() -> None:
    """Both ways; other exchanges have no such fields."""
    meters = (*METERS, Meter("asked", Count.REQUEST_MESSAGES), Meter("told", Count.RESPONSE_MESSAGES))
    limits = (cap(99, meter=meters[-2], name="asked"), cap(99, meter=meters[-1], name="told"))
    rules = policy(*limits, meters=meters)
    admission = admission_on(rules, request(key="k", is_socket=True))
    receipt = RECEIPT._replace(request_messages=3, response_messages=5)
    settled = settlement(rules, admission, receipt)
    assert settled is not None
    assert [each.actual for each in settled.bookings] == [3, 5]
    data = usage_event(rules, admission, "GET", receipt).data
    assert (data["request_messages"], data["response_messages"]) == (3, 5)
    assert "request_messages" not in usage_event(rules, admission, "GET", RECEIPT).data


def test_shadow_limits_that_would_have_refused_are_left_out() -> None:
    """They were charged nothing; those that would have served are settled like any other."""
    shadow = replace(cap(5, name="shadow"), shadow=True)
    rules = policy(shadow, cap(9), cap(9, meter=TOKENS, name="tokens"))
    talk, command = begun(rules, request(key="k"))
    readings = [Reading(Span(NOW_US, 1), until_us=NOW_US + DAY_US, granted=1) for _ in command.charges]
    readings[0] = Reading(Span(NOW_US, 5), fits=False, until_us=NOW_US + DAY_US)
    admission = ended(talk, Tally(Verdict.ADMITTED, NOW_US, tuple(readings)))
    settled = settlement(rules, admission, RECEIPT)
    assert settled is not None
    assert [each.charge.id for each in settled.bookings] == [each.id for each in command.charges[1:]]
    _, late = amendment(rules, admission, OTHER, NOW_US, {"tokens": 4})
    assert late is not None
    assert len(late.bookings) == 1
    admission = admission_on(rules, request(key="k"))
    settled = settlement(rules, admission, RECEIPT)
    assert settled is not None
    assert len(settled.bookings) == 3


# What settling tells


def billed(
    units: int, *, meter: Meter = EGRESS, warn: tuple[int, ...] = (), scope: Scope = Scope.SUBJECT
) -> Limit:
    """Make a cap that bills what lies beyond."""
    return Limit(
        "egress", meter, Cap(units, Period.MONTH, bills=True, warn=warn), Failure.CLOSED, scope=scope
    )


def settled_on(rules: Policy, admission: Admission, store: MemoryStore) -> tuple[Settle, Closed]:
    """Settle an exchange of 9,000 bytes."""
    settled = settlement(rules, admission, RECEIPT)
    assert settled is not None
    (closed,) = store.settle([settled])
    return settled, closed


def test_overage_of_bytes_is_an_amendment(clock: Clock) -> None:
    """Three responses of 9,000 bytes beyond 20,000: the third is split, a fourth is all overage."""
    rules, store = policy(billed(20_000)), MemoryStore(clock)
    overage = []
    for _ in range(4):
        admission = held(rules, request(key="k"), store)
        settled, closed = settled_on(rules, admission, store)
        events = list(told(rules, admission, settled, closed, rid=OTHER, now_us=clock()))
        overage.append([each.data["overage"] for each in events])
        for event in events:
            assert (event.id, event.data["amends"], event.data["requests"]) == (OTHER, admission.rid, 0)
            assert (event.data["request_bytes"], event.data["response_bytes"]) == (0, 0)
    assert overage == [[], [], [{"egress": 7_000}], [{"egress": 9_000}]]


def test_overage_that_the_request_has_told_is_not_told_again() -> None:
    """What was charged at admission is in the event of the request; while the store was away it is not."""
    rules = policy(billed(5, meter=REQUESTS))
    admission = admission_on(rules, request(key="k"))
    settled = settlement(rules, admission, RECEIPT)
    assert settled is not None
    closed = Closed(Outcome.RECOVERED, (Note(0, overage=1),))
    assert list(told(rules, admission, settled, closed, rid=OTHER, now_us=NOW_US)) == []
    talk, _ = begun(rules, request(key="k"))
    without = failed(talk, StoreUnavailable("gone"))._replace(denied_by=())
    (event,) = told(rules, without, settled, closed, rid=OTHER, now_us=NOW_US)
    assert event.data["overage"] == {"egress": 1}


def test_a_threshold_that_bytes_reach_is_an_event(clock: Clock) -> None:
    """Told once, when the bytes are known, and not when they were held."""
    rules, store = policy(replace(billed(10_000, warn=(8_000, 10_000)), reserve=9_500)), MemoryStore(clock)
    admission = held(rules, request(key="k"), store)
    assert admission.reached == ()
    settled, closed = settled_on(rules, admission, store)
    (event,) = told(rules, admission, settled, closed, rid=OTHER, now_us=clock())
    assert (event.type, event.data["threshold"], event.data["cap"]) == (THRESHOLD_EVENT, 8_000, 10_000)
    (again,) = told(rules, admission, settled, closed, rid=RID, now_us=clock())
    assert encode(again) == encode(event)


def test_the_event_of_a_threshold() -> None:
    """Its id is that of the threshold in its period: whoever tells it, it is the same event."""
    warned = replace(cap(20), quota=Cap(20, Period.MONTH, warn=(16,)))
    keys = {"k": KeyEntry("acme", account="group"), "l": KeyEntry("other", account="group")}
    rules = policy(warned, keys=keys)
    admission = admission_on(rules, request(key="k"))
    reached = Reached(admission.lines[0], 16, NOW_US)
    event = threshold_event(rules, admission, reached, NOW_US + 5)
    assert (event.type, event.subject, event.time_us) == (THRESHOLD_EVENT, "acme", NOW_US + 5)
    assert event.data == {
        "limit": "cap",
        "meter": "requests",
        "threshold": 16,
        "cap": 20,
        "period": "month",
        "since_us": NOW_US,
        "scope": "subject",
        "plan": "default",
        "policy": "digest-of-the-policy",
        "key": key_of("k"),
        "account": "group",
    }
    assert threshold_event(rules, admission, reached, NOW_US + 9).id == event.id
    assert event.id.startswith("threshold-")
    others = (replace(reached, units=20), replace(reached, start_us=NOW_US + 1))
    stranger = admission_on(rules, request(key="l"))
    ids = {threshold_event(rules, admission, each, NOW_US).id for each in others}
    assert len(ids | {event.id, threshold_event(rules, stranger, reached, NOW_US).id}) == 4


def test_the_threshold_of_a_pool_is_one_whoever_reaches_it() -> None:
    """Two subjects of an account share its count, and so its thresholds."""
    warned = replace(cap(20), quota=Cap(20, Period.MONTH, warn=(16,)), scope=Scope.ACCOUNT)
    keys = {"k": KeyEntry("acme", account="group"), "l": KeyEntry("other", account="group")}
    rules = policy(warned, keys=keys)
    admissions = [admission_on(rules, request(key=key)) for key in "kl"]
    events = [threshold_event(rules, each, Reached(each.lines[0], 16, NOW_US), NOW_US) for each in admissions]
    assert events[0].id == events[1].id


def test_only_caps_that_bill_or_warn_are_listened_to() -> None:
    """Where settling has nothing to tell nobody waits for its answer."""
    warns = replace(cap(20), quota=Cap(20, Period.MONTH, warn=(16,)))
    found = [
        speaks(admission_on(policy(each), request(key="k")))
        for each in (cap(5), rate(5), slots(5), warns, billed(5))
    ]
    assert found == [False, False, False, True, True]


def test_a_part_says_whose_it_is() -> None:
    """The parts of a long exchange have the rid of the first in common, and a number each."""
    rules = policy(rate(9))
    admission = admission_on(rules, request(key="k"))
    data = usage_event(rules, admission._replace(rid=OTHER, first=RID, part=2), "GET", RECEIPT).data
    assert (data["exchange"], data["part"]) == (RID, 2)
    assert "part" not in usage_event(rules, admission, "GET", RECEIPT).data


def test_a_charge_is_booked_under_its_own_line() -> None:
    """Nothing reported is nothing used, whatever was estimated."""
    rules = policy(replace(cap(99, meter=TOKENS), reserve=50))
    admission = admission_on(rules, request(key="k"))
    assert admission.granted == (50,)
    settled = settlement(rules, admission, RECEIPT._replace(reported={}))
    assert settled is not None
    assert [each.actual for each in settled.bookings] == [0]
