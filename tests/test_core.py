"""The conversation, held by hand: what it asks, what it makes of the answers, and what it says in the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter_mw.core import (
    Admission,
    Answer,
    Resolve,
    ResolverUnavailable,
    admit,
    amendment,
    settlement,
    usage_event,
    used,
)
from meter_mw.model import LARGEST_COST, UNMATCHED, Count, Meter, Receipt, RequestId
from meter_mw.periods import Period
from meter_mw.policy.identity import QueryKey, anonymous_subject
from meter_mw.policy.policy import Failure, KeyEntry, Limit, Mode, Plan, Route, Unknown
from meter_mw.quota import AT_REST, Cap, Rate, Span
from meter_mw.stores.memory import MemoryStore
from meter_mw.stores.port import Admit, Booking, Outcome, Reading, Settle, StoreUnavailable, Tally, Verdict
from support.policies import (
    DAY_US,
    EGRESS,
    INGRESS,
    METERS,
    REQUESTS,
    SECOND_US,
    SECRET,
    TOKENS,
    cap,
    held,
    key_of,
    policy,
    preflight,
    rate,
    request,
    route,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from meter_mw.core import Conversation
    from meter_mw.model import Request
    from meter_mw.policy.policy import Policy
    from meter_mw.testing.stores import Clock

NOW_US = 1_767_225_600 * SECOND_US  # 1 January 2026, 00:00 UTC
RID = RequestId("01900000-0000-7000-8000-000000000001")
RECEIPT = Receipt(
    request_bytes=700, response_bytes=9_000, reported={"tokens": 812}, status=200, duration_us=15
)


def ended(talk: Generator[object, object, Admission], reply: object = None) -> Admission:
    """Send the last reply, and give what the conversation returns."""
    with pytest.raises(StopIteration) as end:
        talk.send(reply)
    admission = end.value.value
    assert isinstance(admission, Admission)
    return admission


def begun(policy: Policy, asked: Request, now_us: int = NOW_US) -> tuple[Conversation[Admission], Admit]:
    """Begin a conversation that first asks the store."""
    talk = admit(policy, asked, RID, now_us)
    command = next(talk)
    assert isinstance(command, Admit)
    return talk, command


def resolving(policy: Policy, asked: Request) -> tuple[Conversation[Admission], Resolve]:
    """Begin a conversation that first asks the resolver."""
    talk = admit(policy, asked, RID, NOW_US)
    command = next(talk)
    assert isinstance(command, Resolve)
    return talk, command


def failed(talk: Conversation[Admission], outage: Exception) -> Admission:
    """Throw an outage in, and give what the conversation returns."""
    with pytest.raises(StopIteration) as end:
        talk.throw(outage)
    admission = end.value.value
    assert isinstance(admission, Admission)
    return admission


def undisturbed(policy: Policy, asked: Request) -> Admission:
    """Hold a conversation that asks nobody anything."""
    return ended(admit(policy, asked, RID, NOW_US))


def admitted(command: Admit, now_us: int = NOW_US) -> Tally:
    """Answer as a store at rest would that has room for everything."""
    readings = [
        Reading(
            Span(now_us, 0) if isinstance(each.quota, Rate) else Span((each.windows or (0, 0))[1], each.take)
        )
        for each in command.charges
    ]
    return Tally(Verdict.ADMITTED, now_us, tuple(readings))


# What is asked of the store


def test_a_request_is_one_command() -> None:
    """All limits of plan and route are asked in one command, with the rid and the fence."""
    limited = route("/v1/files", rate(2, burst=4, name="files", route="/v1/files"), costs={"requests": 5})
    rules = policy(rate(10, burst=20), cap(1_000), routes=[limited], deadline_us=250_000)
    talk, command = begun(rules, request("/v1/files", key="k"))
    assert command.rid == RID
    assert command.not_after_us == NOW_US + 10 * 250_000
    assert [charge.id for charge in command.charges] == [
        limit.id for limit in (*rules.plans["default"].limits, *limited.limits)
    ]
    assert [(charge.need, charge.take) for charge in command.charges] == [(5, 5)] * 3
    admission = ended(talk, admitted(command))
    assert (admission.answer, admission.route, admission.rid) == (Answer.ALLOWED, limited, RID)


def test_bytes_and_reports_need_one_and_take_none() -> None:
    """What only the end will tell needs room for one unit, and is charged when it is known."""
    limits = [rate(10, meter=meter, name=meter.name) for meter in METERS]
    _, command = begun(policy(*limits), request(key="k"))
    assert [(charge.need, charge.take) for charge in command.charges] == [(1, 1), (1, 0), (1, 0), (1, 0)]


def test_a_cap_comes_with_the_windows_of_its_caller() -> None:
    """The boundaries are those of the caller's zone and anchor; a rate has none."""
    keys = {"k": KeyEntry("acme", anchor=date(2025, 1, 31), timezone="Europe/Paris")}
    _, command = begun(policy(cap(10), rate(1), keys=keys), request(key="k"))
    windows = tuple(each * SECOND_US for each in (1_764_457_200, 1_767_135_600, 1_769_814_000, 1_772_233_200))
    assert [charge.windows for charge in command.charges] == [windows, None]


def test_the_tag_is_of_the_subject() -> None:
    """Two keys of one subject meet in the store; two subjects never do."""
    keys = {"a": KeyEntry("acme"), "b": KeyEntry("acme"), "c": KeyEntry("other")}
    rules = policy(rate(1), keys=keys)
    tags = [begun(rules, request(key=key))[1].tag for key in "abc"]
    assert tags[0] == tags[1] != tags[2]


def test_nothing_to_limit_asks_nobody() -> None:
    """A plan without limits is served without the store, and counted."""
    admission = undisturbed(policy(), request(key="k"))
    assert (admission.answer, admission.serves) == (Answer.ALLOWED, True)
    assert admission.caller is not None
    assert settlement(admission, RECEIPT) is None


# Each answer


def test_exempt_routes_ask_nobody() -> None:
    """An exempt route is served before the caller is looked at, and is not counted."""
    rules = policy(rate(1), routes=[route("/health", exempt=True)], anonymous=None)
    admission = undisturbed(rules, request("/health"))
    assert (admission.answer, admission.serves, admission.caller) == (Answer.EXEMPT, True, None)


def test_an_odd_path_is_refused() -> None:
    """A path that could mean two routes is refused before anything is asked."""
    admission = undisturbed(policy(rate(1)), request("/v1/\nitems", key="k"))
    assert (admission.answer, admission.serves) == (Answer.ODD_PATH, False)
    assert "U+000A" in admission.reason


def test_an_odd_path_of_shadow_mode_is_counted() -> None:
    """Shadow mode refuses nobody: an odd path is metered as one that matches no route."""
    rules = policy(rate(1), mode=Mode.SHADOW)
    _, command = begun(rules, request("/v1/\nitems", key="k"))
    assert len(command.charges) == 1


def test_an_ambiguous_key_is_refused() -> None:
    """Two values of the key's field are nobody's key."""
    admission = undisturbed(policy(rate(1)), request(x_api_key=("a", "b")))
    assert (admission.answer, admission.serves) == (Answer.AMBIGUOUS, False)
    assert "x-api-key" in admission.reason


def test_no_key_where_one_is_needed() -> None:
    """Without a key, and without a rule for that, a request is not identified."""
    admission = undisturbed(policy(rate(1), anonymous=None), request())
    assert (admission.answer, admission.reason) == (Answer.UNIDENTIFIED, "this API needs a key")


def test_no_key_is_metered_by_address() -> None:
    """Without a key the client's address is the subject, on the plan for such requests."""
    public = Plan("public", (rate(1, name="public"),))
    rules = policy(plans=[public], anonymous="public", trusted_proxies=["10.0.0.0/8"])
    asked = request(peer="10.0.0.1", x_forwarded_for=("6.6.6.6, 198.51.100.7",))
    talk, command = begun(rules, asked)
    caller = ended(talk, admitted(command)).caller
    assert caller is not None
    assert caller.subject == anonymous_subject(SECRET, "198.51.100.7")
    assert (caller.plan, caller.key) == (public, None)


def test_an_unknown_address_has_one_subject() -> None:
    """Behind a Unix socket that nobody vouches for, all share one subject rather than none."""
    admission = undisturbed(policy(), request(peer=None))
    assert admission.caller is not None
    assert admission.caller.subject == anonymous_subject(SECRET, "unknown")


def test_a_listed_key_is_its_subject() -> None:
    """A listed key brings its subject, plan, account and pseudonym."""
    pro = Plan("pro")
    keys = {"k": KeyEntry("acme", "pro", "acme-group", date(2026, 1, 31), "Europe/Paris")}
    caller = undisturbed(policy(plans=[pro], keys=keys), request(key="k")).caller
    assert caller is not None
    assert (caller.subject, caller.plan, caller.account) == ("acme", pro, "acme-group")
    assert (caller.key, caller.anchor, caller.timezone) == (key_of("k"), date(2026, 1, 31), "Europe/Paris")


def test_an_unknown_key_is_its_own_subject() -> None:
    """Where unknown keys are accepted each is a subject of its own, on plan `default`."""
    caller = undisturbed(policy(), request(key="k")).caller
    assert caller is not None
    assert (caller.subject, caller.key, caller.plan.name) == (key_of("k"), key_of("k"), "default")


def test_an_unknown_key_can_be_refused() -> None:
    """Where unknown keys are refused the answer says that the key is not known, and not which it was."""
    admission = undisturbed(policy(rate(1), unknown=Unknown.REJECT), request(key="canary"))
    assert (admission.answer, admission.reason) == (Answer.UNIDENTIFIED, "the key is not known")


# The resolver


def test_the_resolver_is_asked_about_unlisted_keys() -> None:
    """It is asked with the key and its pseudonym, and its entry says who calls and on what terms."""
    pro = Plan("pro", (rate(5),))
    rules = policy(plans=[pro], resolver=lambda key: None)
    talk, command = resolving(rules, request(key="k"))
    assert (command.key, command.credential.reveal()) == (key_of("k"), "k")
    asked = talk.send(KeyEntry("acme", "pro"))
    assert isinstance(asked, Admit)
    caller = ended(talk, admitted(asked)).caller
    assert caller is not None
    assert (caller.subject, caller.plan, caller.key) == ("acme", pro, key_of("k"))


def test_the_resolver_is_not_asked_about_listed_keys() -> None:
    """The policy's own list comes first."""
    rules = policy(keys={"k": KeyEntry("acme")}, resolver=lambda key: None)
    caller = undisturbed(rules, request(key="k")).caller
    assert caller is not None
    assert caller.subject == "acme"


def test_a_key_that_the_resolver_does_not_know() -> None:
    """`None` leaves the key to the rule for unknown ones."""
    talk, _ = resolving(policy(resolver=lambda key: None), request(key="k"))
    accepted = ended(talk, None)
    assert accepted.caller is not None
    assert accepted.caller.subject == key_of("k")
    talk, _ = resolving(policy(resolver=lambda key: None, unknown=Unknown.REJECT), request(key="k"))
    assert ended(talk, None).answer is Answer.UNIDENTIFIED


def test_an_outage_of_the_resolver_refuses() -> None:
    """Who a key belongs to is never guessed: without an answer the request is put off."""
    talk, _ = resolving(policy(rate(1), resolver=lambda key: None), request(key="k"))
    admission = failed(talk, ResolverUnavailable("the key cannot be checked at the moment"))
    assert (admission.answer, admission.serves) == (Answer.UNAVAILABLE, False)
    assert (admission.reason, admission.caller) == ("the key cannot be checked at the moment", None)


# The store's answers


def test_the_standings_are_what_is_left() -> None:
    """Remaining and reset are told for every limit, as of after the charge."""
    rules = policy(rate(10, burst=5), cap(100, Period.DAY))
    talk, command = begun(rules, request(key="k"))
    midnight = NOW_US
    tally = Tally(
        Verdict.ADMITTED, NOW_US + 7, (Reading(Span(NOW_US + 200_007, 0)), Reading(Span(midnight, 41)))
    )
    admission = ended(talk, tally)
    assert [(each.remaining, each.reset_us, each.wait_us) for each in admission.standings] == [
        (3, 200_000, 0),
        (59, DAY_US - 7, 0),
    ]
    assert (admission.now_us, admission.windows) == (NOW_US + 7, (0, midnight))
    assert admission.denied_by == ()
    assert admission.retry_after_us is None
    assert command.charges == admission.charges


def test_a_denial_names_what_had_no_room() -> None:
    """Only limits without room deny; the wait is the longest of theirs."""
    rules = policy(
        rate(10, burst=5),
        cap(100, Period.DAY),
        rate(1, burst=9, name="slow"),
        cap(50, Period.HOUR, name="hour"),
    )
    talk, _ = begun(rules, request(key="k"))
    tally = Tally(
        Verdict.DENIED,
        NOW_US,
        (
            Reading(Span(NOW_US + 500_000, 0), fits=False),
            Reading(Span(NOW_US, 3)),
            Reading(Span(NOW_US, 0)),
            Reading(Span(NOW_US, 50), fits=False),
        ),
    )
    admission = ended(talk, tally)
    assert (admission.answer, admission.serves) == (Answer.DENIED, False)
    assert [each.line.limit.name for each in admission.denied_by] == ["rate", "hour"]
    assert [each.wait_us for each in admission.standings] == [100_000, 0, 0, 3_600 * SECOND_US]
    assert [each.remaining for each in admission.standings] == [0, 97, 9, 0]
    assert admission.retry_after_us == 3_600 * SECOND_US
    assert settlement(admission, RECEIPT) is None


@pytest.mark.parametrize("limit", [rate(1, burst=4), cap(4, Period.DAY)])
def test_never_has_no_wait(limit: Limit) -> None:
    """A cost above the burst or the cap itself is not to be retried, whatever the other limits say."""
    rules = policy(limit, rate(1, burst=9, name="slow"), routes=[route("/x", costs={"requests": 5})])
    talk, _ = begun(rules, request("/x", key="k"))
    state = AT_REST if isinstance(limit.quota, Rate) else Span(NOW_US, 0)
    slow = Reading(Span(NOW_US + 9 * SECOND_US, 0), fits=False)
    admission = ended(talk, Tally(Verdict.DENIED, NOW_US, (Reading(state, fits=False), slow)))
    assert [each.wait_us for each in admission.denied_by] == [None, 5 * SECOND_US]
    assert admission.retry_after_us is None


@pytest.mark.parametrize("verdict", [Verdict.LATE, Verdict.REFRESH])
def test_a_clock_that_was_guessed_wrong_is_corrected(verdict: Verdict) -> None:
    """The store is asked again, with the fence and the windows around the time that it told."""
    talk, first = begun(policy(cap(5, Period.DAY)), request(key="k"))
    later_us = NOW_US + 3 * DAY_US + 5
    second = talk.send(Tally(verdict, later_us))
    assert isinstance(second, Admit)
    assert second.rid == first.rid
    assert second.not_after_us == later_us + 10 * 100_000
    assert second.charges[0].windows is not None
    assert second.charges[0].windows[1] == NOW_US + 3 * DAY_US
    admission = ended(talk, admitted(second, later_us))
    assert (admission.answer, admission.now_us) == (Answer.ALLOWED, later_us)
    assert admission.windows == (NOW_US + 3 * DAY_US,)


@pytest.mark.parametrize("verdict", [Verdict.LATE, Verdict.REFRESH])
def test_a_store_whose_clock_runs_away_is_left(verdict: Verdict) -> None:
    """After three rounds the store counts as away; the time that it told last is the best there is."""
    talk, _ = begun(policy(cap(5, Period.DAY, on=Failure.OPEN)), request(key="k"))
    talk.send(Tally(verdict, NOW_US + DAY_US))
    talk.send(Tally(verdict, NOW_US + 5 * DAY_US))
    admission = ended(talk, Tally(verdict, NOW_US + 9 * DAY_US))
    assert (admission.answer, admission.standings) == (Answer.ALLOWED, ())
    assert admission.now_us == NOW_US + 9 * DAY_US
    assert admission.windows == (NOW_US + 9 * DAY_US,)


def test_an_outage_after_a_correction_keeps_the_corrected_time() -> None:
    """What is served then is booked in the window of the store's time, not of the wrong guess."""
    talk, _ = begun(policy(cap(5, Period.HOUR, on=Failure.OPEN)), request(key="k"))
    talk.send(Tally(Verdict.REFRESH, NOW_US + 9 * DAY_US))
    admission = failed(talk, StoreUnavailable("gone"))
    assert (admission.now_us, admission.windows) == (NOW_US + 9 * DAY_US, (NOW_US + 9 * DAY_US,))
    settled = settlement(admission, RECEIPT)
    assert settled is not None
    assert [each.window_us for each in settled.bookings] == [NOW_US + 9 * DAY_US]


def test_a_void_admission_is_an_outage() -> None:
    """A rid that was cancelled is not asked about again: the limits say what happens."""
    talk, _ = begun(policy(rate(1), cap(1)), request(key="k"))
    assert ended(talk, Tally(Verdict.VOID, NOW_US)).answer is Answer.UNAVAILABLE
    talk, _ = begun(policy(rate(1)), request(key="k"))
    assert ended(talk, Tally(Verdict.VOID, NOW_US)).answer is Answer.ALLOWED


# The store is away


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ((Failure.OPEN, Failure.OPEN), Answer.ALLOWED),
        ((Failure.OPEN, Failure.CLOSED), Answer.UNAVAILABLE),
        ((Failure.CLOSED, Failure.OPEN), Answer.UNAVAILABLE),
        ((Failure.CLOSED, Failure.CLOSED), Answer.UNAVAILABLE),
    ],
)
def test_each_limit_says_what_an_outage_means(failures: tuple[Failure, Failure], expected: Answer) -> None:
    """A request is served without the store only where every limit of it is open."""
    rules = policy(rate(1, on=failures[0]), cap(1, on=failures[1]))
    talk, command = begun(rules, request(key="k"))
    admission = failed(talk, StoreUnavailable("gone"))
    assert admission.answer is expected
    assert (admission.standings, admission.denied_by, admission.charges) == ((), (), command.charges)
    assert "cannot be checked" in admission.reason


def test_what_was_served_without_the_store_is_booked() -> None:
    """The whole of it, in the window that was current: a rate has none."""
    rules = policy(rate(5), cap(5, on=Failure.OPEN), rate(9, meter=EGRESS, name="egress"))
    talk, command = begun(rules, request(key="k"))
    settled = settlement(failed(talk, StoreUnavailable("gone")), RECEIPT)
    assert settled == Settle(
        RID,
        command.tag,
        (
            Booking(command.charges[0], 1, 0),
            Booking(command.charges[1], 1, NOW_US),
            Booking(command.charges[2], 9_000, 0),
        ),
    )


# Shadow mode


def test_shadow_mode_serves_what_it_would_deny() -> None:
    """It says what it would have done in the event, and books nothing, as nothing was charged."""
    rules = policy(rate(1), cap(5, meter=TOKENS), mode=Mode.SHADOW)
    talk, _ = begun(rules, request(key="k"))
    readings = (Reading(Span(NOW_US + SECOND_US, 0), fits=False), Reading(Span(NOW_US, 3)))
    admission = ended(talk, Tally(Verdict.DENIED, NOW_US, readings))
    assert (admission.answer, admission.serves) == (Answer.ALLOWED, True)
    assert settlement(admission, RECEIPT) is None
    data = usage_event(rules, admission, "GET", RECEIPT).data
    assert (data["limited_by"], data["shadow"]) == (["rate"], True)
    _, late = amendment(rules, admission, RequestId("other"), NOW_US, {"tokens": 5})
    assert late is None


def test_shadow_mode_serves_without_the_store() -> None:
    """A closed limit closes nothing there; what is served is booked when the store is back."""
    talk, _ = begun(policy(cap(1), mode=Mode.SHADOW), request(key="k"))
    admission = failed(talk, StoreUnavailable("gone"))
    assert admission.answer is Answer.ALLOWED
    assert settlement(admission, RECEIPT) is not None


@pytest.mark.parametrize("asked", [request(), request(x_api_key=("a", "b")), request(key="unknown")])
def test_shadow_mode_serves_who_is_not_identified(asked: Request) -> None:
    """A request that would be refused for its key is metered as an anonymous one."""
    rules = policy(rate(1), anonymous=None, unknown=Unknown.REJECT, mode=Mode.SHADOW)
    talk, command = begun(rules, asked)
    admission = ended(talk, admitted(command))
    assert admission.caller is not None
    assert (admission.answer, admission.caller.subject) == (Answer.ALLOWED, "anon_nobody")
    assert admission.caller.key is None


# Preflights


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("plan", [None, "default"])
def test_preflights_are_never_refused(mode: Mode, plan: str | None) -> None:
    """A CORS preflight asks no store and needs no key, and is recorded as costing nothing."""
    rules = policy(cap(0), anonymous=plan, unknown=Unknown.REJECT, mode=mode)
    admission = undisturbed(rules, preflight())
    assert (admission.answer, admission.charges) == (Answer.ALLOWED, ())
    assert settlement(admission, RECEIPT) is None
    assert usage_event(rules, admission, "OPTIONS", RECEIPT).data["requests"] == 0


def test_a_key_in_the_query_of_a_preflight_is_that_of_the_request_to_come() -> None:
    """Browsers send the URL with a preflight, query and all: it is refused and charged no more for that."""
    rules = policy(cap(0), anonymous=None, unknown=Unknown.REJECT, places=(QueryKey("api_key"),))
    admission = undisturbed(rules, replace(preflight(), query="api_key=k"))
    assert (admission.answer, admission.charges) == (Answer.ALLOWED, ())


def test_a_request_with_a_key_is_no_preflight() -> None:
    """Browsers send no key with a preflight; one that has a key is metered like any other."""
    rules = policy(cap(0), anonymous=None, unknown=Unknown.REJECT)
    assert undisturbed(rules, preflight(x_api_key="unknown")).answer is Answer.UNIDENTIFIED
    _, command = begun(policy(cap(0)), preflight(x_api_key="k"))
    assert [each.need for each in command.charges] == [1]


def test_other_options_are_ordinary_requests() -> None:
    """OPTIONS without an origin and the asked method is limited like any request."""
    _, command = begun(policy(rate(1)), request(method="OPTIONS", origin="https://app.example"))
    assert len(command.charges) == 1


# The end of an exchange


def admission_on(rules: Policy, asked: Request) -> Admission:
    """Give an admission by a store with room for everything."""
    talk, command = begun(rules, asked)
    return ended(talk, admitted(command))


def test_the_settlement_tells_the_truth() -> None:
    """Requests are booked as charged, bytes and reports as they turned out, each in its window."""
    limits = [rate(10, meter=meter, name=meter.name) for meter in METERS]
    rules = policy(*limits, cap(10**6, meter=EGRESS), routes=[route("/x", costs={"requests": 3})])
    admission = admission_on(rules, request("/x", key="k"))
    assert admission.caller is not None
    settled = settlement(admission, RECEIPT)
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


def test_a_request_that_outlives_its_rid_counts_once(clock: Clock) -> None:
    """A stream of an hour is known to no store any more: its request is not booked again, its bytes are."""
    rules = policy(cap(100), cap(10**6, meter=EGRESS))
    store = MemoryStore(clock)
    talk = admit(rules, request(key="k"), RID, clock())
    command = next(talk)
    assert isinstance(command, Admit)
    admission = ended(talk, store.admit(command))
    clock.move(3_600 * SECOND_US)
    settled = settlement(admission, replace(RECEIPT, duration_us=3_600 * SECOND_US))
    assert settled is not None
    assert store.settle([settled]) == (Outcome.RECOVERED,)
    readings = store.peek(command.tag, command.charges).readings
    assert [each.state.part for each in readings] == [1, RECEIPT.response_bytes]


def test_a_request_that_no_store_saw_is_booked_in_full_however_long_it_took() -> None:
    """Served while the store was away, an hour long: the booking is of all of it."""
    open_cap = cap(100, on=Failure.OPEN)
    talk, _ = begun(policy(open_cap), request(key="k"))
    admission = failed(talk, StoreUnavailable("gone"))
    settled = settlement(admission, replace(RECEIPT, duration_us=3_600 * SECOND_US))
    assert settled is not None
    assert [(each.charge.take, each.actual) for each in settled.bookings] == [(1, 1)]


def test_nothing_reported_is_none_used() -> None:
    """A reported meter that the app said nothing of is booked as 0."""
    admission = admission_on(policy(rate(9, meter=TOKENS)), request(key="k"))
    assert used(admission.lines[0], replace(RECEIPT, reported={})) == 0


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
    data = usage_event(rules, admission_on(rules, request()), "GET", replace(RECEIPT, reported={})).data
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
    bookings = (Booking(admission.charges[0], 40, 0), Booking(admission.charges[1], 40, NOW_US))
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
    rules = policy(rate(1), routes=[route("/health", exempt=True)])
    admission = undisturbed(rules, request("/health"))
    assert settlement(admission, RECEIPT) is None
    with pytest.raises(ValueError, match="without a caller"):
        usage_event(rules, admission, "GET", RECEIPT)
    with pytest.raises(ValueError, match="without a caller"):
        amendment(rules, admission, RID, NOW_US, {"tokens": 1})


# With a store: what is promised is kept


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    """Give a store on a clock that only the test moves."""
    return MemoryStore(clock)


KINDS: dict[str, Callable[[], Limit]] = {
    "rate": lambda: rate(3, burst=4),
    "slow rate": lambda: rate(7, period_us=60 * SECOND_US, burst=3),
    **{f"cap/{period.word}": lambda period=period: cap(4, period) for period in Period},
}


def seconds_of(wait_us: int | None) -> int:
    """Give the whole seconds that a client is told, as `Retry-After` has no parts of one."""
    assert wait_us is not None
    return -(-wait_us // SECOND_US)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cost", [1, 3])
def test_a_retry_after_the_wait_is_admitted(kind: str, cost: int, clock: Clock, store: MemoryStore) -> None:
    """Sleep exactly what was said, retry, and be admitted; a microsecond earlier is too early."""
    rules = policy(KINDS[kind](), routes=[route("/x", costs={"requests": cost})])
    asked = request("/x", key="k")
    clock.move(1_234_567)
    for _ in range(3):
        while (admission := held(rules, asked, store)).serves:
            pass
        wait_us = admission.retry_after_us
        assert wait_us is not None
        clock.move(wait_us - 1)
        assert not held(rules, asked, store).serves
        clock.move(1)
        assert held(rules, asked, store).serves


@pytest.mark.parametrize("meter", [INGRESS, EGRESS, TOKENS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_retry_after_a_debt_is_admitted(kind: str, meter: Meter, clock: Clock, store: MemoryStore) -> None:
    """What was booked beyond a limit is waited for, and then the next request fits."""
    limit = replace(KINDS[kind](), meter=meter)
    rules, asked = policy(limit), request(key="k")
    first = held(rules, asked, store)
    assert first.serves
    settled = settlement(first, Receipt(50, 50, {"tokens": 50}, 200, 1))
    assert settled is not None
    assert store.settle([settled]) == (Outcome.APPLIED,)
    denied = held(rules, asked, store)
    assert denied.answer is Answer.DENIED
    clock.move(seconds_of(denied.retry_after_us) * SECOND_US)
    assert held(rules, asked, store).serves


@settings(max_examples=60)
@given(data=st.data())
def test_a_retry_after_many_limits_is_admitted(data: st.DataObject) -> None:
    """Whatever mix of limits denied, after the longest of their waits all of them have room."""
    names = [f"limit-{number}" for number in range(data.draw(st.integers(1, 5)))]
    limits = [
        replace(
            KINDS[data.draw(st.sampled_from([kind for kind in KINDS if "year" not in kind]))](), name=name
        )
        for name in names
    ]
    rules, asked = policy(*limits), request(key="k")
    now_us = [NOW_US]
    store = MemoryStore(lambda: now_us[0])
    for gap_us in data.draw(st.lists(st.integers(0, 3 * SECOND_US), min_size=1, max_size=12)):
        now_us[0] += gap_us
        admission = held(rules, asked, store)
        if not admission.serves:
            wait_us = admission.retry_after_us
            assert wait_us is not None
            now_us[0] += wait_us - 1
            assert not held(rules, asked, store).serves
            now_us[0] += 1
            assert held(rules, asked, store).serves


def test_a_denial_changes_nothing(clock: Clock, store: MemoryStore) -> None:
    """A request that one limit denies is charged to none of the others."""
    rules = policy(rate(1, burst=2), cap(10))
    asked = request(key="k")
    assert [held(rules, asked, store).serves for _ in range(6)] == [True, True] + [False] * 4
    assert [each.remaining for each in held(rules, asked, store).standings] == [0, 8]


def test_shadow_mode_charges_only_what_it_would_have_served(clock: Clock, store: MemoryStore) -> None:
    """Its count stands where it would if it had refused."""
    rules = policy(rate(1, burst=2), cap(10), mode=Mode.SHADOW)
    asked = request(key="k")
    admissions = [held(rules, asked, store) for _ in range(6)]
    for admission in admissions:
        settled = settlement(admission, RECEIPT)
        assert (settled is None) is bool(admission.denied_by)
        if settled is not None:
            store.settle([settled])
    assert [bool(each.denied_by) for each in admissions] == [False, False] + [True] * 4
    assert [each.remaining for each in held(rules, asked, store).standings] == [0, 8]


def test_two_subjects_never_share_a_limit(clock: Clock, store: MemoryStore) -> None:
    """What one has used up the other still has."""
    rules = policy(cap(1))
    assert held(rules, request(key="a"), store).serves
    assert not held(rules, request(key="a"), store).serves
    assert held(rules, request(key="b"), store).serves


def test_the_largest_cost_is_held() -> None:
    """A route may cost 2^52; the store counts it exactly."""
    limit = Limit("cap", REQUESTS, Cap(LARGEST_COST, Period.DAY), Failure.CLOSED)
    dear = Route("dear", route("/x").template, costs=(("requests", LARGEST_COST),))
    rules = policy(limit, routes=[dear, route("/y")])
    store = MemoryStore(lambda: NOW_US)
    assert held(rules, request("/x", key="k"), store).serves
    assert not held(rules, request("/y", key="k"), store).serves
